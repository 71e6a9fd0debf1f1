// Everything that a canvas shows in its node: bar, window, read-outs, prompt, results, history.
import { Bar, SIZES, slider } from "./bar.js";
import { pull, push } from "./controls.js";
import { h } from "./dom.js";
import { choose, takeFiles } from "./drop.js";
import { savePng, saveWebp } from "./export.js";
import { icon } from "./icons.js";
import { takeKeys } from "./keys.js";
import { accept, follow, reject, step } from "./loop.js";
import { NewCanvas } from "./newcanvas.js";
import { useLinked } from "./picture.js";
import { Pointer } from "./pointer.js";
import { cancel, fetchLinked, generate, jobsOf } from "./run.js";
import { Session } from "./session.js";
import { HistoryStrip, ResultStrip } from "./strip.js";
import { expected } from "./tokens.js";
import { TOOLS } from "./tools.js";
import { clear, coverAll, growMask, invert } from "./whole.js";
import { wordsOf } from "./words.js";

/** @typedef {import("./host.js").Host} Host */

export class Panel {
  constructor(/** @type {Host} */ host) {
    this.words = wordsOf(host.locale);
    const { words } = this;
    this.frame = h("div", { class: "lazy-frame", role: "img", "aria-label": words.canvas, "data-testid": "lazy-frame" });
    this.keys = h("textarea", {
      class: "lazy-keys",
      "aria-label": words.canvas,
      "data-testid": "lazy-keys",
      autocomplete: "off",
      spellcheck: "false",
    });
    this.session = new Session(host, this.frame);
    const { session } = this;
    this.newCanvas = new NewCanvas(session, words);
    this.actions = this.actionsOf();
    this.bar = new Bar(session, words, this.actions);
    this.results = new ResultStrip(session, words);
    this.history = new HistoryStrip(session, words);
    this.pointer = new Pointer(session, this.frame, this.keys);
    this.status = h("div", { class: "lazy-status", role: "status", "data-testid": "lazy-status" });
    this.message = h("div", { class: "lazy-message", role: "alert", "data-testid": "lazy-message", hidden: true });
    // Messages and results lie over the window's edges: a window that changed its size would move the picture under the pen.
    const window = h("div", { class: "lazy-window" }, this.frame, this.message, this.results.element);
    const rows = [this.bar.element, this.newCanvas.element, window, this.status, this.ask(), this.settings(), this.history.element];
    this.root = h("div", { class: "lazy-root", "data-testid": "lazy-root" }, this.keys, ...rows);
    takeKeys(this.root, this.keys, this.actions);
    this.root.addEventListener("keydown", (event) => this.hold(event, true));
    this.root.addEventListener("keyup", (event) => this.hold(event, false));
    for (const name of ["pointerdown", "pointermove", "pointerup", "mousedown", "dblclick", "wheel", "copy", "cut"]) {
      this.root.addEventListener(name, (event) => event.stopPropagation());
    }
    takeFiles(session, this.root, this.frame, this.keys);
    this.root.addEventListener("focusin", () => this.typing() || pull(session));
    follow(session);
    session.addEventListener("change", () => this.later());
    this.update();
  }

  /** @returns {import("./keys.js").Actions} */
  actionsOf() {
    const { session } = this;
    const tools = Object.fromEntries(TOOLS.map((tool) => [tool, () => session.set({ tool })]));
    const sized = (/** @type {number} */ factor) =>
      session.set({ size: Math.min(SIZES.most, Math.max(SIZES.least, session.size * factor)) });
    return {
      ...tools,
      undo: () => session.undo(),
      redo: () => session.redo(),
      invert: () => invert(session),
      grow: (shift) => growMask(session, shift ? -8 : 8),
      clear: () => clear(session),
      all: () => coverAll(session),
      grid: () => session.set({ grid: !session.grid }),
      fit: () => session.view.fit(),
      smaller: () => sized(1 / 1.15),
      larger: () => sized(1.15),
      zoomIn: () => session.view.zoomBy(1.25),
      zoomOut: () => session.view.zoomBy(0.8),
      open: () => choose(session),
      blank: () => this.newCanvas.toggle(),
      linked: () => (session.names?.canvas_file ? useLinked(session) : fetchLinked(session)),
      png: () => savePng(session),
      webp: () => saveWebp(session),
      generate: () => (jobsOf(session).length ? null : generate(session)),
      accept: () => (session.shown ? accept(session, session.shown) : null),
      reject: () => reject(session),
      next: () => step(session, 1),
      previous: () => step(session, -1),
    };
  }

