// What a pointer does on the canvas: one small object for each tool, with down, move and up in the picture's pixels.
import { svg } from "./dom.js";
import { pen } from "./files.js";
import { TINT } from "./layers.js";
import { around, flood, widthAt } from "./paint.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {{ x: number, y: number, pressure: number, pointer: string, shift: boolean, erase: boolean }} Point */

export const TOOLS = ["brush", "eraser", "lasso", "box", "fill", "colour", "picker"];

/** A line from a to b with round ends, `wide` pixels wide. */
function line(/** @type {CanvasRenderingContext2D} */ context, /** @type {Point} */ a, /** @type {Point} */ b, /** @type {number} */ wide) {
  context.lineCap = "round";
  context.lineWidth = wide;
  context.beginPath();
  context.moveTo(a.x, a.y);
  context.lineTo(b.x, b.y + (a.x === b.x && a.y === b.y ? 0.01 : 0));
  context.stroke();
}

/** Brush, eraser and colour brush: lines between the pointer's places. */
class Stroke {
  constructor(/** @type {Session} */ session, /** @type {string} */ tool, /** @type {Point} */ start) {
    this.session = session;
    this.tool = start.erase ? "eraser" : tool;
    this.last = start;
    session.layers.begin();
    this.move([start]);
  }

  move(/** @type {Point[]} */ points) {
    for (const point of points) {
      const wide = widthAt(this.session.size, point.pointer, point.pressure);
      const area = around(
        [
          [this.last.x, this.last.y],
          [point.x, point.y],
        ],
        wide / 2 + 2,
      );
      const draw =
        (/** @type {string} */ color, out = false) =>
        (/** @type {CanvasRenderingContext2D} */ context) => {
          context.strokeStyle = color;
          if (out) context.globalCompositeOperation = "destination-out";
          line(context, this.last, point, wide);
        };
      this.session.layers.paint("mask", area, draw(TINT, this.tool === "eraser"));
      if (this.tool === "colour") this.session.layers.paint("sketch", area, draw(this.session.color));
      if (this.tool === "eraser" && this.session.hasSketch) this.session.layers.paint("sketch", area, draw(TINT, true));
      this.last = point;
    }
  }

  up() {
    if (this.tool === "colour" && this.session.opacity < 1) this.session.layers.fade("sketch", this.session.opacity);
    this.session.painted(this.session.layers.commit());
  }
}

/** Lasso and box: a shape that is filled at the end. */
class Shape {
  constructor(/** @type {Session} */ session, /** @type {string} */ tool, /** @type {Point} */ start) {
    this.session = session;
    this.tool = tool;
    this.points = [start];
    this.erase = start.erase;
  }

  corners() {
    if (this.tool === "lasso") return this.points.map(({ x, y }) => [x, y]);
    const [a, b] = [this.points[0], this.points[this.points.length - 1]].map(({ x, y }) => [Math.round(x), Math.round(y)]);
    return [a, [b[0], a[1]], b, [a[0], b[1]]];
  }

  move(/** @type {Point[]} */ points) {
    this.points.push(...points);
    this.session.view.draw(svg("polygon", { points: this.corners().join(" "), class: "lazy-shape" }));
  }

  up() {
    this.session.view.draw();
    const corners = this.corners();
    this.session.layers.begin();
    this.session.layers.paint("mask", around(corners, 1), (context) => {
      context.fillStyle = TINT;
      if (this.erase) context.globalCompositeOperation = "destination-out";
      context.beginPath();
      for (const [x, y] of corners) context.lineTo(x, y);
      context.fill();
    });
    this.session.painted(this.session.layers.commit());
  }
}

/** What the mask encloses around a point becomes hole, too; with Shift: all connected pixels of about the same colour. */
function fill(/** @type {Session} */ session, /** @type {Point} */ point) {
  const { width, height, base } = session.layers;
  const [x, y] = [Math.floor(point.x), Math.floor(point.y)];
  if (x < 0 || y < 0 || x >= width || y >= height) return;
  const mask = session.layers.maskBytes();
  const { data } = pen(base).getImageData(0, 0, width, height);
  const start = 4 * (y * width + x);
  const like = (/** @type {number} */ i) => [0, 1, 2].every((c) => Math.abs(data[4 * i + c] - data[start + c]) <= 24);
  const value = point.erase ? 0 : 255;
  const filled = flood(width, height, x, y, point.shift ? like : (i) => mask[i] >= 128 === point.erase);
  for (let i = 0; i < mask.length; i++) if (filled[i]) mask[i] = value;
  session.layers.begin();
  session.layers.setMask(mask);
  session.painted(session.layers.commit());
}

/** Take the colour that is seen at a point, and go on with the colour brush. */
function pick(/** @type {Session} */ session, /** @type {Point} */ point) {
  const [x, y] = [Math.floor(point.x), Math.floor(point.y)];
  const sketch = pen(session.layers.sketch, true).getImageData(x, y, 1, 1).data;
  const rgb = sketch[3] > 127 ? sketch : pen(session.layers.base).getImageData(x, y, 1, 1).data;
  const hex = Array.from(rgb.slice(0, 3), (level) => level.toString(16).padStart(2, "0")).join("");
  session.set({ color: `#${hex}`, tool: "colour" });
}

/** @returns {Stroke | Shape | null} what goes on until the pointer is lifted */
export function start(/** @type {Session} */ session, /** @type {Point} */ point) {
  const { tool } = session;
  if (tool === "fill") fill(session, point);
  else if (tool === "picker") pick(session, point);
  else if (tool === "lasso" || tool === "box") return new Shape(session, tool, point);
  else return new Stroke(session, tool, point);
  return null;
}
