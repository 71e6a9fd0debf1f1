// The page's own objects, and the few things that a canvas asks of them. Everything that differs between front ends is here.

export class Host {
  /** @param {any} app @param {any} api */
  constructor(app, api) {
    this.app = app;
    this.api = api;
  }

  get locale() {
    return this.app.extensionManager?.setting?.get("Comfy.Locale") ?? "en";
  }

  /** Whether a node object is the one that the page shows now. */
  isLive(/** @type {any} */ node) {
    return node.graph?.getNodeById(node.id) === node && this.graphs().includes(node.graph);
  }

  /** The open workflow's graph and its subgraphs. @returns {any[]} */
  graphs() {
    const root = this.app.rootGraph ?? this.app.graph?.rootGraph ?? this.app.graph;
    return root ? [root, ...(root.subgraphs?.values() ?? [])] : [];
  }

  /** Values of widgets by name. */
  read(/** @type {any} */ node, /** @type {string[]} */ names) {
    const entries = names.map((name) => [name, node.widgets.find((/** @type {any} */ one) => one.name === name)?.value]);
    return /** @type {any} */ (Object.fromEntries(entries));
  }

  write(/** @type {any} */ node, /** @type {Record<string, any>} */ values) {
    for (const [name, value] of Object.entries(values)) {
      const widget = node.widgets.find((/** @type {any} */ one) => one.name === name);
      if (widget && widget.value !== value) widget.value = value;
    }
  }

  /** Let the page keep the workflow as it is now: for its undo, its drafts, its mark of unsaved changes. */
  noteChange() {
    const tracker = this.app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
    if (tracker?.captureCanvasState) tracker.captureCanvasState();
    else tracker?.checkState?.();
    this.app.graph?.setDirtyCanvas?.(true, true);
  }

  /** Node of an execution id: "7", or "3:7" inside the subgraph node 3. */
  nodeOf(/** @type {string} */ id) {
    let graph = this.graphs()[0];
    let node;
    for (const part of String(id).split(":")) {
      node = graph?.getNodeById(Number(part)) ?? graph?.getNodeById(part);
      graph = node?.subgraph;
    }
    return node;
  }

  /** The workflow as the page would queue it. @returns {Promise<{ output: import("./graph.js").Prompt, workflow: any }>} */
  prompt() {
    return this.app.graphToPrompt();
  }

  /** The execution id of a node in a prompt; the first one where a subgraph is used several times. */
  executionId(/** @type {any} */ node, /** @type {import("./graph.js").Prompt} */ prompt) {
    const inner = node.graph !== this.graphs()[0];
    const ids = Object.keys(prompt).filter((id) => (inner ? id.endsWith(`:${node.id}`) : id === String(node.id)));
    return ids.find((id) => prompt[id].class_type === node.comfyClass && (!inner || this.nodeOf(id) === node));
  }
}
