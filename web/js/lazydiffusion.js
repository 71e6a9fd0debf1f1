// One line of text on Encode Context and Lazy Decode that says, after a run, what was computed and what was not.
// The line is a DOM widget that is saved nowhere: neither in the workflow's widgets_values nor in the prompt.
import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";
import { MESSAGES } from "./messages.js";

const WORDS = {
  en: {
    ms: (value) => `${Math.round(value)} ms`,
    s: (value) => `${value.toFixed(value < 9.95 ? 1 : 0)} s`,
    tokens: (hole, all) => `${hole} of ${all} tokens`,
    saved: (time) => `about ${time} saved`,
    empty: "Empty mask: image returned unchanged",
    emptyContext: "Empty mask: nothing to encode",
    ran: (time, tokens) => `Encoder ran: ${time} · ${tokens}`,
    reused: "Encoder not run: answered from cache",
    kept: "Nothing changed: result kept",
    savedTip: "Time saved against computing all tokens, estimated from the counted operations. One step took ",
    contextTip: "The same image, mask and model are encoded only once. Runs of the encoder since the server started: ",
  },
  zh: {
    ms: (value) => `${Math.round(value)} 毫秒`,
    s: (value) => `${value.toFixed(value < 9.95 ? 1 : 0)} 秒`,
    tokens: (hole, all) => `${hole}/${all} 个图块`,
    saved: (time) => `约省 ${time}`,
    empty: "遮罩为空：原图返回",
    emptyContext: "遮罩为空：无需编码",
    ran: (time, tokens) => `编码器已运行：${time} · ${tokens}`,
    reused: "编码器未运行：由缓存返回",
    kept: "没有变化：沿用已有结果",
    savedTip: "与计算全部图块相比省下的时间，按运算量估算。每步用时 ",
    contextTip: "同样的图像、遮罩和模型只编码一次。服务器启动以来编码器的运行次数：",
  },
};

function words() {
  return WORDS[app.extensionManager?.setting?.get("Comfy.Locale")] ?? WORDS.en;
}

/** What a run has to say in words (nodes/messages.py) comes first; its figures are then in the tooltip. */
function withMessages(run, figures) {
  const sentences = (run.messages ?? []).map(sentence).filter(Boolean);
  if (!sentences.length) return figures;
  return { text: sentences.join(" "), tip: [...sentences, figures.text, figures.tip].filter(Boolean).join("\n") };
}

function sentence(message) {
  const table = MESSAGES[app.extensionManager?.setting?.get("Comfy.Locale")] ?? MESSAGES.en;
  return table[message.code]?.(message);
}

function duration(milliseconds) {
  return milliseconds < 1000 ? words().ms(milliseconds) : words().s(milliseconds / 1000);
}

/** `run`: the node's own report, or null where ComfyUI kept a result of which this page has seen no report. */
function describeDecode(run) {
  if (!run) return { text: words().kept, tip: "" };
  return withMessages(run, decodeFigures(run));
}

function decodeFigures(run) {
  if (run.hole_tokens === 0) return { text: words().empty, tip: "" };
  const parts = [words().tokens(run.hole_tokens, run.all_tokens), duration(run.total_ms)];
  if (run.saved_ms > 0) parts.push(words().saved(duration(run.saved_ms)));
  return { text: parts.join(" · "), tip: words().savedTip + duration(run.step_ms) };
}

function describeContext(run, kept) {
  if (!run) return { text: words().reused, tip: "" };
  return withMessages(run, contextFigures(run, kept));
}

function contextFigures(run, kept) {
  if (run.hole_tokens === 0) return { text: words().emptyContext, tip: "" };
  const tokens = words().tokens(run.hole_tokens, run.all_tokens);
  const text = run.encoder_ran && !kept ? words().ran(duration(run.encode_ms), tokens) : `${words().reused} · ${tokens}`;
  return { text, tip: words().contextTip + run.encoder_runs };
}

const DESCRIBE = { LazyDecode: describeDecode, LazyEncodeContext: describeContext };
const NAME = "lazydiffusion_note";
const HEIGHT = 20;

function addNote(node) {
  const element = document.createElement("div");
  element.className = "lazydiffusion-note";
  element.setAttribute("role", "status");
  element.style.cssText =
    `height:${HEIGHT}px;line-height:${HEIGHT}px;font-size:11px;text-align:center;color:var(--descrip-text,#999);` +
    "overflow:hidden;text-overflow:ellipsis;white-space:nowrap;";
  const fixed = () => HEIGHT + 8;
  const widget = node.addDOMWidget(NAME, NAME, element, { serialize: false, margin: 4, getMinHeight: fixed, getMaxHeight: fixed });
  widget.serialize = false; // left out of widgets_values; `options.serialize` above leaves it out of the prompt
  const size = node.computeSize();
  node.setSize([Math.max(node.size[0], size[0]), Math.max(node.size[1], size[1])]);
}

/** `kept`: ComfyUI's graph cache kept the node's result, so that even our own cache was not asked. */
function show(node, run, kept = false) {
  const element = node.widgets?.find((widget) => widget.name === NAME)?.element;
  if (!element) return;
  node.lazydiffusion = { run, kept };
  const { text, tip } = DESCRIBE[node.comfyClass](run, kept);
  element.textContent = text;
  element.title = tip;
}

function refresh(node) {
  if (node.lazydiffusion) show(node, node.lazydiffusion.run, node.lazydiffusion.kept);
}

/** Node of an execution id: "7", or "3:7" inside the subgraph node 3. */
function nodeOfExecution(id) {
  let graph = app.graph;
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
    api.addEventListener("execution_cached", onCached);
    app.ui.settings.addEventListener("Comfy.Locale.change", () => {
      // The setting itself changes after its event.
      requestAnimationFrame(() => app.graph.nodes.forEach(refresh));
    });
  },

  nodeCreated(node) {
    if (!(node.comfyClass in DESCRIBE) || !node.addDOMWidget) return;
    addNote(node);
    const { onExecuted } = node;
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      const run = output?.lazydiffusion?.[0];
      if (run) show(this, run, keptNodes.has(this));
    };
  },

  // Another tab was opened, or an old run loaded from the history: its nodes are new, its outputs are given back.
  onNodeOutputsUpdated(outputs) {
    for (const [locator, output] of Object.entries(outputs ?? {})) {
      const node = output?.lazydiffusion && nodeOfLocator(locator);
      if (node?.comfyClass in DESCRIBE) show(node, output.lazydiffusion[0], keptNodes.has(node));
    }
  },
});
