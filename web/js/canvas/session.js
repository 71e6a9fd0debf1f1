// One canvas: its layers, tools, undo and files. It outlives its node, which the page makes anew at every undo of its own.
import { blankPicture, download, encodePng, maskPicture, newCanvas, pen, Trouble } from "./files.js";
import { Layers } from "./layers.js";
import { Saver } from "./saver.js";
import { emptyState, parseFile, readState } from "./state.js";
import { TokenGrid, sideOf } from "./tokens.js";
import { UndoStack } from "./undo.js";
import { View } from "./view.js";

/** @typedef {import("./saver.js").FileName} FileName */
/** @typedef {{ canvas_file: string, mask_file: string, sketch_file: string, width: number, height: number, color: string }} Names */

const UNDO_BYTES = 256 << 20;
const RETRY_MS = 4000;
/** @type {FileName[]} */
export const FILES = ["canvas_file", "mask_file", "sketch_file"];
export const WIDGETS = [...FILES, "width", "height", "color"];

export class Session extends EventTarget {
  /** @param {import("./host.js").Host} host @param {HTMLElement} frame where the picture is shown */
  constructor(host, frame) {
    super();
    this.host = host;
    this.state = emptyState();
    /** the live node, if there is one @type {any} */
    this.node = null;
    /** files were named while no node was there to be told */
    this.ahead = false;
    /** @type {Names | null} */
    this.names = null;
    this.layers = new Layers(512, 512);
    this.overlay = newCanvas(512, 512);
    this.overlay.className = "lazy-layer lazy-overlay";
    this.view = new View(frame);
    this.tokens = new TokenGrid(512, 512);
    this.changes = new UndoStack(UNDO_BYTES);
    this.saver = new Saver(
      host.api,
      (name, value) => this.saved(name, value),
      (trouble) => this.failed(trouble),
    );
    this.tool = "brush";
    this.size = 40;
    this.color = "#e05a3a";
    this.opacity = 1;
    this.grid = false;
    /** what the person typed; sent to the graph's nodes when an edit is made */
    this.wishes = { prompt: "", seed: 0, denoise: 1, strength: 0.5 };
    /** @type {{ code: string, values: any, bad: boolean } | null} */
    this.message = null;
    this.hasMask = false;
    this.hasSketch = false;
    /** which of the wishes the graph has a node for @type {{ prompt?: boolean, denoise?: boolean, seed?: boolean, sketch?: boolean }} */
    this.can = {};
    /** the result that is shown in place of the canvas, and the one under the pointer @type {string | null} */
    this.shown = null;
    /** @type {string | null} */
    this.looked = null;
    /** steps' guesses that were shown */
    this.previews = 0;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.retry = undefined;
    /** told the name under which the canvas was stored @type {((name: string) => void) | null} */
    this.named = null;
    /** the picture that came over the link, shown where no file was opened @type {import("./state.js").StoredFile | null} */
    this.linked = null;
    this.loading = Promise.resolve();
  }

  /** Tell the panel that something is to be shown anew. */
  changed() {
    this.dispatchEvent(new Event("change"));
  }

  set(/** @type {Record<string, any>} */ changes) {
    Object.assign(this, changes);
    this.view.showGrid(this.grid, this.tokens.side);
    this.changed();
  }

  /** Whether something is connected to an input of the node. */
  isLinked(/** @type {"image" | "mask"} */ name = "image") {
    return this.node?.inputs?.some((/** @type {any} */ input) => input.name === name && input.link != null) ?? false;
  }

  /** Whether the canvas is the linked picture: nothing was opened or accepted in its place. */
  takesLinked() {
    return this.isLinked() && !this.names?.canvas_file;
  }

  /** Prompt, seed, denoise or strength as the person wants them from now on. */
  wish(/** @type {Partial<Session["wishes"]>} */ wishes) {
    Object.assign(this.wishes, wishes);
    this.dispatchEvent(new CustomEvent("wished", { detail: wishes }));
    this.changed();
  }

  say(/** @type {string | null} */ code, values = {}, bad = true) {
    this.message = code ? { code, values, bad } : null;
    this.changed();
  }

  /** Say what went wrong; of what has no sentence, its own words. */
  failed(/** @type {any} */ trouble) {
    if (!(trouble instanceof Trouble)) console.error("[LazyDiffusion]", trouble);
    this.say(trouble.code ?? "other", trouble.values ?? { text: String(trouble?.message ?? trouble) });
    if (this.saver.pending) {
      clearTimeout(this.retry);
      this.retry = setTimeout(() => this.flush().catch((again) => this.failed(again)), RETRY_MS);
    }
  }

  // The node

