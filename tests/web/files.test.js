import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { test } from "node:test";
import { inflateSync } from "node:zlib";
import { Trouble, upload } from "../../web/js/canvas/files.js";
import { withText } from "../../web/js/canvas/png.js";
import { Saver } from "../../web/js/canvas/saver.js";
import { digest, sha256 } from "../../web/js/canvas/sha256.js";
import { animate } from "../../web/js/canvas/webp.js";

test("SHA-256 without the browser's help is SHA-256", async () => {
  for (const length of [0, 3, 55, 56, 63, 64, 65, 1000, 70001]) {
    const bytes = Uint8Array.from({ length }, (_, i) => (i * 7 + length) & 255);
    const right = createHash("sha256").update(bytes).digest("hex");
    assert.equal(sha256(bytes), right, `${length} bytes`);
    assert.equal(await digest(bytes), right);
  }
});

/** The smallest PNG: one grey pixel. */
const PNG = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==", "base64");

test("texts go into a PNG as chunks with right checksums, whatever they say", () => {
  const text = JSON.stringify({ prompt: "猫 é \u{1f600}" });
  const bytes = Buffer.from(withText(PNG, { workflow: text }));
  const names = [];
  for (let at = 8; at < bytes.length; ) {
    const length = bytes.readUInt32BE(at);
    names.push(bytes.toString("latin1", at + 4, at + 8));
    if (names.at(-1) === "tEXt") {
      const [key, value] = bytes.toString("latin1", at + 8, at + 8 + length).split("\0");
      assert.equal(key, "workflow");
      assert.deepEqual(JSON.parse(value), JSON.parse(text));
      assert.equal(bytes.readUInt32BE(at + 8 + length), crc32(bytes.subarray(at + 4, at + 8 + length)));
    }
    if (names.at(-1) === "IDAT") assert.ok(inflateSync(bytes.subarray(at + 8, at + 8 + length)));
    at += 12 + length;
  }
  assert.deepEqual(names, ["IHDR", "tEXt", "IDAT", "IEND"]);
});

function crc32(bytes) {
  let value = -1;
  for (const byte of bytes) {
    value ^= byte;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  }
  return ~value >>> 0;
}

test("stills become the frames of an animation", () => {
  const still = (data) =>
    Buffer.concat([
      Buffer.from("RIFF\0\0\0\0WEBPVP8 "),
      Buffer.from([data.length, 0, 0, 0]),
      Buffer.from(data),
      Buffer.alloc(data.length & 1),
    ]);
  const bytes = Buffer.from(animate([still([1, 2, 3]), still([4, 5])], 300, 200, 700));
  assert.equal(bytes.readUInt32LE(4), bytes.length - 8);
  assert.equal(bytes.toString("latin1", 8, 16), "WEBPVP8X");
  assert.deepEqual([bytes.readUIntLE(24, 3), bytes.readUIntLE(27, 3)], [299, 199]);
  const frame = bytes.indexOf("ANMF");
  assert.equal(bytes.readUInt32LE(frame + 4), 16 + 8 + 4);
  assert.equal(bytes.readUIntLE(frame + 8 + 12, 3), 700);
  assert.deepEqual([...bytes.subarray(frame + 8 + 16 + 8, frame + 8 + 16 + 11)], [1, 2, 3]);
  assert.equal(bytes.toString("latin1").split("ANMF").length, 3);
});

/** A server that answers uploads with what `next` says. */
function server(next) {
  const sent = [];
  const fetchApi = async (_path, { body }) => {
    const answer = next(sent.length);
    if (answer instanceof Error) throw answer;
    const file = body.get("image");
    if (answer === 200) sent.push(file.name);
    return {
      ok: answer === 200,
      status: answer,
      json: async () => ({ name: file.name, subfolder: body.get("subfolder"), type: body.get("type") }),
    };
  };
  return { sent, fetchApi };
}

let unique = 0;
const bytes = () => new TextEncoder().encode(`file ${unique++}`);

test("what was painted is sent once, under a name made of its content", async () => {
  const api = server(() => 200);
  const saved = [];
  const saver = new Saver(api, (name, value) => saved.push([name, value]), assert.fail);
  const content = bytes();
  saver.mark("mask_file", async () => content);
  await saver.flush();
  saver.mark("mask_file", async () => content);
  await saver.flush();
  const name = createHash("sha256").update(content).digest("hex").slice(0, 32);
  assert.deepEqual(api.sent, [`${name}.png`]);
  assert.deepEqual(saved, Array(2).fill(["mask_file", `lazydiffusion/${name}.png [input]`]));
});

test("an empty mask has no file", async () => {
  const saved = [];
  const saver = new Saver(server(assert.fail), (name, value) => saved.push([name, value]), assert.fail);
  saver.mark("mask_file", async () => null);
  await saver.flush();
  assert.deepEqual(saved, [["mask_file", ""]]);
});

for (const [answer, code] of [
  [500, "uploadRefused"],
  [413, "uploadTooLarge"],
  [507, "uploadRefused"],
  [new TypeError("gone"), "noServer"],
]) {
  test(`an upload that fails (${answer}) is said, kept, and sent later`, async () => {
    let broken = true;
    const api = server(() => (broken ? answer : 200));
    const troubles = [];
    const saver = new Saver(
      api,
      () => {},
      (trouble) => troubles.push(trouble.code),
    );
    saver.mark("mask_file", async () => bytes());
    await assert.rejects(saver.flush(), (trouble) => trouble instanceof Trouble && trouble.code === code);
    assert.ok(saver.pending);
    broken = false;
    await saver.flush();
    assert.equal(api.sent.length, 1);
    assert.ok(!saver.pending);
  });
}

test("an upload that never ends is given up, and can be sent again", async () => {
  const hanging = {
    fetchApi: (_path, { signal }) => new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason))),
  };
  const content = bytes();
  const wait = setTimeout(() => {}, 10_000); // the signal's own clock keeps no process alive
  await assert.rejects(upload(hanging, content, 20), (trouble) => trouble instanceof Trouble && trouble.code === "noServer");
  clearTimeout(wait);
  const api = server(() => 200);
  await upload(api, content);
  assert.equal(api.sent.length, 1);
});

test("a stroke made while an older one is on its way replaces it", async () => {
  const api = server(() => 200);
  const saved = [];
  const saver = new Saver(api, (_name, value) => saved.push(value), assert.fail);
  let finish;
  saver.mark(
    "mask_file",
    () =>
      new Promise((resolve) => {
        finish = () => resolve(bytes());
      }),
  );
  const last = bytes();
  await Promise.resolve();
  saver.mark("mask_file", async () => last);
  finish();
  await saver.flush();
  assert.deepEqual(saved, [`lazydiffusion/${createHash("sha256").update(last).digest("hex").slice(0, 32)}.png [input]`]);
});
