// Two rows of small pictures: the results of the last run, and the history of edits.
import { h } from "./dom.js";
import { accept, address, look, reject } from "./loop.js";
import { goTo } from "./picture.js";
import { parseFile } from "./state.js";

/** @typedef {import("./session.js").Session} Session */

/** Keep the elements of a row in step with a list, made anew only where something changed. */
function fill(
  /** @type {HTMLElement} */ row,
  /** @type {any[]} */ list,
  /** @type {(item: any) => string} */ key,
  /** @type {(item: any) => HTMLElement} */ make,
) {
  const known = new Map([...row.children].map((child) => [/** @type {HTMLElement} */ (child).dataset.key, child]));
  const wanted = list.map((item) => {
    const element = known.get(key(item)) ?? make(item);
    /** @type {HTMLElement} */ (element).dataset.key = key(item);
    return element;
  });
  if (wanted.length !== row.children.length || wanted.some((element, index) => row.children[index] !== element))
    row.replaceChildren(...wanted);
}

export class ResultStrip {
  constructor(/** @type {Session} */ session, /** @type {any} */ words) {
    this.session = session;
    this.words = words;
    this.row = h("div", {
      class: "lazy-strip",
      style: "flex:0 1 auto",
      "data-testid": "lazy-results",
      onpointerleave: () => look(session, session.shown),
    });
    const press = (/** @type {string} */ name, /** @type {() => void} */ act) =>
      h(
        "button",
        { class: "lazy-text", type: "button", title: words[`${name}Tip`], onclick: act, "data-testid": `lazy-${name}` },
        words[name],
      );
    const buttons = [
      press("accept", () => accept(session, session.shown ?? session.state.results.at(-1)?.filename)),
      press("reject", () => reject(session)),
    ];
    this.element = h("div", { class: "lazy-row lazy-over", hidden: true }, this.row, ...buttons);
  }

  update() {
    const { session, words } = this;
    const { results } = session.state;
    this.element.hidden = results.length === 0;
    this.element.classList.toggle("lazy-high", session.tokens.middle > 0.55); // it must not lie over what was made
    fill(
      this.row,
      results,
      (result) => result.filename,
      (result) => {
        const label = words.result(result);
        const picture = h("img", { src: address(session, result), alt: "", draggable: "false", onerror: () => this.gone(result) });
        const attributes = { class: "lazy-thumb", type: "button", title: label, "aria-label": label, "data-testid": "lazy-result" };
        return h(
          "button",
          { ...attributes, onpointerenter: () => look(session, result.filename), onclick: () => accept(session, result.filename) },
          picture,
        );
      },
    );
    for (const child of this.row.children) child.setAttribute("aria-pressed", String(child.dataset.key === session.shown));
  }

  /** The server has dropped its temporary files. */
  gone(/** @type {any} */ result) {
    this.session.state.results = this.session.state.results.filter((one) => one.filename !== result.filename);
    this.session.changed();
  }
}

export class HistoryStrip {
  constructor(/** @type {Session} */ session, /** @type {any} */ words) {
    this.session = session;
    this.words = words;
    this.element = h("div", { class: "lazy-strip lazy-small", role: "toolbar", "aria-label": words.edits, "data-testid": "lazy-history" });
  }

  update() {
    const { session, words } = this;
    const { edits, at } = session.state;
    if (!edits.length) return this.element.replaceChildren(words.noEdits);
    fill(
      this.element,
      edits,
      (edit) => `${edit.n} ${edit.canvas}`,
      (edit) => {
        const file = parseFile(edit.canvas);
        const label = words.edit(edit);
        const color = h("div", { style: `width:40px;height:100%;background:${edit.color ?? "#888"}` });
        const picture = file ? h("img", { src: address(session, file), alt: "", draggable: "false", loading: "lazy" }) : color;
        const attributes = { class: "lazy-thumb", type: "button", title: label, "aria-label": label, "data-testid": "lazy-edit" };
        return h("button", { ...attributes, onclick: () => goTo(session, edit) }, picture);
      },
    );
    for (const child of this.element.children) child.setAttribute("aria-current", String(Number.parseInt(child.dataset.key, 10) === at));
    const current = this.element.querySelector("[aria-current=true]");
    if (current && current !== this.seen) this.element.scrollLeft = /** @type {HTMLElement} */ (current).offsetLeft - 100;
    this.seen = current;
  }
}
