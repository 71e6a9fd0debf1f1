// Which tokens of the canvas are in the hole: a token is, as soon as one of its pixels is.

/** @typedef {import("./paint.js").Rect} Rect */

export class TokenGrid {
  /** @param {number} width px @param {number} height px @param {number} side of a token, px */
  constructor(width, height, side = 16) {
    this.width = width;
    this.height = height;
    this.side = side;
    this.cols = Math.ceil(width / side);
    this.rows = Math.ceil(height / side);
    /** masked pixels of each token */
    this.pixels = new Uint32Array(this.cols * this.rows);
  }

  get all() {
    return this.pixels.length;
  }

  get hole() {
    return this.pixels.reduce((sum, count) => sum + (count ? 1 : 0), 0);
  }

  /** The share of the canvas's pixels in the hole, 0..1. */
  get share() {
    return this.pixels.reduce((sum, count) => sum + count, 0) / (this.width * this.height);
  }

  /** How low the hole lies: 0 = at the top edge, 1 = at the bottom edge; 0 where there is none. */
  get middle() {
    let sum = 0;
    this.pixels.forEach((count, index) => {
      if (count) sum += Math.floor(index / this.cols) + 0.5;
    });
    return sum / (Math.max(1, this.hole) * this.rows);
  }

  /** `rect` grown to whole tokens. @returns {Rect} */
  whole(/** @type {Rect} */ rect) {
    const { side } = this;
    const [x, y] = [Math.floor(rect.x / side) * side, Math.floor(rect.y / side) * side];
    const right = Math.min(this.width, Math.ceil((rect.x + rect.width) / side) * side);
    const bottom = Math.min(this.height, Math.ceil((rect.y + rect.height) / side) * side);
    return { x, y, width: right - x, height: bottom - y };
  }

  /** Count again what changed. `rgba` are the mask layer's bytes of `rect`, which holds whole tokens. */
  update(/** @type {Rect} */ rect, /** @type {ArrayLike<number>} */ rgba) {
    const { side, cols } = this;
    const [left, top] = [rect.x / side, rect.y / side];
    const [wide, high] = [Math.ceil(rect.width / side), Math.ceil(rect.height / side)];
    for (let row = 0; row < high; row++) this.pixels.fill(0, (top + row) * cols + left, (top + row) * cols + left + wide);
    for (let y = 0, at = 3; y < rect.height; y++) {
      const line = (top + Math.floor(y / side)) * cols + left;
      for (let x = 0; x < rect.width; x++, at += 4) if (rgba[at] >= 128) this.pixels[line + Math.floor(x / side)]++;
    }
  }
}

/** The side of a token of a model that counted `all` tokens on this canvas; 16 where none fits. */
export function sideOf(/** @type {number} */ all, /** @type {number} */ width, /** @type {number} */ height) {
  return [8, 16, 32, 64].find((side) => Math.ceil(width / side) * Math.ceil(height / side) === all) ?? 16;
}

/**
 * Expected milliseconds of an edit, from the last one that was measured: a line through it and the full regeneration it was compared with.
 * @param {{ hole: number, all: number, ms: number, fullMs: number }} measured
 */
export function expected(measured, /** @type {number} */ hole) {
  const { hole: known, all, ms, fullMs } = measured;
  if (all <= known) return ms;
  return Math.max(0, ms + ((fullMs - ms) * (hole - known)) / (all - known));
}
