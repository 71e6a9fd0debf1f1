// The canvas's window under mouse, pen and fingers: paint, move, zoom, and the brush's ring.
import { h } from "./dom.js";
import { start } from "./tools.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./tools.js").Point} Point */

/** @returns {Point} */
function pointOf(/** @type {Session} */ session, /** @type {PointerEvent} */ event) {
  const [x, y] = session.view.locate(event);
  const erase = event.altKey || (event.buttons & 2) !== 0 || (event.buttons & 32) !== 0; // right button, a pen's other end
  return { x, y, pressure: event.pressure, pointer: event.pointerType, shift: event.shiftKey, erase };
}

export class Pointer {
  /** @param {Session} session @param {HTMLElement} frame @param {HTMLTextAreaElement} keys has the focus while the canvas is used */
  constructor(session, frame, keys) {
    this.session = session;
    this.frame = frame;
    this.keys = keys;
    /** what a pointer does until it is lifted @type {any} */
    this.act = null;
    /** fingers on the canvas @type {Map<number, PointerEvent>} */
    this.fingers = new Map();
    this.panning = false;
    /** the space bar is down */
    this.space = false;
    this.ring = h("div", { class: "lazy-ring" });
    frame.append(this.ring);
    for (const name of /** @type {const} */ (["down", "move", "up", "cancel"])) {
      frame.addEventListener(`pointer${name}`, (event) => {
        event.stopPropagation();
        this[name](event);
      });
    }
    frame.addEventListener("pointerleave", () => this.ring.style.setProperty("display", "none"));
    frame.addEventListener("contextmenu", (event) => {
      event.preventDefault();
      event.stopPropagation();
    });
    frame.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
  }

  down(/** @type {PointerEvent} */ event) {
    this.keys.focus({ preventScroll: true });
    event.preventDefault();
    this.frame.setPointerCapture(event.pointerId);
    if (event.pointerType === "touch") {
      this.fingers.set(event.pointerId, event);
      if (this.fingers.size === 2) return this.giveUp();
      if (this.fingers.size > 2) return;
    }
    if (event.button === 1 || this.space) {
      this.panning = true;
      return;
    }
    this.session.dispatchEvent(new Event("painting"));
    this.act = start(this.session, pointOf(this.session, event));
  }

  move(/** @type {PointerEvent} */ event) {
    this.showRing(event);
    const before = this.fingers.get(event.pointerId);
    if (before && this.fingers.size === 2) return this.pinch(event, before);
    if (this.panning) return this.session.view.panBy(event.movementX, event.movementY);
    if (!this.act) return;
    const events = event.getCoalescedEvents?.() ?? [];
    const erase = this.act.erase ?? this.act.tool === "eraser";
    const points = (events.length ? events : [event]).map((one) => ({ ...pointOf(this.session, one), pointer: event.pointerType, erase }));
    this.act.move(points);
  }

  up(/** @type {PointerEvent} */ event) {
    this.fingers.delete(event.pointerId);
    this.panning = false;
    const { act } = this;
    this.act = null;
    act?.up();
  }

  cancel(/** @type {PointerEvent} */ event) {
    this.up(event);
  }

  /** A second finger has come: what the first one began was no stroke. */
  giveUp() {
    if (this.act?.last) {
      this.session.layers.commit().undo();
      this.session.layers.dirty = this.session.layers.everything;
      this.session.count();
    }
    this.session.view.draw();
    this.act = null;
  }

  /** Two fingers: their distance zooms, their middle moves. */
  pinch(/** @type {PointerEvent} */ event, /** @type {PointerEvent} */ before) {
    const [other] = [...this.fingers.entries()].filter(([id]) => id !== event.pointerId).map(([, finger]) => finger);
    const distance = (/** @type {PointerEvent} */ a) => Math.hypot(a.clientX - other.clientX, a.clientY - other.clientY) || 1;
    const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
    this.session.view.panBy((event.clientX - before.clientX) / 2, (event.clientY - before.clientY) / 2);
    this.session.view.zoomBy(distance(event) / distance(before), middle);
    this.fingers.set(event.pointerId, event);
  }

  wheel(/** @type {WheelEvent} */ event) {
    event.preventDefault();
    event.stopPropagation();
    this.session.view.zoomBy(1.0015 ** -event.deltaY, event);
    this.showRing(event);
  }

  /** The ring shows what the brush will cover. */
  showRing(/** @type {{ clientX: number, clientY: number }} */ event) {
    const { view, tool, size } = this.session;
    const brush = ["brush", "eraser", "colour"].includes(tool) && !this.space;
    this.frame.classList.toggle("lazy-cross", !brush && !this.space);
    this.frame.classList.toggle("lazy-pan", this.space);
    const [x, y] = view.locate(event);
    const wide = Math.max(3, size * view.zoom);
    this.ring.style.display = brush ? "block" : "none";
    this.ring.style.width = this.ring.style.height = `${wide}px`;
    this.ring.style.transform = `translate(${view.x + x * view.zoom - wide / 2}px, ${view.y + y * view.zoom - wide / 2}px)`;
  }
}
