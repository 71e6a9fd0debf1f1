// Arithmetic on masks: a mask is one byte a pixel, row by row; 255 = hole, 0 = keep. Nothing here touches the page.

/** @typedef {{ x: number, y: number, width: number, height: number }} Rect whole pixels */

/** The whole pixels that `rect` touches inside a canvas; null where there are none. @returns {Rect | null} */
export function clip(/** @type {Rect} */ rect, /** @type {number} */ width, /** @type {number} */ height) {
  const left = Math.max(0, Math.floor(rect.x));
  const top = Math.max(0, Math.floor(rect.y));
  const right = Math.min(width, Math.ceil(rect.x + rect.width));
  const bottom = Math.min(height, Math.ceil(rect.y + rect.height));
  return right > left && bottom > top ? { x: left, y: top, width: right - left, height: bottom - top } : null;
}

/** @param {Rect | null} a @param {Rect | null} b @returns {Rect | null} */
export function union(a, b) {
  if (!a || !b) return a ?? b;
  const [x, y] = [Math.min(a.x, b.x), Math.min(a.y, b.y)];
  return { x, y, width: Math.max(a.x + a.width, b.x + b.width) - x, height: Math.max(a.y + a.height, b.y + b.height) - y };
}

/** The rectangle around points [x, y], grown by `margin`. @returns {Rect} */
export function around(/** @type {number[][]} */ points, margin = 0) {
  const xs = points.map(([x]) => x);
  const ys = points.map(([, y]) => y);
  const [x, y] = [Math.min(...xs) - margin, Math.min(...ys) - margin];
  return { x, y, width: Math.max(...xs) + margin - x, height: Math.max(...ys) + margin - y };
}

/** The width of a stroke under a pen: a third of `size` at no pressure, `size` at full. Mice and fingers have no pressure. */
export function widthAt(/** @type {number} */ size, /** @type {string} */ pointer, /** @type {number} */ pressure) {
  return pointer === "pen" ? Math.max(1, (size * (1 + 2 * Math.min(1, Math.max(0, pressure)))) / 3) : size;
}

/**
 * The pixels of the same sort as (x, y) that are connected with it, by scan lines.
 * @param {(index: number) => boolean} same @returns {Uint8Array} 255 where filled
 */
export function flood(/** @type {number} */ width, /** @type {number} */ height, /** @type {number} */ x, /** @type {number} */ y, same) {
  const filled = new Uint8Array(width * height);
  const stack = [y * width + x];
  while (stack.length) {
    const start = /** @type {number} */ (stack.pop());
    if (filled[start] || !same(start)) continue;
    const row = start - (start % width);
    let left = start;
    let right = start;
    while (left > row && !filled[left - 1] && same(left - 1)) left--;
    while (right < row + width - 1 && !filled[right + 1] && same(right + 1)) right++;
    filled.fill(255, left, right + 1);
    for (const step of [-width, width]) {
      if (left + step < 0 || left + step >= filled.length) continue;
      for (let i = left; i <= right; i++) if (!filled[i + step] && same(i + step)) stack.push(i + step);
    }
  }
  return filled;
}

/** One row or column of squared distances (Felzenszwalb and Huttenlocher 2012, section 2.1), written back in place. */
function distances(/** @type {Float32Array} */ field, /** @type {number} */ start, /** @type {number} */ step, /** @type {any} */ room) {
  const { f, v, z, count } = room;
  for (let i = 0; i < count; i++) f[i] = field[start + i * step];
  let k = 0;
  v[0] = 0;
  z[0] = -Infinity;
  z[1] = Infinity;
  for (let q = 1; q < count; q++) {
    let s = (f[q] + q * q - f[v[k]] - v[k] * v[k]) / (2 * q - 2 * v[k]);
    while (s <= z[k]) {
      k--;
      s = (f[q] + q * q - f[v[k]] - v[k] * v[k]) / (2 * q - 2 * v[k]);
    }
    v[++k] = q;
    z[k] = s;
    z[k + 1] = Infinity;
  }
  for (let q = 0, i = 0; q < count; q++) {
    while (z[i + 1] < q) i++;
    field[start + q * step] = (q - v[i]) ** 2 + f[v[i]];
  }
}

/** The mask grown by `pixels` on every side, with round corners; shrunk where `pixels` is negative. @returns {Uint8Array} */
export function grow(
  /** @type {Uint8Array} */ mask,
  /** @type {number} */ width,
  /** @type {number} */ height,
  /** @type {number} */ pixels,
) {
  const wanted = pixels > 0;
  const far = 1e9;
  const field = Float32Array.from(mask, (value) => (value >= 128 === wanted ? 0 : far));
  const room = (/** @type {number} */ count) => ({
    f: new Float64Array(count),
    v: new Int32Array(count),
    z: new Float64Array(count + 1),
    count,
  });
  const [column, line] = [room(height), room(width)];
  for (let x = 0; x < width; x++) distances(field, x, width, column);
  for (let y = 0; y < height; y++) distances(field, y * width, 1, line);
  const reach = pixels * pixels;
  return Uint8Array.from(field, (value) => (value <= reach === wanted ? 255 : 0));
}
