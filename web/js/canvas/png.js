// Text in a PNG, as ComfyUI keeps its workflow there.

/** @type {Uint32Array | null} */
let table = null;

function crc(/** @type {Uint8Array} */ bytes) {
  table ??= Uint32Array.from({ length: 256 }, (_, n) => {
    for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });
  let value = 0xffffffff;
  for (const byte of bytes) value = table[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

/** One chunk: length, kind and data, checksum. */
function chunk(/** @type {string} */ kind, /** @type {Uint8Array} */ data) {
  const bytes = new Uint8Array(12 + data.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, data.length);
  bytes.set(
    [...kind].map((letter) => letter.charCodeAt(0)),
    4,
  );
  bytes.set(data, 8);
  view.setUint32(8 + data.length, crc(bytes.subarray(4, 8 + data.length)));
  return bytes;
}

const AFTER_HEADER = 8 + 25; // the signature, and IHDR with its 13 bytes

/**
 * The PNG with texts by keyword. Characters beyond ASCII are written as JSON escapes, for tEXt holds Latin-1 alone.
 * @param {Uint8Array} png @param {Record<string, string>} texts JSON @returns {Uint8Array<ArrayBuffer>}
 */
export function withText(png, texts) {
  const escaped = (/** @type {string} */ text) =>
    text.replace(/[^\x20-\x7e]/g, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
  const chunks = Object.entries(texts).map(([key, text]) => chunk("tEXt", new TextEncoder().encode(`${key}\0${escaped(text)}`)));
  const size = chunks.reduce((sum, one) => sum + one.length, png.length);
  const whole = new Uint8Array(size);
  let at = 0;
  for (const piece of [png.subarray(0, AFTER_HEADER), ...chunks, png.subarray(AFTER_HEADER)]) {
    whole.set(piece, at);
    at += piece.length;
  }
  return whole;
}
