// Pictures between the page and the server: opened, encoded, named by their content, uploaded by the host's own route.
import { digest } from "./sha256.js";
import { annotate, viewPath } from "./state.js";

/** @typedef {import("./state.js").StoredFile} StoredFile */
/** @typedef {{ fetchApi: (path: string, options?: RequestInit) => Promise<Response> }} Api */

export const FOLDER = "lazydiffusion";
/** Pixels of the largest canvas; larger pictures are scaled down when they are opened. */
export const MOST_PIXELS = 4096 * 4096;

/** Something that went wrong and has a sentence in words.js. */
export class Trouble extends Error {
  /** @param {string} code @param {Record<string, any>} [values] */
  constructor(code, values = {}) {
    super(code);
    this.code = code;
    this.values = values;
  }
}

/** @param {number} width @param {number} height @returns {HTMLCanvasElement} */
export function newCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

/** @returns {CanvasRenderingContext2D} */
export function pen(/** @type {HTMLCanvasElement} */ canvas, read = false) {
  return /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { willReadFrequently: read }));
}

/** A picture of one colour. */
export function blankPicture(/** @type {number} */ width, /** @type {number} */ height, /** @type {string} */ color) {
  const picture = newCanvas(width, height);
  const context = pen(picture);
  context.fillStyle = color;
  context.fillRect(0, 0, width, height);
  return picture;
}

/**
 * A picture file upright, without alpha (on white), at most MOST_PIXELS large. Raises Trouble.
 * @param {Blob} blob @returns {Promise<{ canvas: HTMLCanvasElement, scaledFrom: [number, number] | null }>}
 */
export async function openPicture(blob) {
  let picture;
  try {
    picture = await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch {
    throw new Trouble("notAPicture", { name: /** @type {any} */ (blob).name ?? blob.type });
  }
  const { width, height } = picture;
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
  const canvas = newCanvas(Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale)));
  if (Math.min(canvas.width, canvas.height) < 16) throw new Trouble("tooSmall", { width, height });
  const context = pen(canvas);
  context.fillStyle = "#fff";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  picture.close();
  return { canvas, scaledFrom: scale < 1 ? [width, height] : null };
}

/** @returns {Promise<Uint8Array<ArrayBuffer>>} */
export async function encodePng(/** @type {HTMLCanvasElement} */ canvas) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (!blob) throw new Trouble("tooLarge", { width: canvas.width, height: canvas.height });
  return new Uint8Array(await /** @type {Blob} */ (blob).arrayBuffer());
}

/** The mask layer's alpha as white on black, opaque. */
export function maskPicture(/** @type {HTMLCanvasElement} */ layer) {
  const picture = newCanvas(layer.width, layer.height);
  const context = pen(picture);
  context.drawImage(layer, 0, 0);
  context.globalCompositeOperation = "source-in";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, layer.width, layer.height);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "#000";
  context.fillRect(0, 0, layer.width, layer.height);
  return picture;
}

/** How long an upload may take: half a minute, and its size at 20 kB a second. What a sleeping laptop had on its way never ends. */
const patience = (/** @type {number} */ bytes) => Math.ceil(30_000 + bytes / 20);

/** Names of what this page knows to be on the server, so that the same bytes are not sent twice. @type {Set<string>} */
const there = new Set();

/**
 * Put a PNG into the server's input folder under a name made of its content -> "lazydiffusion/name.png [input]". Raises Trouble.
 * @param {Api} api @param {Uint8Array<ArrayBuffer>} bytes @param {number} [most] milliseconds until it is given up
 */
export async function upload(api, bytes, most = patience(bytes.length)) {
  const filename = `${(await digest(bytes)).slice(0, 32)}.png`;
  const name = annotate({ filename, subfolder: FOLDER, type: "input" });
  if (there.has(name)) return name;
  const form = new FormData();
  form.append("image", new File([bytes], filename, { type: "image/png" }));
  form.append("subfolder", FOLDER);
  form.append("type", "input");
  let answer;
  try {
    answer = await api.fetchApi("/upload/image", { method: "POST", body: form, signal: AbortSignal.timeout(most) });
  } catch {
    throw new Trouble("noServer");
  }
  if (answer.status === 413) throw new Trouble("uploadTooLarge", { size: Math.ceil(bytes.length / 2 ** 20) });
  if (!answer.ok) throw new Trouble("uploadRefused", { status: answer.status });
  const stored = await answer.json();
  there.add(name);
  return annotate({ filename: stored.name, subfolder: stored.subfolder ?? FOLDER, type: stored.type ?? "input" });
}

/** The server was started anew, perhaps elsewhere: what was there may be gone. */
export function forgetUploads() {
  there.clear();
}

/** @param {Api} api @param {StoredFile} file @returns {Promise<Blob>} as the server has it. Raises Trouble. */
export async function download(api, file) {
  let answer;
  try {
    answer = await api.fetchApi(viewPath(file));
  } catch {
    throw new Trouble("noServer");
  }
  if (!answer.ok) throw new Trouble("fileGone", { name: file.filename });
  return answer.blob();
}
