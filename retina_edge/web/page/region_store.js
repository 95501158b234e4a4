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
    this.saved = []; // the regions as the server has them
    this.unsaved = []; // changes that the server has not answered yet: {id, values}
    this.regions = []; // the regions that are shown: those that are saved, with the changes that are not
    this.classes = [];
    this.editable = false;
    this.whyNot = "";
    this.revision = null; // the revision of the saved regions
    this.newest = null; // the newest revision that the server told
    this.done = []; // changes that can be undone: {id, before, after}, with null where there is no region
    this.undone = [];
    this.queue = Promise.resolve();
  }

  get(id) {
    return this.regions.find((region) => region.id === id);
  }

  canChange(region) {
    return this.editable && !region.read_only;
  }

  // Return a name that no region of the stream has.
  newName(kind) {
    const names = new Set(this.regions.map(({ name }) => name));
    let number = 1;
    while (names.has(`${say(`kind.${kind}`)} ${number}`)) number += 1;
    return `${say(`kind.${kind}`)} ${number}`;
  }

  // The server has told that the regions have another revision.
  told(revision) {
    this.newest = revision;
    if (revision > this.revision) this.load(true);
  }

  // Ask the server for the regions; elsewhere is true if another page may have changed them.
  load(elsewhere = false) {
    return this.ask(async () => {
      if (elsewhere && this.newest <= this.revision) return; // the server told of a change of this page
      this.accept(await fetchJson(this.address));
      if (elsewhere) this.notice(say("changed-elsewhere"));
    });
  }

  accept(answer) {
    this.saved = answer.regions;
    this.classes = answer.classes;
    this.editable = answer.editable;
    this.whyNot = answer.why_not;
    this.revision = answer.revision;
  }

  show() {
    this.regions = this.saved.map((region) => (
      Object.assign({}, region, ...this.unsaved.filter(({ id }) => id === region.id).map(({ values }) => values))
    ));
    this.dispatchEvent(new Event("change"));
  }

  notice(text) {
    this.dispatchEvent(new CustomEvent("notice", { detail: text }));
  }

  // Draw a new region. Return its id, or null if the server refuses it.
  async draw(drawing) {
    const answer = await this.ask(async () => {
      const drawn = await sendJson("POST", this.address, drawing);
      this.remember({ id: drawn.id, before: null, after: drawing });
      return this.changed(drawn, "saved", drawing.name);
    });
    return answer?.id ?? null;
  }

  // Change values of a region. The change shows at once, and vanishes again if the server refuses it.
  change(id, values) {
    const edit = { id, values };
    this.unsaved.push(edit);
    this.show();
    return this.ask(async () => {
      const before = this.drawing(id);
      const after = { ...before, ...values };
      if (!before || same(before, after)) return;
      const answer = await this.put(id, after);
      this.remember({ id, before, after });
      this.changed(answer, "saved", after.name);
    }, edit);
  }

  remove(id) {
    return this.ask(async () => {
      const before = this.drawing(id);
      if (!before) return;
      const answer = await this.put(id, null);
      this.remember({ id, before, after: null });
      this.changed(answer, "deleted", before.name);
    });
  }

  undo() {
    return this.step("done", "undone", "before", "after", "undone");
  }

  redo() {
    return this.step("undone", "done", "after", "before", "redone");
  }

  // Bring a region to its state before or after the newest change of a list, and move the change to another list.
  step(from, to, wanted, other, word) {
    return this.ask(async () => {
      const change = this[from].at(-1);
      if (!change) return;
      const current = this.drawing(change.id);
      let drawing = change[wanted];
      if (drawing && change[other] && current) drawing = replaced(current, change[other], drawing);
      let answer;
      try {
        answer = await this.put(change.id, drawing);
      } catch (error) {
        // This will not be possible later either: the region was deleted, or another one has its name now.
        if (error.status === 404 || error.status === 422) this[from].pop();
        throw error;
      }
      this[to].push(this[from].pop());
      this.changed(answer, word, (change.before ?? change.after).name);
    });
  }

  // Return what a region is made of, as the server has it; null if there is no such region.
  drawing(id) {
    const region = this.saved.find((other) => other.id === id);
    if (!region) return null;
    const { kind, name, points, classes, dwell } = region;
    return { kind, name, points, classes, dwell };
  }

  // Give a region to the server, or delete it if the drawing is null.
  put(id, drawing) {
    return sendJson(drawing ? "PUT" : "DELETE", `${this.address}/${id}?revision=${this.revision}`, drawing ?? undefined);
  }

  remember(change) {
    this.done = [...this.done, change].slice(-UNDO_STEPS);
    this.undone = [];
  }

  changed(answer, word, name) {
    this.accept(answer);
    this.notice(say(answer.replaced_newer ? "replaced-newer" : word, { name }));
    return answer;
  }

  // Send a request when those before it have been answered, so that no answer is older than what is shown. Afterwards
  // an edit is no longer unsaved. Return what the request returns; null if it fails.
  ask(request, edit = null) {
    this.queue = this.queue.then(async () => {
      try {
        return await request();
      } catch (error) {
        this.notice(error.message);
        return null;
      } finally {
        this.unsaved = this.unsaved.filter((other) => other !== edit);
        this.show();
      }
    });
    return this.queue;
  }
}

const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);

// Return a drawing in which the values that differ between two states are those of the later state. The others stay,
// because another page may have changed them since.
function replaced(drawing, earlier, later) {
  const differing = Object.entries(later).filter(([name, value]) => !same(value, earlier[name]));
  return { ...drawing, ...Object.fromEntries(differing) };
}
