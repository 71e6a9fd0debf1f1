// The line of text at the bottom of a node: a DOM widget that is saved nowhere, neither in the workflow's widgets_values nor in the
// prompt. It wraps, and the node grows with it, so that nothing is cut off at any width. In Nodes 2.0 the page itself lets it grow.
const NAME = "lazydiffusion_note";
const LINE = 16; // px
const MARGIN = 4; // px around the widget
const LEAST = 20; // px
const TEXT = `font-size:11px;line-height:${LINE}px;text-align:center;white-space:normal;overflow-wrap:anywhere;padding:2px 0;`;

export function addNote(node) {
  const element = document.createElement("div");
  element.className = "lazydiffusion-note";
  element.setAttribute("role", "status");
  element.style.cssText = `${TEXT}min-height:${LEAST}px;box-sizing:border-box;min-width:0;color:var(--descrip-text,#999);`;
  const height = () => textHeight(node, element.textContent) + 2 * MARGIN;
  const options = { serialize: false, margin: MARGIN, getMinHeight: height, getMaxHeight: height };
  const widget = node.addDOMWidget(NAME, NAME, element, options);
  widget.serialize = false; // left out of widgets_values; `options.serialize` above leaves it out of the prompt
  const size = node.computeSize();
  node.setSize([Math.max(node.size[0], size[0]), Math.max(node.size[1], size[1])]);
}

export function noteOf(node) {
  return node.widgets?.find((widget) => widget.name === NAME)?.element;
}

/** `urgent`: words that a person has to read, not figures. */
export function write(node, { text, tip = "", urgent = false }) {
  const element = noteOf(node);
  if (!element) return;
  element.textContent = text;
  element.title = tip;
  element.style.color = urgent ? "var(--input-text,#ddd)" : "var(--descrip-text,#999)";
  fit(node);
}

/** Height in px of the text at the node's width. Measured beside the page: a widget that is zoomed out has no height of its own. */
function textHeight(node, text) {
  const width = Math.floor(node.size[0]) - 2 * MARGIN;
  const known = node.lazydiffusionText;
  if (known?.text === text && known.width === width) return known.height;
  const probe = document.createElement("div");
  probe.style.cssText = `${TEXT}position:absolute;visibility:hidden;width:${width}px;`;
  probe.textContent = text;
  document.body.append(probe);
  const height = Math.max(LEAST, probe.offsetHeight);
  probe.remove();
  node.lazydiffusionText = { text, width, height };
  return height;
}

/** Grow the node for a longer text, and give back for a shorter one what was grown. */
function fit(node) {
  const least = node.computeSize()[1];
  const grown = node.lazydiffusionGrown;
  const own = grown && node.size[1] === grown.to ? grown.from : node.size[1];
  const height = Math.max(own, least);
  node.lazydiffusionGrown = height > own ? { from: own, to: height } : undefined;
  if (height !== node.size[1]) node.setSize([node.size[0], height]);
  node.setDirtyCanvas?.(true, true);
}
