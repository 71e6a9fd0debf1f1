// Lazy Canvas in the page: a panel for each canvas, kept by the canvas's id, while the nodes that show it come and go.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { Host } from "./canvas/host.js";
import { Panel } from "./canvas/panel.js";
import { pull } from "./canvas/controls.js";
import { listen, takePreview } from "./canvas/run.js";
import { WIDGETS } from "./canvas/session.js";
import { newId } from "./canvas/state.js";
import { addStyle } from "./canvas/style.js";
import { h } from "./canvas/dom.js";

const NAME = "lazydiffusion_canvas";
const MOST_PANELS = 12;
const SIZE = [760, 940];
const host = new Host(app, api);

/** Panels by the canvas's id, the one used last at the end. @type {Map<string, Panel>} */
const panels = new Map();

/** The panel for a node: that of its canvas; a new one with a new id where another live node has it (a copy). */
function panelOf(node) {
  const kept = node.properties.lazydiffusion;
  let panel = panels.get(kept?.id);
  const owner = panel?.session.node;
  if (owner && owner !== node && host.isLive(owner)) {
    node.properties.lazydiffusion = { ...kept, id: newId(), results: [] };
    panel = undefined;
  }
  panel ??= new Panel(host);
  const id = node.properties.lazydiffusion?.id ?? panel.session.state.id;
  node.properties.lazydiffusion ??= { ...panel.session.state };
  panels.delete(id);
  panels.set(id, panel);
  for (const [old, unused] of panels) {
    if (panels.size <= MOST_PANELS) break;
    if (!unused.session.saver.pending && !host.isLive(unused.session.node ?? {})) panels.delete(old);
  }
  return panel;
}

/** Show a node's canvas in it. In Nodes 2.0 the page keeps an old element mounted after its undo: the one on the page is taken. */
function attach(node) {
  if (!host.isLive(node)) return;
  const panel = panelOf(node);
  const place = () => {
    const mounted = document.querySelector(`[data-node-id="${node.id}"] .lazy-canvas`);
    const home = mounted ?? node.lazyCanvas;
    if (panel.root.parentElement !== home) home.replaceChildren(panel.root);
    if (panel.session.view.fitted) panel.session.view.fit();
  };
  panel.session.attach(node);
  panel.root.dataset.canvas = panel.session.state.id;
  place();
  requestAnimationFrame(() => requestAnimationFrame(place));
  setTimeout(() => {
    if (!host.isLive(node)) return;
    place();
    pull(panel.session);
  }, 250);
}

function chain(object, name, after) {
  const before = object[name];
  object[name] = function (...given) {
    const answer = before?.apply(this, given);
    after.apply(this, given);
    return answer;
  };
}

function addCanvas(node) {
  for (const widget of node.widgets.filter((one) => WIDGETS.includes(one.name))) {
    widget.hidden = true;
    widget.options = { ...widget.options, hidden: true };
    widget.computeSize = () => [0, -4]; // 1.32.9 keeps room for hidden widgets otherwise
  }
  node.lazyCanvas = h("div", { class: "lazy-canvas widget-expands" });
  const options = { serialize: false, hideOnZoom: false, margin: 8, getMinHeight: () => 440 };
  const widget = node.addDOMWidget(NAME, NAME, node.lazyCanvas, options);
  widget.serialize = false;
  node.setSize([Math.max(node.size[0], SIZE[0]), Math.max(node.size[1], SIZE[1])]);
  let waiting = false;
  const soon = () => {
    if (waiting) return;
    waiting = true;
    queueMicrotask(() => {
      waiting = false;
      attach(node);
    });
  };
  chain(node, "onAdded", soon);
  chain(node, "onConfigure", soon);
  chain(node, "onConnectionsChange", () => panels.get(node.properties.lazydiffusion?.id)?.session.changed());
}

// Before the page's own listener, which would show the preview below Lazy Decode and make that node grow: it belongs in the hole.
api.addEventListener("b_preview_with_metadata", (event) => {
  if (takePreview(event.detail)) event.stopImmediatePropagation();
});

app.registerExtension({
  name: "lazydiffusion.canvas",

  setup() {
    addStyle();
    listen(host, (node) => panels.get(node?.properties?.lazydiffusion?.id)?.session);
  },

  nodeCreated(/** @type {any} */ node) {
    if (node.comfyClass === "LazyCanvas" && node.addDOMWidget) addCanvas(node);
  },
});
