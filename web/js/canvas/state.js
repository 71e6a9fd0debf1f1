// What a canvas remembers in its node's properties: its id, its history of edits, the open results. Names of files, never pixels.

/** @typedef {{ filename: string, subfolder: string, type: string }} StoredFile */
/**
 * @typedef {object} Edit one accepted canvas, and what made it
 * @property {number} n its number, unique in this history
 * @property {number} parent the edit that it started from, -1 for a picture that was opened
 * @property {string} canvas "folder/name.png [input]", or "" for a blank canvas
 * @property {number} width
 * @property {number} height
 * @property {string} [color] of a blank canvas
 * @property {string} [mask] the mask that made it
 * @property {string} [sketch]
 * @property {string} [prompt]
 * @property {number} [seed]
 * @property {number} [denoise]
 * @property {number} [strength]
 */
/** @typedef {StoredFile & { seed?: number, prompt?: string, denoise?: number, strength?: number, mask?: string, sketch?: string }} Result */
/** @typedef {{ hole: number, all: number, ms: number, fullMs: number, width: number, height: number }} Measured */
/** @typedef {{ id: string, edits: Edit[], at: number, results: Result[], seeds: number, random: boolean, format: number, measured?: Measured }} State */

export const MOST_EDITS = 60;
export const MOST_RESULTS = 16;

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** @returns {State} */
export function emptyState() {
  return { id: newId(), edits: [], at: -1, results: [], seeds: 1, random: true, format: 1 };
}

/** State out of a node's properties, whatever is in them. @param {any} kept @returns {State} */
export function readState(kept) {
  const state = emptyState();
  if (!kept || typeof kept !== "object") return state;
  if (typeof kept.id === "string" && kept.id) state.id = kept.id;
  if (Array.isArray(kept.edits)) state.edits = kept.edits.filter((/** @type {any} */ edit) => Number.isInteger(edit?.n));
  if (Array.isArray(kept.results)) state.results = kept.results.filter((/** @type {any} */ file) => typeof file?.filename === "string");
  if (Number.isInteger(kept.at)) state.at = kept.at;
  if (kept.seeds >= 1 && kept.seeds <= 8) state.seeds = Math.round(kept.seeds);
  if (typeof kept.random === "boolean") state.random = kept.random;
  if (kept.measured?.ms > 0) state.measured = kept.measured;
  return state;
}

/** Add an edit made from the current one, and go to it. Old ones go first, but never the way back from the current one's parent. */
export function addEdit(/** @type {State} */ state, /** @type {Omit<Edit, "n" | "parent">} */ edit) {
  const n = 1 + Math.max(0, ...state.edits.map((one) => one.n));
  const added = { ...edit, n, parent: state.at };
  state.edits = [...state.edits, added].slice(-MOST_EDITS);
  state.at = n;
  return added;
}

/** @returns {Edit | undefined} */
export function currentEdit(/** @type {State} */ state) {
  return state.edits.find((edit) => edit.n === state.at);
}

/** The edits from the first one to the current one, along its branch. @returns {Edit[]} */
export function pathTo(/** @type {State} */ state, at = state.at) {
  const path = [];
  for (let edit = state.edits.find((one) => one.n === at); edit; edit = state.edits.find((one) => one.n === edit?.parent))
    path.unshift(edit);
  return path;
}

/** "folder/name.png [input]" -> its parts; null for "". @returns {StoredFile | null} */
export function parseFile(/** @type {string} */ name) {
  const match = /^(?:(.*)\/)?([^/]+?)(?: \[(input|output|temp)\])?$/.exec(name ?? "");
  return match && { filename: match[2], subfolder: match[1] ?? "", type: match[3] ?? "input" };
}

export function annotate(/** @type {StoredFile} */ file) {
  return `${file.subfolder ? `${file.subfolder}/` : ""}${file.filename} [${file.type}]`;
}

/** The address below the API at which the server hands out a file's bytes. */
export function viewPath(/** @type {StoredFile} */ file) {
  const { filename, subfolder, type } = file;
  return `/view?${new URLSearchParams({ filename, subfolder, type })}`;
}

/** `count` seeds, in the range that every node takes: a random first one and those after it, or the given one and those after it. */
export function seedsFor(/** @type {number} */ count, /** @type {number | null} */ first) {
  const start = first ?? crypto.getRandomValues(new Uint32Array(1))[0];
  return Array.from({ length: count }, (_, index) => start + index);
}
