// Generate: what is needed for one canvas's results is queued, and what the server says of it finds its way back.
import { apply } from "./controls.js";
import { canvasOf, controlsOf, part, resultsOf } from "./graph.js";
import { forgetUploads, Trouble } from "./files.js";
import { addResult, preview, show } from "./loop.js";
import { sendAgain, showLinked } from "./picture.js";
import { seedsFor } from "./state.js";

/** @typedef {import("./session.js").Session} Session */
/** @typedef {{ session: Session, meta: Record<string, any>, value: number, max: number, started?: boolean }} Job */

/** What was queued and has not ended, by prompt id. @type {Map<string, Job>} */
const jobs = new Map();
/** Events of prompts that are being queued: they may come before the answer that names them. @type {[string, any][]} */
let early = [];
let queueing = 0;

/** The jobs of one canvas that have not ended. */
export function jobsOf(/** @type {Session} */ session) {
  return [...jobs.values()].filter((job) => job.session === session);
}

/** The id of an added output node that gives the picture linked to a canvas. */
const LINKED = "lazydiffusion_linked";

/** Do what queues prompts of a canvas: events that come before the answer that names their prompt are kept until then. */
async function queued(/** @type {Session} */ session, /** @type {() => Promise<void>} */ work) {
  queueing++;
  try {
    await work();
  } catch (trouble) {
    session.failed(trouble);
  } finally {
    queueing--;
    const waiting = early;
    early = [];
    for (const [name, detail] of waiting) receive(session.host, name, detail);
  }
  session.changed();
}

/** Queue as many edits as seeds are asked for. */
export async function generate(/** @type {Session} */ session) {
  if (!session.hasMask && !session.isLinked("mask")) {
    session.say("emptyMask");
    return;
  }
  if (session.hasMask && session.takesLinked() && !session.linked) {
    session.say("linkedFirst"); // nobody paints on a picture that was never seen
    await fetchLinked(session);
    return;
  }
  const { random, seeds } = session.state;
  const wanted = seedsFor(seeds, random ? null : session.wishes.seed);
  const queue = async () => {
    await session.flush();
    while (wanted.length) {
      await queueOne(session, wanted[0]);
      wanted.shift();
    }
  };
  await queued(session, async () => {
    session.say(null);
    await show(session, null);
    await queue().catch((trouble) => {
      if (!trouble.values?.gone) throw trouble;
      sendAgain(session);
      return queue();
    });
  });
}

async function queueOne(/** @type {Session} */ session, /** @type {number} */ seed) {
  const { host, node } = session;
  const canvasIn = (/** @type {import("./graph.js").Prompt} */ output) => {
    const id = host.executionId(node, output);
    if (!id) throw new Trouble("muted");
    return id;
  };
  session.wishes.seed = seed;
  const first = (await host.prompt()).output;
  apply(session, first, canvasIn(first), seed);
  const { output, workflow } = await host.prompt(); // the workflow that is kept with the results says what was asked for
  const canvas = canvasIn(output);
  const results = resultsOf(output, canvas);
  if (!results.length) throw new Trouble("noResult");
  apply(session, output, canvas, seed);
  const { prompt, denoise, strength } = session.wishes;
  const { mask_file: mask = "", sketch_file: sketch = "" } = session.names ?? {};
  const meta = { seed, prompt, denoise, strength, mask, sketch, workflow, output };
  await send(session, { ...part(output, results), ...linkedPicture(session, canvas) }, workflow, meta);
}

/**
 * What asks for the picture that is linked to a canvas, where nothing was opened in it. The server runs what an output node needs
 * and says its result, be it in the cache or not. Lazy Canvas itself is no output node: a run of the page's own whose checkpoints are
 * missing would end well by the canvas alone, in silence.
 * @returns {import("./graph.js").Prompt}
 */
function linkedPicture(/** @type {Session} */ session, /** @type {string} */ canvas) {
  if (!session.takesLinked()) return {};
  return { [LINKED]: { class_type: "LazyResult", inputs: { image: [canvas, 0] } } };
}

async function send(
  /** @type {Session} */ session,
  /** @type {import("./graph.js").Prompt} */ output,
  /** @type {any} */ workflow,
  /** @type {Record<string, any>} */ meta,
) {
  const answer = await session.host.api.queuePrompt(0, { output, workflow }).catch((/** @type {any} */ refusal) => {
    if (!refusal?.response) throw new Trouble("noServer");
    const [node] = Object.values(refusal.response.node_errors ?? {});
    const error = /** @type {any} */ (node)?.errors?.[0] ?? refusal.response.error ?? {};
    const text = [error.message, error.details].filter(Boolean).join(": ");
    // Lazy Canvas refuses nothing else before a run than files that are not there.
    const gone = /** @type {any} */ (node)?.class_type === "LazyCanvas" && error.type === "custom_validation_failed";
    throw new Trouble("refused", { text, gone });
  });
  jobs.set(answer.prompt_id, { session, meta, value: 0, max: 0 });
  session.changed();
}

/** Ask for the picture that is linked to a canvas, without an edit. */
export function fetchLinked(/** @type {Session} */ session) {
  return queued(session, async () => {
    const { output, workflow } = await session.host.prompt();
    const id = session.host.executionId(session.node, output);
    if (!id) throw new Trouble("muted");
    const canvas = { ...output[id], inputs: { ...output[id].inputs, mask_file: "", sketch_file: "" } }; // they may not fit it
    await send(session, { ...part(output, [id]), [id]: canvas, ...linkedPicture(session, id) }, workflow, {});
  });
}

