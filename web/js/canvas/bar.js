// The bar of tools above the canvas.
import { h } from "./dom.js";
import { icon } from "./icons.js";
import { TOOLS } from "./tools.js";

/** @typedef {import("./session.js").Session} Session */

export const SIZES = { least: 1, most: 400 };

/** A slider with its value beside it. @returns {{ element: HTMLElement, input: HTMLInputElement, show: (value: number) => void }} */
export function slider(
  /** @type {string} */ id,
  /** @type {string} */ label,
  /** @type {any} */ range,
  /** @type {(value: number) => void} */ change,
  word = "",
) {
  const attributes = { type: "range", min: range.min, max: range.max, step: range.step, "aria-label": label, "data-testid": `lazy-${id}` };
  const input = h("input", { ...attributes, oninput: () => change(range.from ? range.from(Number(input.value)) : Number(input.value)) });
  const output = h("output");
  const element = h("label", { class: "lazy-slider", title: label }, word || null, input, output);
  const show = (/** @type {number} */ value) => {
    input.value = String(range.to ? range.to(value) : value);
    output.textContent = range.step < 1 && !range.from ? value.toFixed(2) : String(Math.round(value));
  };
  return { element, input, show };
}

export class Bar {
  /** @param {Session} session @param {any} words @param {import("./keys.js").Actions} actions */
  constructor(session, words, actions) {
    this.session = session;
    this.buttons = /** @type {Record<string, HTMLButtonElement>} */ ({});
    const button = (/** @type {string} */ name) => {
      const attributes = {
        class: "lazy-tool",
        type: "button",
        title: words[name],
        "aria-label": words[name],
        "data-testid": `lazy-${name}`,
      };
      this.buttons[name] = h(
        "button",
        { ...attributes, onclick: (/** @type {MouseEvent} */ event) => actions[name](event.shiftKey) },
        icon(name),
      );
      return this.buttons[name];
    };
    const group = (/** @type {string[]} */ names) => h("div", { class: "lazy-group" }, ...names.map(button));
    const sizes = {
      min: 0,
      max: 1,
      step: 0.001,
      from: (/** @type {number} */ at) => SIZES.most ** at,
      to: (/** @type {number} */ size) => Math.log(size) / Math.log(SIZES.most),
    };
    this.size = slider("size", words.size, sizes, (size) => session.set({ size }));
    this.opacity = slider("opacity", words.opacity, { min: 0.05, max: 1, step: 0.05 }, (opacity) => session.set({ opacity }));
    this.opacity.element.querySelector("output")?.remove();
    const colorAttributes = {
      type: "color",
      class: "lazy-color",
      title: words.color,
      "aria-label": words.color,
      "data-testid": "lazy-color",
    };
    this.color = h("input", { ...colorAttributes, oninput: () => session.set({ color: this.color.value, tool: "colour" }) });
    const files = group(["open", "blank", "linked", "png", "webp"]);
    files.style.marginLeft = "auto";
    this.element = h(
      "div",
      { class: "lazy-row lazy-bar", role: "toolbar", "aria-label": "Lazy Canvas" },
      group(TOOLS),
      this.color,
      this.size.element,
      this.opacity.element,
      group(["undo", "redo"]),
      group(["invert", "grow", "clear"]),
      group(["grid", "fit"]),
      files,
    );
  }

  update() {
    const { session, buttons } = this;
    for (const name of TOOLS) buttons[name].setAttribute("aria-pressed", String(session.tool === name));
    buttons.grid.setAttribute("aria-pressed", String(session.grid));
    buttons.undo.disabled = !session.changes.done.length;
    buttons.redo.disabled = !session.changes.undone.length;
    buttons.clear.disabled = buttons.grow.disabled = !session.hasMask;
    buttons.linked.hidden = !session.isLinked();
    buttons.webp.disabled = session.state.edits.length < 2;
    this.color.value = session.color;
    this.size.show(session.size);
    this.opacity.show(session.opacity);
    this.opacity.element.style.visibility = session.tool === "colour" ? "visible" : "hidden"; // its room stays: nothing may move under the pen
  }
}
