import assert from "node:assert/strict";
import { test } from "node:test";
import { actionOf } from "../../web/js/canvas/keys.js";
import {
  MOST_EDITS,
  addEdit,
  annotate,
  currentEdit,
  emptyState,
  parseFile,
  pathTo,
  readState,
  seedsFor,
  viewPath,
} from "../../web/js/canvas/state.js";
import { WORDS } from "../../web/js/canvas/words.js";

const edit = (canvas) => ({ canvas, width: 64, height: 64 });

test("names of files are taken apart and put together again", () => {
  const file = { filename: "a b.png", subfolder: "lazydiffusion", type: "input" };
  assert.deepEqual(parseFile("lazydiffusion/a b.png [input]"), file);
  assert.equal(annotate(file), "lazydiffusion/a b.png [input]");
  assert.deepEqual(parseFile("x.png"), { filename: "x.png", subfolder: "", type: "input" });
  assert.equal(parseFile(""), null);
  assert.equal(viewPath(file), "/view?filename=a+b.png&subfolder=lazydiffusion&type=input");
});

test("edits that begin at the same one are branches", () => {
  const state = emptyState();
  const [root, first] = [addEdit(state, edit("0")), addEdit(state, edit("1"))];
  addEdit(state, edit("2"));
  state.at = first.n;
  addEdit(state, edit("3"));
  assert.deepEqual(
    pathTo(state).map((one) => one.canvas),
    ["0", "1", "3"],
  );
  assert.deepEqual(
    pathTo(state, 3).map((one) => one.canvas),
    ["0", "1", "2"],
  );
  assert.equal(root.parent, -1);
  assert.equal(currentEdit(state).canvas, "3");
});

test("the history is bounded", () => {
  const state = emptyState();
  for (let i = 0; i < MOST_EDITS + 5; i++) addEdit(state, edit(String(i)));
  assert.equal(state.edits.length, MOST_EDITS);
  assert.equal(currentEdit(state).canvas, String(MOST_EDITS + 4));
});

test("a state comes back from a workflow, and nonsense does no harm", () => {
  const state = emptyState();
  addEdit(state, edit("a"));
  state.seeds = 3;
  assert.deepEqual(readState(JSON.parse(JSON.stringify(state))), state);
  for (const nonsense of [null, 3, "x", { edits: 7, at: "a", results: [1, null], id: 5, seeds: 99 }]) {
    const read = readState(nonsense);
    assert.deepEqual([read.edits, read.results, read.at, read.seeds], [[], [], -1, 1]);
    assert.equal(read.id.length, 16);
  }
});

test("seeds follow each other from a given or a random one", () => {
  assert.deepEqual(seedsFor(3, 41), [41, 42, 43]);
  assert.notEqual(seedsFor(1, null)[0], seedsFor(1, null)[0]);
});

test("keys stand for actions, and those of the page stay the page's", () => {
  const key = (name, more = {}) => ({ key: name, ctrlKey: false, metaKey: false, shiftKey: false, altKey: false, ...more });
  assert.equal(actionOf(key("B")), "brush");
  assert.equal(actionOf(key("z", { ctrlKey: true })), "undo");
  assert.equal(actionOf(key("Z", { metaKey: true, shiftKey: true })), "redo");
  assert.equal(actionOf(key("Enter", { ctrlKey: true })), "generate");
  assert.equal(actionOf(key("s", { ctrlKey: true })), undefined);
  assert.equal(actionOf(key("b", { altKey: true })), undefined);
});

test("Chinese says all that English says", () => {
  const shape = (words) =>
    Object.fromEntries(Object.entries(words).map(([key, value]) => [key, typeof value === "object" ? shape(value) : typeof value]));
  assert.deepEqual(shape(WORDS.zh), shape(WORDS.en));
});
