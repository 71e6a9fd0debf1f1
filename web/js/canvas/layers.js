// The picture, the mask and the sketch of a canvas as three HTML canvases of its size, and changes that can be taken back.
import { newCanvas, pen } from "./files.js";
import { clip, union } from "./paint.js";

/** @typedef {import("./paint.js").Rect} Rect */
/** @typedef {"mask" | "sketch"} Name */

const TILE = 128;
/** The colour in which the mask is shown: its pixels' alpha is the mask. */
export const TINT = "#ff3d81";

export class Layers {
  /** @param {number} width @param {number} height */
  constructor(width, height) {
    this.base = newCanvas(width, height);
    this.mask = newCanvas(width, height);
    this.sketch = newCanvas(width, height);
    this.base.className = "lazy-layer lazy-base";
    this.mask.className = "lazy-layer lazy-mask";
    this.sketch.className = "lazy-layer lazy-sketch";
    /** @type {Map<string, { layer: Name, rect: Rect, before: ImageData | null }> | null} */
    this.open = null;
    /** what changed since it was last asked for @type {Rect | null} */
    this.dirty = null;
    pen(this.mask, true);
    pen(this.sketch, true);
  }

  get width() {
    return this.base.width;
  }

  get height() {
    return this.base.height;
  }

  get everything() {
    return { x: 0, y: 0, width: this.width, height: this.height };
  }

  /** Another picture: mask and sketch become empty where the size is another. */
  show(/** @type {CanvasImageSource} */ picture, /** @type {number} */ width, /** @type {number} */ height) {
    const same = width === this.width && height === this.height;
    for (const layer of same ? [] : [this.base, this.mask, this.sketch]) Object.assign(layer, { width, height });
    pen(this.base).drawImage(picture, 0, 0, width, height);
    return same;
  }

  /** Begin a change of one or more layers, to be ended by `commit`. */
  begin() {
    this.open = new Map();
  }

  /** Let `draw` paint on a layer inside `area`; what was there before is kept. */
  paint(/** @type {Name} */ layer, /** @type {Rect} */ area, /** @type {(context: CanvasRenderingContext2D) => void} */ draw) {
    const rect = clip(area, this.width, this.height);
    if (!rect) return;
    this.keep(layer, rect);
    const context = pen(this[layer], true);
    context.save();
    draw(context);
    context.restore();
    this.dirty = union(this.dirty, rect);
  }

  keep(/** @type {Name} */ layer, /** @type {Rect} */ rect) {
    const [left, top] = [Math.floor(rect.x / TILE), Math.floor(rect.y / TILE)];
    for (let row = top; row * TILE < rect.y + rect.height; row++) {
      for (let column = left; column * TILE < rect.x + rect.width; column++) {
        const key = `${layer} ${row} ${column}`;
        if (this.open?.has(key)) continue;
        const tile = clip({ x: column * TILE, y: row * TILE, width: TILE, height: TILE }, this.width, this.height);
        if (tile) this.open?.set(key, { layer, rect: tile, before: this.read(layer, tile) });
      }
    }
  }

  /** A tile's pixels; null where it is empty, which costs nothing to remember. @returns {ImageData | null} */
  read(/** @type {Name} */ layer, /** @type {Rect} */ rect) {
    const data = pen(this[layer], true).getImageData(rect.x, rect.y, rect.width, rect.height);
    return new Uint32Array(data.data.buffer).some((pixel) => pixel !== 0) ? data : null;
  }

  write(/** @type {Name} */ layer, /** @type {Rect} */ rect, /** @type {ImageData | null} */ data) {
    const context = pen(this[layer], true);
    if (data) context.putImageData(data, rect.x, rect.y);
    else context.clearRect(rect.x, rect.y, rect.width, rect.height);
    this.dirty = union(this.dirty, rect);
  }

  /** Let the open change of a layer count for a part only: a stroke is one coat of paint, wherever it crosses itself. */
  fade(/** @type {Name} */ layer, /** @type {number} */ opacity) {
    for (const tile of [...(this.open?.values() ?? [])].filter((one) => one.layer === layer)) {
      const after = newCanvas(tile.rect.width, tile.rect.height);
      pen(after).drawImage(this[layer], -tile.rect.x, -tile.rect.y);
      this.write(layer, tile.rect, tile.before);
      const context = pen(this[layer], true);
      context.globalAlpha = opacity;
      context.drawImage(after, tile.rect.x, tile.rect.y);
      context.globalAlpha = 1;
    }
  }

  /** End a change. @returns {import("./undo.js").Change & { layers: Set<Name> }} */
  commit() {
    const tiles = [...(this.open?.values() ?? [])].map((tile) => ({ ...tile, after: this.read(tile.layer, tile.rect) }));
    this.open = null;
    const bytes = tiles.reduce((sum, { before, after }) => sum + (before?.data.length ?? 0) + (after?.data.length ?? 0), 0);
    return {
      bytes,
      layers: new Set(tiles.map((tile) => tile.layer)),
      undo: () => {
        for (const { layer, rect, before } of tiles) this.write(layer, rect, before);
      },
      redo: () => {
        for (const { layer, rect, after } of tiles) this.write(layer, rect, after);
      },
    };
  }

  /** The mask's bytes, one a pixel. */
  maskBytes() {
    const { data } = pen(this.mask, true).getImageData(0, 0, this.width, this.height);
    const bytes = new Uint8Array(this.width * this.height);
    for (let i = 0; i < bytes.length; i++) bytes[i] = data[4 * i + 3];
    return bytes;
  }

  /** Replace the mask by bytes, inside an open change. */
  setMask(/** @type {Uint8Array} */ bytes) {
    const [red, green, blue] = [1, 3, 5].map((at) => Number.parseInt(TINT.slice(at, at + 2), 16));
    this.paint("mask", this.everything, (context) => {
      const data = context.createImageData(this.width, this.height);
      for (let i = 0; i < bytes.length; i++) if (bytes[i]) data.data.set([red, green, blue, bytes[i]], 4 * i);
      context.putImageData(data, 0, 0);
    });
  }

  isEmpty(/** @type {Name} */ layer) {
    return this.read(layer, this.everything) === null;
  }

  /** Draw a stored mask (white on black) or sketch (with alpha) into its layer, without a way back. */
  load(/** @type {Name} */ layer, /** @type {CanvasImageSource | null} */ picture) {
    const context = pen(this[layer], true);
    context.clearRect(0, 0, this.width, this.height);
    if (picture) context.drawImage(picture, 0, 0, this.width, this.height);
    if (picture && layer === "mask") {
      const data = context.getImageData(0, 0, this.width, this.height);
      const bytes = Uint8Array.from({ length: this.width * this.height }, (_, i) => data.data[4 * i]);
      this.begin();
      this.setMask(bytes);
      this.commit();
    }
    this.dirty = this.everything;
  }
}
