// Pictures that come from outside: chosen, dropped, pasted.
import { h } from "./dom.js";
import { open } from "./picture.js";

/** @typedef {import("./session.js").Session} Session */

/** Ask for a file. */
export function choose(/** @type {Session} */ session) {
  const input = h("input", { type: "file", accept: "image/*", onchange: () => input.files[0] && open(session, input.files[0]) });
  input.click();
}

/** @param {Session} session @param {HTMLElement} root @param {HTMLElement} frame @param {HTMLElement} keys has the focus on the canvas */
export function takeFiles(session, root, frame, keys) {
  const first = (/** @type {DataTransfer | null} */ data) => [...(data?.files ?? [])][0];
  const take = (/** @type {Event} */ event) => {
    event.preventDefault();
    event.stopPropagation();
  };
  root.addEventListener("dragover", (event) => {
    take(event);
    frame.classList.add("lazy-drop");
  });
  root.addEventListener("dragleave", () => frame.classList.remove("lazy-drop"));
  root.addEventListener("drop", (event) => {
    take(event);
    frame.classList.remove("lazy-drop");
    const file = first(event.dataTransfer);
    if (file) open(session, file);
  });
  root.addEventListener("paste", (event) => {
    event.stopPropagation();
    const file = first(event.clipboardData);
    if (!file && event.target !== keys) return; // text for the prompt
    event.preventDefault();
    if (file) open(session, file);
    else session.say("noClipboard");
  });
}
