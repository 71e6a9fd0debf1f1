// Walks through a prompt in the API's format, in which links, reroutes and subgraphs are resolved: { id: { class_type, inputs } }.

/** @typedef {Record<string, { class_type: string, inputs: Record<string, any>, _meta?: any }>} Prompt */
/** @typedef {{ id: string, name: string, value: any }} Control one widget of one node */

const isLink = (/** @type {any} */ value) => Array.isArray(value) && value.length === 2 && typeof value[0] === "string";

/** All nodes that these need, themselves included. @returns {Set<string>} */
export function upstream(/** @type {Prompt} */ prompt, /** @type {Iterable<string>} */ ids) {
  const found = new Set();
  const open = [...ids];
  while (open.length) {
    const id = /** @type {string} */ (open.pop());
    if (found.has(id) || !prompt[id]) continue;
    found.add(id);
    for (const value of Object.values(prompt[id].inputs)) if (isLink(value)) open.push(value[0]);
  }
  return found;
}

/** The result nodes that a canvas leads to. A canvas that feeds another one stops there. @returns {string[]} */
export function resultsOf(/** @type {Prompt} */ prompt, /** @type {string} */ canvas) {
  return Object.keys(prompt).filter((id) => prompt[id].class_type === "LazyResult" && canvasOf(prompt, id) === canvas);
}

/** The canvas that a result belongs to: the one that its edit names, else the first one upstream. @returns {string | undefined} */
export function canvasOf(/** @type {Prompt} */ prompt, /** @type {string} */ result) {
  const named = prompt[result].inputs.edit;
  const seen = new Set();
  const open = isLink(named) ? [named[0]] : [result];
  while (open.length) {
    const id = /** @type {string} */ (open.shift());
    if (seen.has(id) || !prompt[id]) continue;
    seen.add(id);
    if (prompt[id].class_type === "LazyCanvas") return id;
    for (const value of Object.values(prompt[id].inputs)) if (isLink(value)) open.push(value[0]);
  }
  return undefined;
}

/** The part of a prompt that these nodes need, to be queued by itself. @returns {Prompt} */
export function part(/** @type {Prompt} */ prompt, /** @type {Iterable<string>} */ ids) {
  const needed = upstream(prompt, ids);
  return Object.fromEntries(Object.entries(prompt).filter(([id]) => needed.has(id)));
}

/** A widget, followed through its link to where the value is typed in. @returns {Control | undefined} */
function control(/** @type {Prompt} */ prompt, /** @type {string} */ id, /** @type {string} */ name) {
  const value = prompt[id]?.inputs[name];
  if (value === undefined) return undefined;
  if (!isLink(value)) return { id, name, value };
  const source = prompt[value[0]];
  const inner = ["value", "text", "prompt", name].find((key) => source?.inputs[key] !== undefined);
  return inner ? control(prompt, value[0], inner) : undefined;
}

/** The nearest node upstream of `start` with a text to type in. @returns {Control | undefined} */
function textBehind(/** @type {Prompt} */ prompt, /** @type {any} */ start) {
  const open = isLink(start) ? [start[0]] : [];
  const seen = new Set();
  while (open.length) {
    const id = /** @type {string} */ (open.shift());
    if (seen.has(id) || !prompt[id] || prompt[id].class_type === "LazyCanvas") continue;
    seen.add(id);
    for (const name of ["text", "prompt"]) {
      const found = control(prompt, id, name);
      if (typeof found?.value === "string") return found;
    }
    for (const value of Object.values(prompt[id].inputs)) if (isLink(value)) open.push(value[0]);
  }
  return undefined;
}

/**
 * What the panel of a canvas drives: prompt, seed and denoise of the sampler between it and its results, strengths of its sketches.
 * @returns {{ prompt?: Control, seed?: Control, denoise?: Control, strengths: Control[] }}
 */
export function controlsOf(/** @type {Prompt} */ prompt, /** @type {string} */ canvas) {
  const needed = [...upstream(prompt, resultsOf(prompt, canvas))];
  const below = needed.filter((id) => id !== canvas && upstream(prompt, [id]).has(canvas));
  const samplers = below.filter((id) => ["seed", "noise_seed"].some((name) => prompt[id].inputs[name] !== undefined));
  const sampler = samplers.find((id) => prompt[id].class_type === "LazyDecode") ?? samplers[0];
  const strengths = below.filter((id) => prompt[id].class_type === "LazySketchCondition").map((id) => control(prompt, id, "strength"));
  const inputs = prompt[sampler]?.inputs ?? {};
  return {
    prompt: textBehind(prompt, inputs.positive ?? inputs.guider),
    seed: control(prompt, sampler, inputs.seed === undefined ? "noise_seed" : "seed"),
    denoise: control(prompt, sampler, "denoise"),
    strengths: strengths.filter((one) => one !== undefined),
  };
}
