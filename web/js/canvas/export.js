// What leaves the page: the canvas as a PNG with its workflow, the sequence of edits as an animated WebP.
import { blankPicture, download, encodePng, newCanvas, pen } from "./files.js";
import { h } from "./dom.js";
import { withText } from "./png.js";
import { currentEdit, parseFile, pathTo } from "./state.js";
import { animate } from "./webp.js";

/** @typedef {import("./session.js").Session} Session */

const FRAME_MS = 900;

function offer(/** @type {BlobPart} */ bytes, /** @type {string} */ type, /** @type {string} */ name) {
  const address = URL.createObjectURL(new Blob([bytes], { type }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

/** The canvas as it is, with the page's workflow: dropped on a page, it opens it. */
export async function savePng(/** @type {Session} */ session) {
  try {
    await session.flush();
    const { output, workflow } = await session.host.prompt();
    const bytes = await encodePng(session.layers.base);
    offer(
      withText(bytes, { workflow: JSON.stringify(workflow), prompt: JSON.stringify(output) }),
      "image/png",
      `canvas_${currentEdit(session.state)?.n ?? 0}.png`,
    );
  } catch (trouble) {
    session.failed(trouble);
  }
}

/** All edits from the first canvas to this one, one after the other. */
export async function saveWebp(/** @type {Session} */ session) {
  try {
    await session.flush();
    const { width, height } = session.layers;
    const frames = [];
    for (const edit of pathTo(session.state)) {
      const file = parseFile(edit.canvas);
      const picture = file
        ? await createImageBitmap(await download(session.host.api, file))
        : blankPicture(edit.width, edit.height, edit.color ?? "#888888");
      const canvas = newCanvas(width, height);
      pen(canvas).drawImage(picture, 0, 0, width, height);
      const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/webp", 0.9));
      frames.push(new Uint8Array(await /** @type {Blob} */ (blob).arrayBuffer()));
    }
    offer(animate(frames, width, height, FRAME_MS), "image/webp", "edits.webp");
  } catch (trouble) {
    session.failed(trouble);
  }
}
