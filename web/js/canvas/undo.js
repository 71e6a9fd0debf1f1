// Undo and redo, bounded by the bytes that their entries hold.

/** @typedef {{ bytes: number, undo: () => void, redo: () => void }} Change */

export class UndoStack {
  /** @param {number} limit bytes */
  constructor(limit) {
    this.limit = limit;
    /** @type {Change[]} */
    this.done = [];
    /** @type {Change[]} */
    this.undone = [];
  }

  /** Remember a change that was made. The oldest ones go where the limit is passed; the newest stays whatever its size. */
  push(/** @type {Change} */ change) {
    this.done.push(change);
    this.undone = [];
    let bytes = this.done.reduce((sum, entry) => sum + entry.bytes, 0);
    while (bytes > this.limit && this.done.length > 1) bytes -= /** @type {Change} */ (this.done.shift()).bytes;
  }

  /** @returns {boolean} whether there was something to undo */
  undo() {
    const change = this.done.pop();
    if (!change) return false;
    change.undo();
    this.undone.push(change);
    return true;
  }

  /** @returns {boolean} whether there was something to redo */
  redo() {
    const change = this.undone.pop();
    if (!change) return false;
    change.redo();
    this.done.push(change);
    return true;
  }

  clear() {
    this.done = [];
    this.undone = [];
  }
}
