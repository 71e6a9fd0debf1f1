// Sends what was painted to the server as soon as it was painted, one file after the other; what fails stays, and is tried again.
import { upload } from "./files.js";

/** @typedef {"canvas_file" | "mask_file" | "sketch_file"} FileName the node's widget that names the file */
/** @typedef {() => Promise<Uint8Array<ArrayBuffer> | null>} Make its bytes, null where there is nothing */

export class Saver {
  /**
   * @param {import("./files.js").Api} api
   * @param {(name: FileName, value: string) => void} saved
   * @param {(trouble: unknown) => void} failed
   */
  constructor(api, saved, failed) {
    this.api = api;
    this.saved = saved;
    this.failed = failed;
    /** @type {Map<FileName, Make>} */
    this.waiting = new Map();
    /** how often a file was marked or settled: what was begun before is out of date @type {Record<string, number>} */
    this.version = {};
    /** @type {Promise<void> | null} */
    this.running = null;
  }

  get pending() {
    return this.waiting.size > 0 || this.running !== null;
  }

  /** This file is to be made and sent anew; what waited under the same name is out of date. */
  mark(/** @type {FileName} */ name, /** @type {Make} */ make) {
    this.settle(name);
    this.waiting.set(name, make);
    this.flush().catch((trouble) => this.failed(trouble));
  }

  /** What waits or is on its way is out of date. */
  settle(/** @type {FileName} */ name) {
    this.version[name] = (this.version[name] ?? 0) + 1;
    this.waiting.delete(name);
  }

  /** Resolves once everything is on the server; rejects with the Trouble that keeps it from getting there. */
  flush() {
    this.running ??= this.work();
    return this.running;
  }

  async work() {
    try {
      do await this.sendAll();
      while (this.waiting.size); // marked while the loop below was ending
    } finally {
      this.running = null;
    }
  }

  async sendAll() {
    while (this.waiting.size) {
      const [[name, make]] = this.waiting;
      const version = this.version[name];
      this.waiting.delete(name);
      try {
        const bytes = await make();
        const value = bytes ? await upload(this.api, bytes) : "";
        if (this.version[name] === version) this.saved(name, value);
      } catch (trouble) {
        if (this.version[name] === version) this.waiting.set(name, make);
        throw trouble;
      }
    }
  }
}
