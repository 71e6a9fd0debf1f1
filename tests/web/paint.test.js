import assert from "node:assert/strict";
import { test } from "node:test";
import { around, clip, flood, grow, union, widthAt } from "../../web/js/canvas/paint.js";
import { TokenGrid, expected, sideOf } from "../../web/js/canvas/tokens.js";
import { UndoStack } from "../../web/js/canvas/undo.js";

/** Rows of "#" (hole) and "." (keep) -> [bytes, width, height]. */
function mask(...rows) {
  const bytes = Uint8Array.from(rows.join(""), (sign) => (sign === "#" ? 255 : 0));
  return [bytes, rows[0].length, rows.length];
}

const drawn = (bytes, width) =>
  Array.from(bytes, (value) => (value ? "#" : "."))
    .join("")
    .match(new RegExp(`.{${width}}`, "g"));

test("a rectangle is clipped to whole pixels of the canvas", () => {
  assert.deepEqual(clip({ x: -3.5, y: 1.2, width: 5, height: 2 }, 10, 3), { x: 0, y: 1, width: 2, height: 2 });
  assert.equal(clip({ x: 20, y: 0, width: 5, height: 5 }, 10, 10), null);
});

test("a union holds both rectangles, and an empty one adds nothing", () => {
  const a = { x: 1, y: 2, width: 3, height: 4 };
  assert.deepEqual(union(a, { x: 0, y: 5, width: 1, height: 5 }), { x: 0, y: 2, width: 4, height: 8 });
  assert.equal(union(null, a), a);
  assert.deepEqual(
    around(
      [
        [2, 3],
        [4, 1],
      ],
      1,
    ),
    { x: 1, y: 0, width: 4, height: 4 },
  );
});

test("only a pen's pressure changes the width of a stroke", () => {
  assert.equal(widthAt(30, "mouse", 0.5), 30);
  assert.equal(widthAt(30, "pen", 0), 10);
  assert.equal(widthAt(30, "pen", 1), 30);
});

test("a fill stays inside a ring", () => {
  const [ring, width, height] = mask(".....", ".###.", ".#.#.", ".###.", ".....");
  assert.deepEqual(
    drawn(
      flood(width, height, 2, 2, (i) => !ring[i]),
      width,
    ),
    [".....", ".....", "..#..", ".....", "....."],
  );
});

test("a fill reaches around corners and not across diagonals", () => {
  const [wall, width, height] = mask("..#.", ".##.", "...#", "##.#");
  assert.deepEqual(
    drawn(
      flood(width, height, 0, 0, (i) => !wall[i]),
      width,
    ),
    ["##..", "#...", "###.", "..#."],
  );
});

test("a grown mask is round, a shrunk one loses its edge", () => {
  const [dot, width, height] = mask(".....", ".....", "..#..", ".....", ".....");
  assert.deepEqual(drawn(grow(dot, width, height, 1), width), [".....", "..#..", ".###.", "..#..", "....."]);
  assert.deepEqual(drawn(grow(dot, width, height, 2), width), ["..#..", ".###.", "#####", ".###.", "..#.."]);
  const [square] = mask("#####", "#####", "#####", "#####", "#####");
  square[12] = 0;
  assert.deepEqual(drawn(grow(square, width, height, -1), width), ["#####", "##.##", "#...#", "##.##", "#####"]);
});

test("one painted pixel makes its token a hole", () => {
  const grid = new TokenGrid(40, 20, 16);
  assert.equal(grid.all, 6);
  const rgba = new Uint8ClampedArray(4 * 40 * 20);
  rgba[4 * (17 * 40 + 33) + 3] = 128; // in the last column, in the lower row
  rgba[3] = 127; // below one half: not a hole
  grid.update({ x: 0, y: 0, width: 40, height: 20 }, rgba);
  assert.equal(grid.hole, 1);
  assert.equal(grid.pixels[5], 1);
  assert.equal(grid.share, 1 / 800);
  assert.deepEqual(grid.whole({ x: 20, y: 3, width: 15, height: 2 }), { x: 16, y: 0, width: 24, height: 16 });
  grid.update({ x: 32, y: 16, width: 8, height: 4 }, new Uint8ClampedArray(4 * 8 * 4));
  assert.equal(grid.hole, 0);
});

test("a token's side follows from how many there are", () => {
  assert.equal(sideOf(256, 256, 256), 16);
  assert.equal(sideOf(64 * 48, 512, 384), 8);
  assert.equal(sideOf(77, 512, 384), 16);
});

test("the expected time lies on a line through what was measured", () => {
  const measured = { hole: 20, all: 220, ms: 100, fullMs: 1100 };
  assert.equal(expected(measured, 20), 100);
  assert.equal(expected(measured, 120), 600);
  assert.equal(expected({ ...measured, hole: 220 }, 20), 100);
});

test("undo and redo go back and forth, and a new change ends the redo", () => {
  const stack = new UndoStack(100);
  const log = [];
  const change = (name) => ({ bytes: 40, undo: () => log.push(`-${name}`), redo: () => log.push(`+${name}`) });
  stack.push(change("a"));
  stack.push(change("b"));
  assert.ok(stack.undo() && stack.undo() && !stack.undo());
  assert.ok(stack.redo());
  stack.push(change("c"));
  assert.ok(!stack.redo());
  assert.deepEqual(log, ["-b", "-a", "+a"]);
});

test("the oldest changes go where there are too many bytes, never the newest", () => {
  const stack = new UndoStack(100);
  for (const bytes of [40, 40, 40, 500]) stack.push({ bytes, undo() {}, redo() {} });
  assert.deepEqual(
    stack.done.map((one) => one.bytes),
    [500],
  );
});

test("it is known how low the hole lies", () => {
  const grid = new TokenGrid(32, 64, 16);
  assert.equal(grid.middle, 0);
  const rgba = new Uint8Array(4 * 16 * 16).fill(255);
  grid.update({ x: 0, y: 48, width: 16, height: 16 }, rgba);
  assert.equal(grid.middle, 0.875);
});
