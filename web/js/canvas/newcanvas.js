// The small form for a blank canvas.
import { h } from "./dom.js";
import { blank } from "./picture.js";

export class NewCanvas {
  constructor(/** @type {import("./session.js").Session} */ session, /** @type {any} */ words) {
    this.session = session;
    const number = (/** @type {string} */ id, /** @type {string} */ label) =>
      h("input", {
        class: "lazy-number",
        type: "number",
        min: 16,
        max: 4096,
        step: 8,
        "aria-label": label,
        "data-testid": `lazy-new-${id}`,
      });
    this.width = number("width", words.width);
    this.height = number("height", words.height);
    this.color = h("input", { type: "color", class: "lazy-color", "aria-label": words.color, "data-testid": "lazy-new-color" });
    const create = h(
      "button",
      { class: "lazy-text", type: "button", onclick: () => this.create(), "data-testid": "lazy-new-create" },
      words.create,
    );
    this.element = h(
      "div",
      { class: "lazy-new", hidden: true },
      words.width,
      this.width,
      words.height,
      this.height,
      words.color,
      this.color,
      h("span"),
      create,
    );
  }

  toggle() {
    this.element.hidden = !this.element.hidden;
    this.width.value = String(this.session.layers.width);
    this.height.value = String(this.session.layers.height);
    this.color.value = this.session.names?.color ?? "#c8c8c8";
    if (!this.element.hidden) this.width.focus();
  }

  create() {
    const size = (/** @type {HTMLInputElement} */ input) => Math.min(4096, Math.max(16, Math.round(Number(input.value)) || 512));
    blank(this.session, size(this.width), size(this.height), this.color.value);
    this.element.hidden = true;
  }
}
