// The canvas's looks, in the page's own colours.

const CSS = `
.lazy-canvas { display: flex; flex-direction: column; width: 100%; height: 100%; min-height: 420px; box-sizing: border-box; }
.lazy-root { flex: 1; min-height: 0; display: flex; flex-direction: column; gap: 6px; position: relative; color: var(--input-text, #ddd);
  font: 12px/1.35 Inter, system-ui, sans-serif; outline: none; user-select: none; pointer-events: auto; }
.lazy-root *, .lazy-root *::before { box-sizing: border-box; }
.lazy-root button, .lazy-root input, .lazy-root textarea, .lazy-root select { font: inherit; color: inherit; }
.lazy-row { display: flex; align-items: center; gap: 6px; flex-wrap: wrap; }
.lazy-bar { gap: 4px; }
.lazy-group { display: flex; gap: 1px; background: var(--comfy-input-bg, #222); border-radius: 6px; padding: 2px; }
.lazy-tool { width: 26px; height: 25px; padding: 0; border: 0; border-radius: 4px; background: none; cursor: pointer; display: grid; place-items: center; }
.lazy-tool:hover:not(:disabled) { background: color-mix(in srgb, currentColor 14%, transparent); }
.lazy-tool[aria-pressed=true] { background: #ff3d81; color: #fff; }
.lazy-tool:disabled { opacity: .3; cursor: default; }
.lazy-root :focus-visible { outline: 2px solid #ff7aa8; outline-offset: 1px; }
.lazy-icon { width: 17px; height: 17px; fill: none; stroke: currentColor; stroke-width: 1.5; stroke-linecap: round; stroke-linejoin: round; }
.lazy-slider { display: flex; align-items: center; gap: 5px; }
.lazy-slider input[type=range] { width: 66px; accent-color: #ff3d81; margin: 0; }
.lazy-slider output { min-width: 26px; text-align: right; font-variant-numeric: tabular-nums; color: var(--descrip-text, #999); }
.lazy-color { width: 27px; height: 25px; padding: 2px; border: 0; background: none; cursor: pointer; }
.lazy-window { flex: 1; min-height: 160px; position: relative; }
.lazy-over { position: absolute; left: 8px; max-width: calc(100% - 16px); bottom: 8px; flex-wrap: nowrap; padding: 4px; border-radius: 8px; background: #17181be0; color: #ddd;
  box-shadow: 0 2px 10px #0008; }
.lazy-frame { position: absolute; inset: 0; overflow: hidden; border-radius: 6px; background: #17181b; touch-action: none; cursor: none; }
.lazy-frame.lazy-drop { box-shadow: inset 0 0 0 3px #ff3d81; }
.lazy-frame.lazy-pan, .lazy-frame.lazy-cross { cursor: grab; }
.lazy-frame.lazy-cross { cursor: crosshair; }
.lazy-stage { position: absolute; left: 0; top: 0; transform-origin: 0 0; box-shadow: 0 0 0 calc(1px / var(--lazy-zoom, 1)) #0008; }
.lazy-layer { position: absolute; left: 0; top: 0; width: 100%; height: 100%; }
.lazy-pixels .lazy-layer { image-rendering: pixelated; }
.lazy-mask { opacity: .5; }
.lazy-covered .lazy-mask, .lazy-covered .lazy-sketch { opacity: 0; }
.lazy-grid { display: none; position: absolute; inset: 0; pointer-events: none; --w: calc(1px / var(--lazy-zoom, 1)); mix-blend-mode: difference; opacity: .35;
  background-image: linear-gradient(to right, #fff var(--w), transparent 0), linear-gradient(to bottom, #fff var(--w), transparent 0);
  background-size: var(--lazy-token, 16px) var(--lazy-token, 16px); }
.lazy-drawing { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; pointer-events: none; }
.lazy-shape { fill: #ff3d8155; stroke: #fff; stroke-width: 1.5; vector-effect: non-scaling-stroke; stroke-dasharray: 5 4; }
.lazy-ring { position: absolute; left: 0; top: 0; border: 1px solid #fff; outline: 1px solid #000a; border-radius: 50%; pointer-events: none; display: none; }
.lazy-keys { position: absolute; left: 0; top: 0; width: 1px; height: 1px; opacity: 0; border: 0; padding: 0; resize: none; pointer-events: none; }
.lazy-status { min-height: 16px; color: var(--descrip-text, #999); font-variant-numeric: tabular-nums; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; }
.lazy-message { position: absolute; z-index: 2; left: 8px; right: 8px; top: 8px; display: flex; gap: 8px; align-items: center; padding: 5px 8px; border-radius: 6px; background: #5a3d12; color: #ffe3b0; user-select: text; }
.lazy-message.lazy-plain { background: #26282ee8; color: #ddd; }
.lazy-message span { flex: 1; }
.lazy-prompt { flex: 1; font-size: 14px !important; min-width: 120px; height: 46px; resize: none; padding: 6px 8px; border: 1px solid var(--border-color, #444); border-radius: 6px;
  background: var(--comfy-input-bg, #222); user-select: text; }
.lazy-go { font-size: 14px !important; height: 46px; min-width: 104px; border: 0; border-radius: 6px; background: #ff3d81; color: #fff !important; font-weight: 600 !important; cursor: pointer;
  position: relative; overflow: hidden; }
.lazy-go:hover { filter: brightness(1.1); }
.lazy-go::before { content: ""; position: absolute; inset: 0; width: var(--lazy-done, 0%); background: #0004; transition: width .15s; }
.lazy-over.lazy-high { bottom: auto; top: 8px; }
.lazy-number { width: 108px; padding: 2px 5px; border: 1px solid var(--border-color, #444); border-radius: 4px; background: var(--comfy-input-bg, #222); }
.lazy-strip { display: flex; gap: 6px; overflow-x: auto; align-items: center; padding: 2px; min-height: 0; }
.lazy-thumb { flex: none; padding: 0; border: 2px solid transparent; border-radius: 6px; background: #17181b; cursor: pointer; overflow: hidden; height: 74px; }
.lazy-thumb img { display: block; height: 100%; min-width: 30px; object-fit: contain; }
.lazy-thumb:hover, .lazy-thumb[aria-pressed=true] { border-color: #ff3d81; }
.lazy-small { height: 46px; flex: none; color: var(--descrip-text, #999); }
.lazy-small .lazy-thumb { height: 40px; }
.lazy-small .lazy-thumb[aria-current=true] { border-color: var(--input-text, #ddd); }
.lazy-text { height: 26px; padding: 0 10px; border: 1px solid var(--border-color, #444); border-radius: 6px; background: var(--comfy-input-bg, #222); cursor: pointer; }
.lazy-text:hover { border-color: #ff3d81; }
.lazy-new { position: absolute; z-index: 3; top: 34px; right: 0; padding: 10px; border-radius: 8px; background: var(--comfy-menu-bg, #333); box-shadow: 0 4px 16px #0008;
  display: grid; grid-template-columns: auto auto; gap: 6px 8px; align-items: center; }
.lazy-new[hidden], .lazy-root [hidden] { display: none !important; }
[data-node-id]:has(.lazy-canvas) { filter: none !important; } /* a shadow under the node costs 80 ms a frame at 2048 px */
`;

export function addStyle() {
  if (document.getElementById("lazy-canvas-style")) return;
  const style = document.createElement("style");
  style.id = "lazy-canvas-style";
  style.textContent = CSS;
  document.head.append(style);
}
