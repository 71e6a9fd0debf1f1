// What comes back from a run: the preview in the hole, the results, and what becomes of them.
import { download, pen, Trouble } from "./files.js";
import { begin } from "./picture.js";
import { MOST_RESULTS, viewPath } from "./state.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./state.js").Result} Result */

/** Loaded pictures of results, by file name. @type {WeakMap<Session, Map<string, HTMLImageElement>>} */
const pictures = new WeakMap();

function picturesOf(/** @type {Session} */ session) {
  const known = pictures.get(session) ?? new Map();
  pictures.set(session, known);
  return known;
}

/** The address of a stored picture for an <img>. */
export function address(/** @type {Session} */ session, /** @type {import("./state.js").StoredFile} */ file) {
  return session.host.api.apiURL(viewPath(file));
}

/** @returns {Promise<HTMLImageElement>} */
export async function pictureOf(/** @type {Session} */ session, /** @type {import("./state.js").StoredFile} */ file) {
  const known = picturesOf(session);
  let picture = known.get(file.filename);
  if (!picture) {
    picture = new Image();
    picture.src = address(session, file);
    known.set(file.filename, picture);
  }
  try {
    await picture.decode();
  } catch {
    known.delete(file.filename);
    throw new Trouble("fileGone", { name: file.filename });
  }
  return picture;
}

/** Draw something over the canvas instead of mask and sketch; null shows the canvas again. */
export function cover(/** @type {Session} */ session, /** @type {CanvasImageSource | null} */ picture, inHole = false) {
  const { overlay, layers, view } = session;
  const context = pen(overlay);
  context.globalCompositeOperation = "source-over";
  context.clearRect(0, 0, overlay.width, overlay.height);
  if (picture) context.drawImage(picture, 0, 0, overlay.width, overlay.height);
  if (picture && inHole) {
    context.globalCompositeOperation = "destination-in";
    context.drawImage(layers.mask, 0, 0);
  }
  view.stage.classList.toggle("lazy-covered", picture !== null);
}

/** A step's guess, shown where the hole is. */
export async function preview(/** @type {Session} */ session, /** @type {Blob} */ blob) {
  const guess = await createImageBitmap(blob);
  cover(session, guess, session.hasMask);
  guess.close();
  session.previews++;
  session.view.stage.dataset.previews = String(session.previews);
}

/** A result has come: it joins the strip, and the first one of a run is shown at once. */
export async function addResult(/** @type {Session} */ session, /** @type {Result} */ result) {
  const { state } = session;
  try {
    const picture = await pictureOf(session, result);
    if (!state.results.some((one) => one.filename === result.filename)) state.results = [...state.results, result].slice(-MOST_RESULTS);
    session.tell();
    if (session.shown === null) show(session, result.filename);
    else if (session.shown === result.filename) cover(session, picture);
  } catch (trouble) {
    session.failed(trouble);
  }
  session.changed();
}

/** Show a result in place of the canvas; null: the canvas. */
export async function show(/** @type {Session} */ session, /** @type {string | null} */ filename) {
  session.shown = filename;
  await look(session, filename);
  session.changed();
}

/** The same for as long as a pointer is over its thumbnail. */
export async function look(/** @type {Session} */ session, /** @type {string | null} */ filename) {
  session.looked = filename;
  const result = session.state.results.find((one) => one.filename === filename);
  if (!result) return cover(session, null);
  try {
    const picture = await pictureOf(session, result);
    if (session.looked === filename) cover(session, picture);
  } catch (trouble) {
    session.failed(trouble);
  }
}

/** The result becomes the canvas of the next edit. Its file is stored as it is, byte for byte. */
export async function accept(/** @type {Session} */ session, /** @type {string | null | undefined} */ filename) {
  const result = session.state.results.find((one) => one.filename === filename);
  if (!result) return;
  try {
    const picture = await pictureOf(session, result);
    const { naturalWidth: width, naturalHeight: height } = picture;
    const { prompt, seed, denoise, strength, mask, sketch } = result;
    const bytes = download(session.host.api, result).then((blob) => blob.arrayBuffer());
    bytes.catch(() => {}); // the saver reports it
    const again = async () => new Uint8Array(await bytes.catch(async () => (await download(session.host.api, result)).arrayBuffer()));
    begin(session, { picture, width, height, make: again }, { prompt, seed, denoise, strength, mask, sketch });
    session.say(null);
  } catch (trouble) {
    session.failed(trouble);
  }
}

/** None of them: mask, prompt and canvas stay. */
export function reject(/** @type {Session} */ session) {
  session.state.results = [];
  session.shown = null;
  cover(session, null);
  session.tell();
  session.changed();
}

/** The next or the previous one is shown; past the ends lies the canvas itself. */
export function step(/** @type {Session} */ session, /** @type {number} */ by) {
  const names = [null, ...session.state.results.map((one) => one.filename)];
  const at = names.indexOf(session.shown);
  show(session, names[(at + by + names.length) % names.length]);
}

/** Results and previews give way to whatever the person does on the canvas. */
export function follow(/** @type {Session} */ session) {
  const uncover = () => {
    session.shown = null;
    session.looked = null;
    cover(session, null);
    session.changed();
  };
  session.addEventListener("begun", uncover);
  session.addEventListener("painting", uncover);
}