  /** The prompt and its button. */
  ask() {
    const { session, words } = this;
    const type = () => session.wish({ prompt: this.prompt.value });
    const attributes = { class: "lazy-prompt", placeholder: words.prompt, "aria-label": words.prompt, "data-testid": "lazy-prompt" };
    this.prompt = h("textarea", { ...attributes, oninput: type, onchange: () => push(session) });
    const press = () => (jobsOf(session).length ? cancel(session) : generate(session));
    this.go = h(
      "button",
      { class: "lazy-go", type: "button", title: words.generateTip, onclick: press, "data-testid": "lazy-generate" },
      words.generate,
    );
    return h("div", { class: "lazy-row", style: "flex-wrap:nowrap" }, this.prompt, this.go);
  }

  /** Seed, number of results, strengths. */
  settings() {
    const { session, words } = this;
    const number = {
      class: "lazy-number",
      type: "number",
      min: 0,
      step: 1,
      "aria-label": words.seed,
      title: words.seed,
      "data-testid": "lazy-seed",
    };
    this.seed = h("input", {
      ...number,
      onchange: () => {
        session.state.random = false;
        session.wish({ seed: Math.max(0, Math.floor(Number(this.seed.value)) || 0) });
        push(session);
      },
    });
    const toggle = () => {
      session.state.random = !session.state.random;
      session.tell();
      session.changed();
    };
    this.random = h(
      "button",
      {
        class: "lazy-tool",
        type: "button",
        title: words.random,
        "aria-label": words.random,
        onclick: toggle,
        "data-testid": "lazy-random",
      },
      icon("random"),
    );
    this.seeds = slider(
      "seeds",
      words.seedsTip,
      { min: 1, max: 8, step: 1 },
      (seeds) => {
        session.state.seeds = seeds;
        session.tell();
        session.changed();
      },
      words.seeds,
    );
    const part = { min: 0, max: 1, step: 0.05 };
    this.denoise = slider("denoise", words.denoiseTip, part, (denoise) => session.wish({ denoise }), words.denoise);
    this.strength = slider("strength", words.strengthTip, part, (strength) => session.wish({ strength }), words.strength);
    for (const { input } of [this.denoise, this.strength]) input.addEventListener("change", () => push(session));
    return h(
      "div",
      { class: "lazy-row" },
      words.seed,
      this.random,
      this.seed,
      this.seeds.element,
      this.denoise.element,
      this.strength.element,
    );
  }

  typing() {
    return document.activeElement === this.prompt || document.activeElement === this.seed;
  }

  /** Space moves the canvas while it is held. */
  hold(/** @type {KeyboardEvent} */ event, /** @type {boolean} */ down) {
    if (event.key !== " " || event.target !== this.keys) return;
    event.preventDefault();
    this.pointer.space = down;
  }

  /** Show it anew once in the next frame, however much changes until then. */
  later() {
    this.frameId ??= requestAnimationFrame(() => {
      this.frameId = undefined;
      this.update();
    });
  }

  update() {
    const { session } = this;
    for (const part of [this.bar, this.results, this.history]) part.update();
    if (document.activeElement !== this.prompt && this.prompt.value !== session.wishes.prompt) this.prompt.value = session.wishes.prompt;
    if (document.activeElement !== this.seed) this.seed.value = String(session.wishes.seed);
    this.random.setAttribute("aria-pressed", String(session.state.random));
    this.seeds.show(session.state.seeds);
    this.denoise.show(session.wishes.denoise);
    this.strength.show(session.wishes.strength);
    this.denoise.element.hidden = session.can?.denoise === false;
    this.strength.element.hidden = !session.hasSketch || session.can?.sketch === false;
    this.status.textContent = this.statusText();
    this.updateRun();
    this.updateMessage();
  }

  updateRun() {
    const jobs = jobsOf(this.session);
    const done = jobs.reduce((sum, job) => sum + (job.max ? job.value / job.max : 0), 0) / Math.max(1, jobs.length);
    this.go.textContent = jobs.length ? this.words.cancel : this.words.generate;
    this.go.style.setProperty("--lazy-done", jobs.length ? `${Math.round(100 * done)}%` : "0%");
    this.root.setAttribute("aria-busy", String(jobs.length > 0));
  }

  updateMessage() {
    const { message } = this.session;
    this.message.hidden = !message;
    if (!message) return;
    this.message.classList.toggle("lazy-plain", !message.bad);
    const text = this.words.messages[message.code]?.(message.values) ?? message.code;
    if (this.message.textContent !== text) this.message.replaceChildren(h("span", {}, text));
  }

  statusText() {
    const { session, words } = this;
    const { width, height } = session.layers;
    const { measured } = session.state;
    if (!session.hasMask) return words.nothing({ width, height });
    const { share, hole, all } = session.tokens;
    const text = words.readout({ width, height, share: (100 * share).toFixed(share < 0.1 ? 1 : 0), hole, all });
    if (!measured || measured.all !== all) return text;
    return text + words.expected({ ms: expected(measured, hole), fullMs: measured.fullMs });
  }
}
