// The regions of a stream: the server's, as far as this page knows them, and the changes that can be undone.

import { fetchJson, sendJson, streamAddress } from "./api.js";
import { say } from "./words.js";

const UNDO_STEPS = 100;

// Events: "change" after the regions have changed, "notice" with a text in its detail.
export class RegionStore extends EventTarget {
  constructor(stream) {
    super();
    this.stream = stream;
    this.address = `${streamAddress(stream)}/regions`;
    this.regions = [];
    this.classes = [];
    this.editable = false;
    this.whyNot = "";
    this.revision = null; // the revision of the regions that are shown
    this.newest = null; // the newest revision that the server told
    this.done = []; // changes that can be undone: {id, before, after}, with null where there is no region
    this.undone = [];
    this.pending = 0;
    this.queue = Promise.resolve();
  }

  get(id) {
    return this.regions.find((region) => region.id === id);
  }

  // The server has told that the regions have another revision.
  told(revision) {
    this.newest = revision;
    if (!this.pending && revision !== this.revision) this.load(true);
  }

  // Ask the server for the regions; elsewhere is true if another page has changed them.
  async load(elsewhere = false) {
    try {
      this.accept(await fetchJson(this.address));
      if (elsewhere) this.notice(say("changed-elsewhere"));
    } catch (error) {
      this.notice(error.message);
    }
  }

  accept(answer) {
    this.regions = answer.regions;
    this.classes = answer.classes;
    this.editable = answer.editable;
    this.whyNot = answer.why_not;
    this.revision = answer.revision;
    this.dispatchEvent(new Event("change"));
  }

  notice(text) {
    this.dispatchEvent(new CustomEvent("notice", { detail: text }));
  }

  // Draw a new region. Return its id, or null if the server refuses it.
  async draw(drawing) {
    const answer = await this.send("POST", "", drawing);
    if (answer) this.remember({ id: answer.id, before: null, after: drawing });
    if (answer) this.tell(answer, "saved", drawing.name);
    return answer?.id ?? null;
  }

  // Change a region. Return true unless the server refuses the change.
  async change(id, drawing) {
    const before = drawingOf(this.get(id));
    const answer = await this.send("PUT", `/${id}`, drawing);
    if (answer) this.remember({ id, before, after: drawing });
    if (answer) this.tell(answer, "saved", drawing.name);
    return answer !== null;
  }

  async remove(id) {
    const before = drawingOf(this.get(id));
    const answer = await this.send("DELETE", `/${id}`);
    if (answer) this.remember({ id, before, after: null });
    if (answer) this.tell(answer, "deleted", before.name);
  }

  remember(change) {
    this.done = [...this.done, change].slice(-UNDO_STEPS);
    this.undone = [];
    this.dispatchEvent(new Event("change"));
  }

  undo() {
    return this.step(this.done, this.undone, "before", "undone");
  }

  redo() {
    return this.step(this.undone, this.done, "after", "redone");
  }

  // Bring a region to its state before or after the newest change of a list, and move the change to another list.
  async step(from, to, state, word) {
    const change = from.pop();
    if (!change) return;
    const drawing = change[state];
    const answer = await this.send(drawing ? "PUT" : "DELETE", `/${change.id}`, drawing ?? undefined);
    if (answer) {
      to.push(change);
      this.tell(answer, word, (change.before ?? change.after).name);
    }
    this.dispatchEvent(new Event("change"));
  }

  tell(answer, word, name) {
    this.notice(say(answer.replaced_newer ? "replaced-newer" : word, { name }));
  }

  // Send a change after those before it. Return the answer, or null if the server refuses the change.
  send(method, path, body) {
    this.pending += 1;
    const sent = this.queue.then(async () => {
      const seen = method === "POST" ? "" : `?revision=${this.revision}`;
      try {
        const answer = await sendJson(method, `${this.address}${path}${seen}`, body);
        this.accept(answer);
        return answer;
      } catch (error) {
        this.notice(error.message);
        this.dispatchEvent(new Event("change")); // shows what is still true
        return null;
      } finally {
        this.pending -= 1;
        if (!this.pending && this.newest > this.revision) this.load(true); // told while the change was on its way
      }
    });
    this.queue = sent;
    return sent;
  }
}

// Return what a region is made of, as the server takes it.
export function drawingOf({ kind, name, points, classes, dwell }) {
  return { kind, name, points, classes, dwell };
}
