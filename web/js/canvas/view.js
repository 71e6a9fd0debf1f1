// What lies on the canvas's window and where: one CSS transform for all layers, zoom about a point, pan, fit.
import { h, svg } from "./dom.js";

const MOST_ZOOM = 32;

export class View {
  /** @param {HTMLElement} frame the window in the node */
  constructor(frame) {
    this.frame = frame;
    this.stage = h("div", { class: "lazy-stage" });
    this.grid = h("div", { class: "lazy-grid" });
    /** what is being drawn: a lasso, a box, the brush's ring; in the picture's pixels */
    this.drawing = svg("svg", { class: "lazy-drawing" });
    this.width = 1;
    this.height = 1;
    this.zoom = 1;
    this.x = 0;
    this.y = 0;
    this.fitted = true;
    this.frame.append(this.stage);
    new ResizeObserver(() => this.fitted && this.fit()).observe(frame);
  }

  /** Show these layers, from the lowest to the highest, all of one size. */
  lay(/** @type {HTMLElement[]} */ layers, /** @type {number} */ width, /** @type {number} */ height) {
    const resized = width !== this.width || height !== this.height;
    [this.width, this.height] = [width, height];
    this.stage.replaceChildren(...layers, this.grid, this.drawing);
    this.stage.style.width = `${width}px`;
    this.stage.style.height = `${height}px`;
    this.drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
    if (resized || this.fitted) this.fit();
  }

  fit() {
    const { clientWidth, clientHeight } = this.frame;
    if (!clientWidth || !clientHeight) return;
    this.zoom = Math.min((clientWidth - 8) / this.width, (clientHeight - 8) / this.height);
    this.x = (clientWidth - this.width * this.zoom) / 2;
    this.y = (clientHeight - this.height * this.zoom) / 2;
    this.fitted = true;
    this.apply();
  }

  /** Zoom by `factor`, keeping what lies at the client's point where it is; without a point, the middle. */
  zoomBy(/** @type {number} */ factor, /** @type {{ clientX: number, clientY: number } | null} */ point = null) {
    const frame = this.frame.getBoundingClientRect();
    const onScreen = frame.width / this.frame.clientWidth || 1; // the page itself may be zoomed
    const x = point ? (point.clientX - frame.left) / onScreen : this.frame.clientWidth / 2;
    const y = point ? (point.clientY - frame.top) / onScreen : this.frame.clientHeight / 2;
    const least = Math.min(1, 0.5 * Math.min(this.frame.clientWidth / this.width, this.frame.clientHeight / this.height));
    const zoom = Math.min(MOST_ZOOM, Math.max(least, this.zoom * factor));
    this.x = x - ((x - this.x) * zoom) / this.zoom;
    this.y = y - ((y - this.y) * zoom) / this.zoom;
    this.zoom = zoom;
    this.fitted = false;
    this.apply();
  }

  /** Move by pixels of the screen. */
  panBy(/** @type {number} */ dx, /** @type {number} */ dy) {
    const onScreen = this.frame.getBoundingClientRect().width / this.frame.clientWidth || 1;
    this.x += dx / onScreen;
    this.y += dy / onScreen;
    this.fitted = false;
    this.apply();
  }

  apply() {
    this.stage.style.transform = `translate(${this.x}px, ${this.y}px) scale(${this.zoom})`;
    this.stage.style.setProperty("--lazy-zoom", String(this.zoom));
    this.stage.classList.toggle("lazy-pixels", this.zoom >= 3);
  }

  /** A pointer's place in the picture's pixels, also outside it. @returns {[number, number]} */
  locate(/** @type {{ clientX: number, clientY: number }} */ event) {
    const box = this.stage.getBoundingClientRect(); // exact under every transform of the page
    return [((event.clientX - box.left) / box.width) * this.width, ((event.clientY - box.top) / box.height) * this.height];
  }

  showGrid(/** @type {boolean} */ on, /** @type {number} */ side) {
    this.grid.style.display = on ? "block" : "none";
    this.grid.style.setProperty("--lazy-token", `${side}px`);
  }

  /** Draw shapes over the picture; none clears it. */
  draw(/** @type {Element[]} */ ...shapes) {
    this.drawing.replaceChildren(...shapes);
  }
}