  /** A node that shows this canvas has come, with what its workflow says. */
  attach(/** @type {any} */ node) {
    this.node = node;
    const kept = readState(node.properties.lazydiffusion);
    if (this.ahead) {
      this.tell();
    } else {
      const edits = new Map([...this.state.edits, ...kept.edits].map((edit) => [edit.n, edit]));
      const files = new Map([...this.state.results, ...kept.results].map((file) => [file.filename, file]));
      this.state = { ...kept, edits: [...edits.values()].sort((a, b) => a.n - b.n), results: [...files.values()] };
      const names = this.host.read(node, WIDGETS);
      if (JSON.stringify(names) !== JSON.stringify(this.names) && !this.saver.pending) this.loading = this.load(names);
    }
    this.changed();
  }

  /** Write everything into the node. */
  tell() {
    const live = this.node && this.host.isLive(this.node);
    this.ahead = !live;
    if (!live || !this.names) return;
    this.host.write(this.node, this.names);
    this.node.properties.lazydiffusion = JSON.parse(JSON.stringify(this.state));
    this.host.noteChange();
  }

  /** Show what the files hold. What cannot be fetched keeps its name: the workflow may belong to another server. */
  async load(/** @type {Names} */ names) {
    this.names = names;
    this.changes.clear();
    const fetched = async (/** @type {string} */ name) => {
      const file = parseFile(name);
      return file && createImageBitmap(await download(this.host.api, file));
    };
    const outcome = await Promise.allSettled(FILES.map((file) => fetched(names[file])));
    if (this.names !== names) return; // another load has begun
    const [canvas, mask, sketch] = outcome.map((one) => (one.status === "fulfilled" ? one.value : null));
    const lost = outcome.find((one) => one.status === "rejected");
    if (canvas) this.layers.show(canvas, canvas.width, canvas.height);
    else this.layers.show(blankPicture(names.width, names.height, names.color), names.width, names.height);
    this.layers.load("mask", mask);
    this.layers.load("sketch", sketch);
    this.laid();
    if (lost) this.failed(/** @type {PromiseRejectedResult} */ (lost).reason);
  }

  /** The layers' size or content was replaced. */
  laid() {
    const { width, height, base, mask, sketch } = this.layers;
    if (this.overlay.width !== width || this.overlay.height !== height) Object.assign(this.overlay, { width, height });
    this.tokens = new TokenGrid(width, height, this.tokens.side);
    this.view.lay([base, mask, sketch, this.overlay], width, height);
    this.layers.dirty = this.layers.everything;
    this.count();
    this.set({});
  }

  /** An edit was measured: its model says how large a token is. */
  remeasure() {
    const { all, width, height } = this.state.measured ?? {};
    if (!all || width !== this.layers.width || height !== this.layers.height) return;
    const side = sideOf(all, width, height);
    if (side !== this.tokens.side) this.tokens = new TokenGrid(width, height, side);
    this.layers.dirty = this.layers.everything;
    this.count();
    this.set({});
  }

  // Painting

  /** Count the hole's tokens anew where something was painted. */
  count() {
    if (!this.layers.dirty) return;
    const rect = this.tokens.whole(this.layers.dirty);
    this.layers.dirty = null;
    this.tokens.update(rect, pen(this.layers.mask, true).getImageData(rect.x, rect.y, rect.width, rect.height).data);
    this.hasMask = this.tokens.hole > 0;
    this.changed();
  }

  /** A change of the layers is complete: it can be taken back, and is sent to the server. */
  painted(/** @type {import("./undo.js").Change & { layers: Set<string> }} */ change) {
    if (!change.layers.size) return;
    const after = () => {
      if (change.layers.has("sketch")) this.hasSketch = !this.layers.isEmpty("sketch");
      this.save([...change.layers]);
    };
    const both = (/** @type {() => void} */ act) => () => {
      act();
      after();
    };
    this.changes.push({ bytes: change.bytes, undo: both(change.undo), redo: both(change.redo) });
    if (this.message?.code === "emptyMask") this.message = null;
    after();
  }

  save(/** @type {string[]} */ layers) {
    this.count();
    const { mask, sketch } = this.layers;
    if (layers.includes("mask"))
      this.saver.mark("mask_file", async () => (this.layers.isEmpty("mask") ? null : encodePng(maskPicture(mask))));
    if (layers.includes("sketch")) this.saver.mark("sketch_file", async () => (this.layers.isEmpty("sketch") ? null : encodePng(sketch)));
    this.dispatchEvent(new Event("painted"));
  }

  saved(/** @type {FileName} */ name, /** @type {string} */ value) {
    if (!this.names) return;
    this.names = { ...this.names, [name]: value };
    if (name === "canvas_file") this.named?.(value);
    if (["noServer", "uploadRefused", "uploadTooLarge"].includes(this.message?.code ?? "")) this.message = null;
    this.tell();
    this.changed();
  }

  /** Resolves once the node's widgets name what is seen. */
  async flush() {
    await this.loading;
    await this.saver.flush();
  }

  undo() {
    if (this.changes.undo()) this.changed();
  }

  redo() {
    if (this.changes.redo()) this.changed();
  }
}