/** Take back what is queued for a canvas, and stop what runs. */
export async function cancel(/** @type {Session} */ session) {
  for (const [id, job] of jobs) {
    if (job.session !== session) continue;
    if (job.max || job.started) await session.host.api.interrupt(id);
    else await session.host.api.deleteItem("queue", id);
    jobs.delete(id);
  }
  show(session, null);
}

const EVENTS = ["execution_start", "progress", "executed"];
const ENDS = ["execution_success", "execution_error", "execution_interrupted"];

/** Listen to the server, once for the whole page. `find` gives the session of a node. */
export function listen(/** @type {import("./host.js").Host} */ host, /** @type {(node: any) => Session | undefined} */ find) {
  for (const name of [...EVENTS, ...ENDS])
    host.api.addEventListener(name, (/** @type {any} */ event) => receive(host, name, event.detail, find));
  host.api.addEventListener("reconnected", () => {
    forgetUploads();
    recover(host);
  });
}

function receive(
  /** @type {import("./host.js").Host} */ host,
  /** @type {string} */ name,
  /** @type {any} */ detail,
  /** @type {any} */ find = null,
) {
  const id = detail?.prompt_id;
  const job = jobs.get(id);
  if (job) HANDLE[name]?.(job, detail);
  else if (queueing) early.push([name, detail]);
  else if (find && name === "executed") foreign(host, detail, find);
  if (job && ENDS.includes(name)) jobs.delete(id);
  if (job) job.session.changed();
}

/** Show a step's guess in its canvas. @returns {boolean} whether it belongs to one */
export function takePreview(/** @type {any} */ { blob, promptId, jobId }) {
  const session = jobs.get(promptId ?? jobId)?.session;
  if (session && !session.shown) preview(session, blob).catch(() => {}); // a guess that cannot be decoded is none
  return session !== undefined;
}

/** @type {Record<string, (job: any, detail: any) => void>} */
const HANDLE = {
  execution_start: (job) => Object.assign(job, { started: true }),
  progress: (job, { value, max }) => Object.assign(job, { value, max }),
  executed: (job, { node, output }) => {
    const { workflow: _, output: __, ...meta } = job.meta;
    const { session } = job;
    if (node === LINKED) return showLinked(session, output?.lazydiffusion_result?.[0]);
    if (output?.lazydiffusion?.[0]?.total_ms && output.lazydiffusion[0].hole_tokens) measure(session, output.lazydiffusion[0]);
    for (const file of output?.lazydiffusion_result ?? []) addResult(session, { ...file, ...meta });
  },
  execution_error: (job, detail) => {
    show(job.session, null);
    job.session.say("nodeFailed", {
      node: job.session.host.nodeOf(detail.node_id)?.title ?? detail.node_type,
      text: detail.exception_message,
    });
  },
  execution_interrupted: (job) => void show(job.session, null),
};

/** Keep what an edit took, for what the next one is expected to take. */
function measure(/** @type {Session} */ session, /** @type {any} */ run) {
  const { width, height } = session.layers;
  const { hole_tokens: hole, all_tokens: all, total_ms: ms, saved_ms: saved = 0 } = run;
  session.state.measured = { hole, all, ms, fullMs: ms + saved, width, height };
  session.remeasure();
}

/** A linked picture or a result of a run that the person started by the page's own button. */
async function foreign(/** @type {any} */ host, /** @type {any} */ detail, /** @type {(node: any) => Session | undefined} */ find) {
  const linked = detail?.output?.lazydiffusion_canvas?.[0]?.image;
  if (linked) {
    const session = find(host.nodeOf(detail.display_node ?? detail.node));
    if (session) await showLinked(session, linked);
  }
  if (!detail?.output?.lazydiffusion_result) return;
  const { output } = await host.prompt();
  const canvas = output[detail.display_node ?? detail.node] && canvasOf(output, detail.display_node ?? detail.node);
  const session = canvas && find(host.nodeOf(canvas));
  if (!session) return;
  const { seed, prompt, denoise } = controlsOf(output, canvas);
  const { mask_file: mask = "", sketch_file: sketch = "" } = session.names ?? {};
  const meta = { seed: seed?.value, prompt: prompt?.value, denoise: denoise?.value, mask, sketch };
  for (const file of detail.output.lazydiffusion_result) addResult(session, { ...file, ...meta });
}

/** The server is back: what it finished meanwhile is fetched; what it no longer knows is said to be lost. */
async function recover(/** @type {any} */ host) {
  for (const [id, job] of [...jobs]) {
    try {
      const entry = (await (await host.api.fetchApi(`/history/${id}`)).json())[id];
      if (!entry) {
        const queue = await (await host.api.fetchApi("/queue")).json();
        if (JSON.stringify(queue).includes(id)) continue;
        job.session.say("runLost");
        show(job.session, null);
      }
      for (const [node, output] of Object.entries(entry?.outputs ?? {})) HANDLE.executed(job, { node, output });
      jobs.delete(id);
    } catch (trouble) {
      job.session.failed(trouble);
    }
    job.session.changed();
  }
}
