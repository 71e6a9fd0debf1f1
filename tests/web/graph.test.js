import assert from "node:assert/strict";
import { test } from "node:test";
import { canvasOf, controlsOf, part, resultsOf } from "../../web/js/canvas/graph.js";

/** Two canvases in a row, each with its own sampler; the first one's prompt comes from a node for text. */
const PROMPT = {
  1: { class_type: "LazyCanvas", inputs: { canvas_file: "a" } },
  2: { class_type: "PrimitiveString", inputs: { value: "a cat" } },
  3: { class_type: "CLIPTextEncode", inputs: { text: ["2", 0], clip: ["20", 1] } },
  4: { class_type: "CLIPTextEncode", inputs: { text: "bad", clip: ["20", 1] } },
  5: { class_type: "LazyEncodeContext", inputs: { image: ["1", 0], mask: ["1", 1], model: ["20", 0] } },
  6: { class_type: "LazySketchCondition", inputs: { context: ["5", 0], sketch: ["1", 2], strength: 0.5 } },
  7: { class_type: "LazyDecode", inputs: { context: ["6", 0], positive: ["3", 0], negative: ["4", 0], seed: 7, denoise: 0.8 } },
  8: { class_type: "LazyResult", inputs: { image: ["7", 0], edit: ["1", 3] } },
  9: { class_type: "SaveImage", inputs: { images: ["8", 0] } },
  "10:1": { class_type: "LazyCanvas", inputs: { image: ["8", 0] } },
  "10:2": { class_type: "KSampler", inputs: { latent_image: ["10:3", 0], positive: ["10:4", 0], seed: 3, denoise: 1 } },
  "10:3": { class_type: "VAEEncode", inputs: { pixels: ["10:1", 0] } },
  "10:4": { class_type: "ReferenceLatent", inputs: { conditioning: ["10:5", 0], latent: ["10:3", 0] } },
  "10:5": { class_type: "TextEncodeQwenImageEdit", inputs: { prompt: "a dog", image: ["10:1", 0] } },
  "10:6": { class_type: "LazyResult", inputs: { image: ["10:2", 0] } },
  20: { class_type: "LazyModelLoader", inputs: { model_name: "m" } },
};

test("each result belongs to the nearest canvas, also in a subgraph", () => {
  assert.equal(canvasOf(PROMPT, "8"), "1");
  assert.equal(canvasOf(PROMPT, "10:6"), "10:1");
  assert.deepEqual(resultsOf(PROMPT, "1"), ["8"]);
  assert.deepEqual(resultsOf(PROMPT, "10:1"), ["10:6"]);
});

test("only what a result needs is queued", () => {
  assert.deepEqual(Object.keys(part(PROMPT, ["8"])).sort(), ["1", "2", "20", "3", "4", "5", "6", "7", "8"]);
});

test("the panel drives Lazy Decode and what feeds it", () => {
  const { prompt, seed, denoise, strengths } = controlsOf(PROMPT, "1");
  assert.deepEqual(prompt, { id: "2", name: "value", value: "a cat" });
  assert.deepEqual(seed, { id: "7", name: "seed", value: 7 });
  assert.deepEqual(denoise, { id: "7", name: "denoise", value: 0.8 });
  assert.deepEqual(strengths, [{ id: "6", name: "strength", value: 0.5 }]);
});

test("it drives any other sampler, and finds a prompt behind other conditionings", () => {
  const { prompt, seed } = controlsOf(PROMPT, "10:1");
  assert.deepEqual(prompt, { id: "10:5", name: "prompt", value: "a dog" });
  assert.deepEqual(seed, { id: "10:2", name: "seed", value: 3 });
});

test("a canvas without a result, or with nothing to drive, is no error", () => {
  const lonely = { 1: PROMPT[1] };
  assert.deepEqual(resultsOf(lonely, "1"), []);
  assert.deepEqual(controlsOf(lonely, "1"), { prompt: undefined, seed: undefined, denoise: undefined, strengths: [] });
});
