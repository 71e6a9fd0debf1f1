// From one picture to the next: opened, blank, accepted, or gone back to; each can be taken back by undo.
import { blankPicture, download, encodePng, forgetUploads, newCanvas, openPicture, pen, upload } from "./files.js";
import { FILES } from "./session.js";
import { addEdit, currentEdit, parseFile } from "./state.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {import("./session.js").Names} Names */
/** @typedef {{ picture: CanvasImageSource, width: number, height: number, color?: string, name?: string, make?: import("./saver.js").Make }} Next */

/** Open a file of the person's. */
export async function open(/** @type {Session} */ session, /** @type {Blob} */ blob) {
  try {
    session.say("opening", {}, false);
    const { canvas, scaledFrom } = await openPicture(blob);
    const size = { width: canvas.width, height: canvas.height };
    begin(session, { picture: canvas, ...size, make: () => encodePng(canvas) });
    session.say(scaledFrom ? "scaled" : null, { ...size, from: scaledFrom }, false);
  } catch (trouble) {
    session.failed(trouble);
  }
}

export function blank(
  /** @type {Session} */ session,
  /** @type {number} */ width,
  /** @type {number} */ height,
  /** @type {string} */ color,
) {
  begin(session, { picture: blankPicture(width, height, color), width, height, color });
}

/** Go back to an edit of the history, or over to another branch of it. */
export async function goTo(/** @type {Session} */ session, /** @type {import("./state.js").Edit} */ edit) {
  const file = parseFile(edit.canvas);
  try {
    const { width, height, color = "#c8c8c8" } = edit;
    const picture = file ? await createImageBitmap(await download(session.host.api, file)) : blankPicture(width, height, color);
    begin(session, { picture, width, height, color: edit.color, name: edit.canvas }, null);
    session.state.at = edit.n;
    if (edit.prompt) session.wish({ prompt: edit.prompt });
    session.tell();
    session.changed();
  } catch (trouble) {
    session.failed(trouble);
  }
}

/**
 * Go on from another picture, with an empty mask.
 * @param {Session} session @param {Next} next @param {Record<string, any> | null} made what made it, for the history; null: it is in there
 */
export function begin(session, next, made = {}) {
  const { state } = session;
  if (made && !state.edits.length && session.names) addRoot(session);
  const before = snapshot(session);
  const { picture, width, height, color = session.names?.color ?? "#c8c8c8", name = "", make } = next;
  session.layers.show(picture, width, height);
  session.layers.load("mask", null);
  session.layers.load("sketch", null);
  for (const file of FILES) session.saver.settle(file);
  session.names = { canvas_file: name, mask_file: "", sketch_file: "", width, height, color };
  session.hasSketch = false;
  state.results = [];
  const edit = made && addEdit(state, { canvas: name, width, height, ...(make || name ? {} : { color }), ...made });
  session.laid();
  if (make) store(session, edit, make);
  session.tell();
  const after = snapshot(session);
  session.changes.push({
    bytes: before.bytes,
    undo: () => restore(session, before),
    redo: () => restore(session, { ...after, names: { ...after.names, canvas_file: edit?.canvas ?? name } }),
  });
  session.dispatchEvent(new Event("begun"));
}

function store(/** @type {Session} */ session, /** @type {any} */ edit, /** @type {import("./saver.js").Make} */ make) {
  session.named = (name) => {
    if (edit) edit.canvas = name;
    session.named = null;
  };
  session.saver.mark("canvas_file", make);
}

/** The server has lost this canvas's files: they are made anew of what is seen. */
export function sendAgain(/** @type {Session} */ session) {
  forgetUploads();
  const { base } = session.layers;
  if (session.names?.canvas_file) store(session, currentEdit(session.state), () => encodePng(base));
  session.save(["mask", "sketch"]);
}

/** The picture before the first edit begins the history; one that came over a link is stored, so that it can be gone back to. */
function addRoot(/** @type {Session} */ session) {
  const { width, height } = session.layers;
  const { canvas_file, color } = /** @type {Names} */ (session.names);
  const root = addEdit(session.state, { canvas: canvas_file, width, height, ...(canvas_file || session.linked ? {} : { color }) });
  if (canvas_file || !session.linked) return;
  const picture = copy(session.layers.base);
  encodePng(picture)
    .then((bytes) => upload(session.host.api, bytes))
    .then((name) => {
      root.canvas = name;
      session.tell();
    })
    .catch((trouble) => session.failed(trouble));
}

function copy(/** @type {HTMLCanvasElement} */ from) {
  const canvas = newCanvas(from.width, from.height);
  pen(canvas).drawImage(from, 0, 0);
  return canvas;
}

/** All that `restore` needs to bring this moment back. */
function snapshot(/** @type {Session} */ session) {
  const { base, mask, sketch, width, height } = session.layers;
  const { at, results } = session.state;
  const names = /** @type {Names} */ ({ ...session.names });
  return { base: copy(base), mask: copy(mask), sketch: copy(sketch), names, at, results, bytes: 12 * width * height };
}

function restore(/** @type {Session} */ session, /** @type {ReturnType<typeof snapshot>} */ moment) {
  session.layers.show(moment.base, moment.base.width, moment.base.height);
  for (const layer of /** @type {const} */ (["mask", "sketch"])) {
    session.layers.load(layer, null);
    pen(session.layers[layer], true).drawImage(moment[layer], 0, 0);
  }
  session.hasSketch = !session.layers.isEmpty("sketch");
  for (const file of FILES) session.saver.settle(file);
  session.names = { ...moment.names };
  Object.assign(session.state, { at: moment.at, results: moment.results });
  session.laid();
  const edit = session.state.edits.find((one) => one.n === moment.at);
  // An upload that was still on its way at this moment.
  if (edit && !edit.color && !edit.canvas && !session.linked) store(session, edit, () => encodePng(moment.base));
  else if (edit?.canvas && !session.linked) session.names.canvas_file = edit.canvas;
  session.save(["mask", "sketch"]);
  session.tell();
  session.dispatchEvent(new Event("begun"));
}

/** The picture that a run found on the canvas's input: shown where none was opened here. */
export async function showLinked(/** @type {Session} */ session, /** @type {import("./state.js").StoredFile | undefined} */ found) {
  if (!found || session.names?.canvas_file || session.linked?.filename === found.filename) return;
  try {
    const picture = await createImageBitmap(await download(session.host.api, found));
    session.linked = found;
    if (!session.layers.show(picture, picture.width, picture.height)) session.save(["mask", "sketch"]);
    session.laid();
  } catch (trouble) {
    session.failed(trouble);
  }
}

/** Give up what was opened or accepted for the picture that is linked. */
export async function useLinked(/** @type {Session} */ session) {
  const { linked } = session;
  if (!linked) {
    blank(session, session.layers.width, session.layers.height, session.names?.color ?? "#c8c8c8");
    return;
  }
  try {
    const picture = await createImageBitmap(await download(session.host.api, linked));
    begin(session, { picture, width: picture.width, height: picture.height }, null);
  } catch (trouble) {
    session.failed(trouble);
  }
}
