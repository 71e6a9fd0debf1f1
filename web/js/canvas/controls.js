// Prompt, seed and strengths: typed into the panel, kept in the nodes that use them.
import { controlsOf } from "./graph.js";

/** @typedef {import("./session.js").Session} Session */

/** Put what the person typed into the nodes that use it, and into the prompt itself. */
export function apply(
  /** @type {Session} */ session,
  /** @type {import("./graph.js").Prompt} */ output,
  /** @type {string} */ canvas,
  /** @type {number} */ seed,
) {
  const { prompt, denoise, strength } = session.wishes;
  const controls = controlsOf(output, canvas);
  const set = (/** @type {import("./graph.js").Control | undefined} */ control, /** @type {any} */ value) => {
    if (!control || value === undefined) return;
    output[control.id].inputs[control.name] = value;
    const node = session.host.nodeOf(control.id);
    if (node) session.host.write(node, { [control.name]: value });
  };
  set(controls.prompt, prompt);
  set(controls.seed, seed);
  set(controls.denoise, denoise);
  for (const one of controls.strengths) set(one, session.hasSketch ? strength : 0);
  return controls;
}

/** Read the panel's values from the nodes that they belong to. */
export async function pull(/** @type {Session} */ session) {
  if (!session.node || !session.host.isLive(session.node)) return;
  const { output } = await session.host.prompt();
  const canvas = session.host.executionId(session.node, output);
  if (!canvas) return;
  const { prompt, seed, denoise, strengths } = controlsOf(output, canvas);
  const { wishes } = session;
  if (typeof prompt?.value === "string") wishes.prompt = prompt.value;
  if (Number.isFinite(seed?.value)) wishes.seed = seed?.value;
  if (Number.isFinite(denoise?.value)) wishes.denoise = denoise?.value;
  if (strengths[0]?.value > 0) wishes.strength = strengths[0].value;
  Object.assign(session, { can: { prompt: !!prompt, denoise: !!denoise, seed: !!seed, sketch: strengths.length > 0 } });
  session.changed();
}

/** Write one of the panel's values into its node at once, so that it is saved with the workflow. */
export async function push(/** @type {Session} */ session) {
  if (!session.node || !session.host.isLive(session.node)) return;
  const { output } = await session.host.prompt();
  const canvas = session.host.executionId(session.node, output);
  if (canvas) apply(session, output, canvas, session.wishes.seed);
  session.host.noteChange();
}
