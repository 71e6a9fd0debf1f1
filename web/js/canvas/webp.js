// Still WebP pictures joined into an animated one (the container of Google's "WebP Container Specification").

function four(/** @type {string} */ name) {
  return [...name].map((letter) => letter.charCodeAt(0));
}

/** A RIFF chunk: name, length, data, padded to an even length. */
function chunk(/** @type {string} */ name, /** @type {Uint8Array | number[]} */ data) {
  const bytes = new Uint8Array(8 + data.length + (data.length & 1));
  bytes.set(four(name));
  new DataView(bytes.buffer).setUint32(4, data.length, true);
  bytes.set(data, 8);
  return bytes;
}

const three = (/** @type {number} */ value) => [value & 255, (value >> 8) & 255, (value >> 16) & 255];

/** The picture's own chunks (VP8, VP8L, ALPH), without container, colour profile and metadata. */
function pictureChunks(/** @type {Uint8Array} */ webp) {
  const view = new DataView(webp.buffer, webp.byteOffset, webp.byteLength);
  const parts = [];
  for (let at = 12; at + 8 <= webp.length; ) {
    const name = String.fromCharCode(...webp.subarray(at, at + 4));
    const size = 8 + view.getUint32(at + 4, true);
    if (["VP8 ", "VP8L", "ALPH"].includes(name)) parts.push(webp.subarray(at, at + size + (size & 1)));
    at += size + (size & 1);
  }
  return parts;
}

function joined(/** @type {Uint8Array[]} */ parts) {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** Endless loop of `frames`, all of `width` x `height`, each shown for `ms`. @returns {Uint8Array<ArrayBuffer>} */
export function animate(
  /** @type {Uint8Array[]} */ frames,
  /** @type {number} */ width,
  /** @type {number} */ height,
  /** @type {number} */ ms,
) {
  const size = [...three(width - 1), ...three(height - 1)];
  const head = chunk("VP8X", [0x02, 0, 0, 0, ...size]);
  const loop = chunk("ANIM", [255, 255, 255, 255, 0, 0]);
  const shown = frames.map((frame) => {
    const fields = [...three(0), ...three(0), ...size, ...three(ms), 0x02];
    return chunk("ANMF", joined([Uint8Array.from(fields), ...pictureChunks(frame)]));
  });
  const body = joined([Uint8Array.from(four("WEBP")), head, loop, ...shown]);
  return chunk("RIFF", body);
}
