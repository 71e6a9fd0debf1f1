// What keys do while the canvas has the focus. The focus lies in a textarea of one pixel, for only then the page's undo stays out.

/** @typedef {import("./session.js").Session} Session */
/** @typedef {Record<string, (shift: boolean) => void>} Actions */

/** @type {Record<string, string>} */
const LETTERS = {
  b: "brush",
  e: "eraser",
  l: "lasso",
  r: "box",
  g: "fill",
  c: "colour",
  i: "picker",
  n: "invert",
  w: "grow",
  t: "grid",
  o: "open",
  0: "fit",
  "[": "smaller",
  "]": "larger",
  "+": "zoomIn",
  "=": "zoomIn",
  "-": "zoomOut",
  delete: "clear",
  backspace: "clear",
  enter: "accept",
  escape: "reject",
  arrowright: "next",
  arrowleft: "previous",
};

/** The name of the action that a key stands for, if any. */
export function actionOf(/** @type {{ key: string, ctrlKey: boolean, metaKey: boolean, shiftKey: boolean, altKey: boolean }} */ event) {
  const key = event.key.toLowerCase();
  if (event.ctrlKey || event.metaKey) {
    if (key === "enter") return "generate";
    if (key === "z") return event.shiftKey ? "redo" : "undo";
    if (key === "y") return "redo";
    if (key === "a") return "all";
    return undefined;
  }
  return event.altKey ? undefined : LETTERS[key];
}

/** Take the keys of everything in `root`. @param {HTMLElement} root @param {HTMLElement} keys @param {Actions} actions */
export function takeKeys(root, keys, actions) {
  root.addEventListener("keydown", (event) => {
    event.stopPropagation();
    const action = actionOf(event);
    const typing =
      event.target instanceof HTMLElement && event.target !== keys && event.target.matches("textarea, input:not([type=range])");
    if (!action || !actions[action]) return;
    if (typing && action !== "generate") return;
    if (action === "accept" && event.target !== keys) return; // Enter presses the button that has the focus
    event.preventDefault();
    actions[action](event.shiftKey);
  });
  for (const name of ["keyup", "keypress"]) root.addEventListener(name, (event) => event.stopPropagation());
}
