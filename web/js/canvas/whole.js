// What is done to the whole mask at once; each can be taken back.
import { grow } from "./paint.js";

/** @typedef {import("./session.js").Session} Session */

/** Replace the mask by what `make` makes of it. */
function remake(/** @type {Session} */ session, /** @type {(mask: Uint8Array, width: number, height: number) => Uint8Array} */ make) {
  const { layers } = session;
  layers.begin();
  layers.setMask(make(layers.maskBytes(), layers.width, layers.height));
  session.painted(layers.commit());
}

export function invert(/** @type {Session} */ session) {
  remake(session, (mask) => mask.map((value) => 255 - value));
}

/** By so many pixels on every side; a negative number shrinks it. */
export function growMask(/** @type {Session} */ session, /** @type {number} */ pixels) {
  remake(session, (mask, width, height) => grow(mask, width, height, pixels));
}

export function coverAll(/** @type {Session} */ session) {
  remake(session, (mask) => mask.fill(255));
}

/** Neither mask nor sketch. */
export function clear(/** @type {Session} */ session) {
  const { layers } = session;
  layers.begin();
  for (const layer of /** @type {const} */ (["mask", "sketch"])) {
    layers.paint(layer, layers.everything, (context) => context.clearRect(0, 0, layers.width, layers.height));
  }
  session.painted(layers.commit());
}
