// A line of text on our nodes that says, after a run, what was computed and what was not, and what their user has to know.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { MESSAGES } from "./messages.js";
import { addNote, write } from "./note.js";
import { duration, inPageLanguage, words } from "./words.js";

/** What a run has to say in words (nodes/messages.py) comes first; its figures are then in the tooltip. */
function withMessages(run, figures) {
  const table = inPageLanguage(MESSAGES);
  const sentences = (run.messages ?? []).map((message) => table[message.code]?.(message)).filter(Boolean);
  if (!sentences.length) return figures;
  return { text: sentences.join(" "), tip: [...sentences, figures.text, figures.tip].filter(Boolean).join("\n"), urgent: true };
}

/** `run`: the node's own report, or null where ComfyUI kept a result of which this page has seen no report. */
function describeDecode(run) {
  return run ? withMessages(run, decodeFigures(run)) : { text: words().kept };
}

function decodeFigures(run) {
  if (run.hole_tokens === 0) return { text: words().empty };
  const parts = [words().tokens(run.hole_tokens, run.all_tokens), duration(run.total_ms)];
  if (run.saved_ms > 0) parts.push(words().saved(duration(run.saved_ms)));
  return { text: parts.join(" · "), tip: (run.saved_ms > 0 ? words().savedTip : words().stepTip) + duration(run.step_ms) };
}

function describeContext(run, kept) {
  return run ? withMessages(run, contextFigures(run, kept)) : { text: words().reused };
}

function contextFigures(run, kept) {
  if (run.hole_tokens === 0) return { text: words().emptyContext };
  const tokens = words().tokens(run.hole_tokens, run.all_tokens);
  const text = run.encoder_ran && !kept ? words().ran(duration(run.encode_ms), tokens) : `${words().reused} · ${tokens}`;
  return { text, tip: words().contextTip + run.encoder_runs };
}

function describeSaved(run) {
  return run ? { text: words().stored(run.file, (run.bytes / 2 ** 20).toFixed(1)) } : { text: words().kept };
}

function describeLoaded(run) {
  return run ? { text: words().tokens(run.hole_tokens, run.all_tokens) } : { text: words().kept };
}

function describeBatch(run) {
  return run ? withMessages(run, { text: words().edits(run.edits) }) : { text: words().kept };
}

function describeDecodeBatch(run) {
  const figures = () => [words().edits(run.edits), words().calls(run.calls), duration(run.total_ms)].join(" · ");
  return run ? withMessages(run, { text: figures() }) : { text: words().kept };
}

const DESCRIBE = {
  LazyDecode: describeDecode,
  LazyEncodeContext: describeContext,
  LazySaveContext: describeSaved,
  LazyLoadContext: describeLoaded,
  LazyBatchEdits: describeBatch,
  LazyDecodeBatch: describeDecodeBatch,
};
const NEVER_RUN = [2, 4]; // modes of a node: muted, bypassed

/** `kept`: ComfyUI's graph cache kept the node's result, so that even our own cache was not asked. */
function show(node, run, kept = false) {
  node.lazydiffusion = { run, kept, shown: true };
  write(node, DESCRIBE[node.comfyClass](run, kept));
}

/** The node's last report is not of the run that began; it may still be kept from then. */
function clear(node) {
  if (node.lazydiffusion) node.lazydiffusion.shown = false;
  write(node, { text: "" });
}

function refresh(node) {
  if (node.lazydiffusion?.shown) show(node, node.lazydiffusion.run, node.lazydiffusion.kept);
}

/** All of our nodes that carry a line, those inside subgraphs too. */
function* noted(graph = /** @type {any} */ (app.graph)) {
  for (const node of graph?.nodes ?? []) {
    if (node.comfyClass in DESCRIBE) yield node;
    if (node.subgraph) yield* noted(node.subgraph);
  }
}

/** Node of an execution id: "7", or "3:7" inside the subgraph node 3. */
function nodeOfExecution(id) {
  let graph = /** @type {any} */ (app.graph);
  let node;
  for (const part of String(id).split(":")) {
    node = graph?.getNodeById(Number(part));
    graph = node?.subgraph;
  }
  return node;
}

/** Node of a key of `app.nodeOutputs`: "7", or "<subgraph id>:7". */
function nodeOfLocator(locator) {
  const [id, subgraph] = String(locator).split(":").reverse();
  return (subgraph ? app.graph.subgraphs?.get(subgraph) : app.graph)?.getNodeById(Number(id));
}

/** The running prompt begins: these nodes will not run. A kept node may still send its old report afterwards. */
let keptNodes = new Set();

function onCached({ detail }) {
  keptNodes = new Set((detail?.nodes ?? []).map(nodeOfExecution).filter((node) => node?.comfyClass in DESCRIBE));
  for (const node of keptNodes) show(node, node.lazydiffusion?.run ?? null, true);
}

app.registerExtension({
  name: "lazydiffusion.notes",

  setup() {
    // In this order: what is not answered from the cache and does not run says nothing.
    api.addEventListener("execution_start", () => [...noted()].forEach(clear));
    api.addEventListener("execution_cached", onCached);
    app.ui.settings.addEventListener("Comfy.Locale.change", () => {
      // The setting itself changes after its event.
      requestAnimationFrame(() => [...noted()].forEach(refresh));
    });
  },

  nodeCreated(/** @type {any} */ node) {
    if (!(node.comfyClass in DESCRIBE) || !node.addDOMWidget) return;
    addNote(node);
    const { onExecuted } = node;
    node.onExecuted = function (output, ...more) {
      onExecuted?.call(this, output, ...more);
      const run = output?.lazydiffusion?.[0];
      if (run) show(this, run, keptNodes.has(this));
    };
  },

  // Another tab was opened, or an old run loaded from the history: its nodes are new, its outputs are given back.
  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs ?? {})) {
      const node = output?.lazydiffusion && nodeOfLocator(locator);
      if (!(node?.comfyClass in DESCRIBE) || NEVER_RUN.includes(node.mode)) continue;
      show(node, output.lazydiffusion[0], keptNodes.has(node));
    }
  },
});
