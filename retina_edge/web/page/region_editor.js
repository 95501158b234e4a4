// The editor of the regions of a stream: draw with the pointer or with the keys, drag, name, delete, undo.

import { between, keyStep, percent, shifted } from "./points.js";
import { RegionForm } from "./region_form.js";
import { REACH, RegionOverlay } from "./region_overlay.js";
import { drawingOf } from "./region_store.js";
import { say } from "./words.js";

const CORNERS = { zone: 3, mask: 3, line: 2 };
// A move with the keys is saved when no key has been pressed for this time.
const KEY_PAUSE_MS = 400;

export class RegionEditor {
  // Edit the regions of a store on a card; announce(text) tells the user something.
  constructor(card, store, announce) {
    this.card = card;
    this.store = store;
    this.announce = announce;
    this.svg = card.querySelector(".overlay");
    this.overlay = new RegionOverlay(this.svg);
    this.form = new RegionForm(card.querySelector(".editor"), {
      onSelect: (id) => this.select(id),
      onChange: (values) => this.save(this.selected, values),
    });
    this.open = false;
    this.tool = null; // kind of the region that is being drawn
    this.draft = []; // its corners
    this.pointer = null; // where the next corner would be
    this.selected = null;
    this.moved = null; // {id, points} of a region that is being moved, before it is saved
    this.drag = null;
    this.saving = null; // timer of a move with the keys
    this.touched = false; // true if the newest corner was drawn with a finger
    store.addEventListener("change", () => this.changed());
    store.addEventListener("notice", ({ detail }) => this.open && announce(detail));
    const actions = {
      edit: () => this.setOpen(!this.open), done: () => this.setOpen(false), undo: () => this.undo(), redo: () => this.redo(),
      finish: () => this.finish(), "remove-corner": () => this.removeDraftCorner(), cancel: () => this.setTool(null),
      reverse: () => this.reverse(), delete: () => this.remove(),
    };
    for (const [name, act] of Object.entries(actions)) card.querySelector(`[data-act=${name}]`).onclick = act;
    for (const button of card.querySelectorAll("[data-draw]")) {
      button.onclick = () => this.setTool(this.tool === button.dataset.draw ? null : button.dataset.draw);
    }
    for (const kind of ["down", "move", "up", "cancel"]) {
      this.svg.addEventListener(`pointer${kind}`, (event) => this.open && this.overlay.size && this[kind](event));
    }
    card.addEventListener("keydown", (event) => this.open && this.key(event));
    this.svg.addEventListener("focusin", ({ target }) => this.focused(target));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  // Set the size of the stream's frames; null before the first one.
  setSize(width, height) {
    if (!width || String(this.overlay.size) === `${width},${height}`) return;
    this.overlay.size = [width, height];
    this.store.load(); // regions in pixels are known in parts of the frame now
  }

  setOpen(open) {
    this.open = open;
    this.setTool(null);
    this.card.classList.toggle("editing", open);
    this.card.querySelector(".editor").hidden = !open;
    this.card.querySelector("[data-act=edit]").setAttribute("aria-expanded", String(open));
    for (const [name, value] of [["role", "application"], ["tabindex", "0"], ["aria-label", say("drawing-area", { stream: this.store.stream })]]) {
      if (open) this.svg.setAttribute(name, value);
      else this.svg.removeAttribute(name);
    }
    if (!open) this.announce("");
    this.changed();
  }

  setTool(kind) {
    this.tool = kind;
    this.draft = [];
    this.pointer = null;
    if (kind) {
      this.selected = null;
      this.pointer = [0.5, 0.5];
      this.svg.focus();
    }
    this.changed();
  }

  select(id) {
    this.flush();
    this.selected = id;
    this.changed();
  }

  // Show the state of the store and of the editor.
  changed() {
    if (this.selected && !this.store.get(this.selected)) this.selected = null;
    const region = this.store.get(this.selected);
    this.form.show(this.store.regions, this.selected, this.store.classes);
    const find = (name) => this.card.querySelector(`[data-act=${name}]`);
    const ready = this.store.editable && Boolean(this.overlay.size);
    for (const button of this.card.querySelectorAll("[data-draw]")) {
      button.disabled = !ready;
      button.setAttribute("aria-pressed", String(button.dataset.draw === this.tool));
    }
    find("undo").disabled = !this.store.done.length;
    find("redo").disabled = !this.store.undone.length;
    for (const name of ["finish", "remove-corner", "cancel"]) find(name).hidden = !this.tool;
    find("finish").disabled = this.draft.length < CORNERS[this.tool];
    find("remove-corner").disabled = !this.draft.length;
    this.card.querySelector(".hint").textContent = this.hint(region);
    this.draw();
  }

  hint(region) {
    if (!this.store.editable) return this.store.whyNot;
    if (!this.overlay.size) return say("hint.no-picture");
    if (this.tool) return say(this.tool === "line" ? "hint.line" : "hint.zone");
    if (region) return say(region.read_only ? "hint.fixed" : "hint.selected");
    return say("hint.idle");
  }

  draw() {
    const regions = this.store.regions.map((region) => (
      region.id === this.moved?.id ? { ...region, points: this.moved.points } : region
    ));
    this.overlay.draw({
      regions, editing: this.open, selected: this.selected, draft: this.tool ? this.draft : null, pointer: this.pointer,
    });
  }

  // Pointer.

  down(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    event.preventDefault();
    this.svg.setPointerCapture(event.pointerId);
    const point = this.overlay.locate(event);
    if (this.tool) {
      this.svg.focus();
      this.touched = event.pointerType === "touch";
      this.addCorner(point, REACH[event.pointerType] ?? REACH.mouse);
      return;
    }
    this.flush();
    const region = this.store.get(this.selected);
    const handle = region && !region.read_only && this.store.editable ? this.handleAt(region, point, REACH[event.pointerType]) : null;
    if (handle) {
      this.drag = { region, index: handle.index, points: handle.points, start: point };
      if (handle.added) this.moved = { id: region.id, points: handle.points };
      this.svg.querySelector(`[data-key="corner-${region.id}-${handle.index}"]`)?.focus();
    } else {
      const id = event.target.dataset.id ?? null;
      this.select(id);
      if (id) this.svg.querySelector(`[data-key="shape-${id}"]`)?.focus();
      const hit = this.store.get(id);
      if (hit && !hit.read_only && this.store.editable) this.drag = { region: hit, index: null, points: hit.points, start: point };
    }
  }

  // Return the corner near a point, or a new one if the middle of a side is near; null if neither is.
  handleAt(region, point, reach = REACH.mouse) {
    const { points } = region;
    const nearest = (places) => {
      const distances = places.map((place) => this.overlay.distance(place, point));
      const index = distances.indexOf(Math.min(...distances));
      return distances[index] <= reach ? index : null;
    };
    const corner = nearest(points);
    if (corner !== null) return { index: corner, points };
    if (region.kind === "line") return null;
    const middle = nearest(points.map((place, index) => between(place, points[(index + 1) % points.length])));
    if (middle === null) return null;
    return { index: middle + 1, points: points.toSpliced(middle + 1, 0, point), added: true };
  }

  move(event) {
    const point = this.overlay.locate(event);
    if (this.tool) {
      this.pointer = point;
      this.draw();
    } else if (this.drag) {
      const { region, index, points, start } = this.drag;
      if (!this.moved && this.overlay.distance(point, start) < 3) return; // a click with a hand that trembles
      const moved = index === null ? shifted(points, [point[0] - start[0], point[1] - start[1]]) : points.with(index, point);
      this.moved = { id: region.id, points: moved };
      this.draw();
    }
  }

  up() {
    this.drag = null;
    this.flush();
  }

  cancel() {
    this.drag = this.moved = null;
    this.draw();
  }

  // Keys.

  key(event) {
    if (event.target.closest("input, select, textarea") && event.target.type !== "checkbox") return;
    const letter = event.key.toLowerCase();
    if ((event.ctrlKey || event.metaKey) && (letter === "z" || letter === "y")) {
      event.preventDefault();
      if (letter === "y" || event.shiftKey) this.redo();
      else this.undo();
    } else if (this.tool && (event.target === this.svg || event.key === "Escape")) this.drawingKey(event);
    else if (this.svg.contains(event.target) && event.target.dataset.id) this.handleKey(event, event.target.dataset);
    else if (event.key === "Escape" && this.selected) this.select(null);
  }

  drawingKey(event) {
    const by = keyStep(event);
    if (by) {
      [this.pointer] = shifted([this.pointer], by);
      this.announce(say("cursor", percent(this.pointer)));
      this.draw();
    } else if (event.key === " ") {
      this.touched = false;
      this.addCorner(this.pointer, 0);
    } else if (event.key === "Enter") this.finish();
    else if (event.key === "Backspace") this.removeDraftCorner();
    else if (event.key === "Escape") this.setTool(null);
    else return;
    event.preventDefault();
  }

  handleKey(event, { id, corner, middle }) {
    const region = this.store.get(id);
    const by = keyStep(event);
    const fixed = region.read_only || !this.store.editable;
    if ((event.key === "Enter" || event.key === " ") && middle === undefined) this.select(id);
    else if (event.key === "Escape") this.select(null);
    else if (fixed) return;
    else if (event.key === "Enter" || event.key === " ") this.insertCorner(region, Number(middle));
    else if (by && middle === undefined) {
      const points = this.moved?.id === id ? this.moved.points : region.points;
      const whole = corner === undefined;
      this.moved = { id, points: whole ? shifted(points, by) : points.with(corner, shifted([points[corner]], by)[0]) };
      this.draw();
      clearTimeout(this.saving);
      this.saving = setTimeout(() => this.flush(), KEY_PAUSE_MS);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      if (corner === undefined) this.remove(id);
      else if (region.points.length > CORNERS[region.kind]) this.save(id, { points: region.points.toSpliced(corner, 1) });
    } else return;
    event.preventDefault();
  }

  // The focus selects a region, so that its corners are the next stops of the Tab key.
  focused({ dataset }) {
    if (dataset.key?.startsWith("shape-") && dataset.id !== this.selected && !this.drag) this.select(dataset.id);
  }

  insertCorner(region, index) {
    const { points } = region;
    const added = between(points[index], points[(index + 1) % points.length]);
    this.save(region.id, { points: points.toSpliced(index + 1, 0, added) });
  }

  // Drawing.

  // Add a corner to the draft; a corner within reach of the first one closes a polygon.
  addCorner(point, reach) {
    const least = CORNERS[this.tool];
    const near = (other) => other && this.overlay.distance(point, other) <= reach;
    if (this.tool !== "line" && this.draft.length >= least && (near(this.draft[0]) || near(this.draft.at(-1)))) {
      this.finish();
      return;
    }
    if (this.draft.some((corner) => String(corner) === String(point)) || near(this.draft.at(-1))) return; // a double click
    this.draft.push(point);
    this.pointer = point;
    this.announce(say("corner-added", { number: this.draft.length, ...percent(point) }));
    if (this.tool === "line" && this.draft.length === 2) this.finish();
    else this.changed();
  }

  removeDraftCorner() {
    this.draft.pop();
    this.changed();
  }

  // Save the draft. If the server refuses it, it stays, so that it can be corrected.
  async finish() {
    if (this.draft.length < CORNERS[this.tool] || this.finishing) return;
    this.finishing = true;
    const kind = this.tool;
    const id = await this.store.draw({ kind, name: this.newName(kind), points: this.draft, classes: [], dwell: null });
    this.finishing = false;
    if (!id) {
      if (kind === "line") this.removeDraftCorner();
      return;
    }
    this.setTool(null);
    this.select(id);
    if (!this.touched) this.form.askForName(); // the keyboard of a phone would cover the picture
  }

  newName(kind) {
    const names = new Set(this.store.regions.map(({ name }) => name));
    let number = 1;
    while (names.has(`${say(`kind.${kind}`)} ${number}`)) number += 1;
    return `${say(`kind.${kind}`)} ${number}`;
  }

  // Changes.

  // Save what was moved.
  flush() {
    clearTimeout(this.saving);
    const moved = this.moved;
    if (!moved) return;
    this.save(moved.id, { points: moved.points }).finally(() => {
      if (this.moved === moved) this.moved = null;
      this.draw();
    });
  }

  async save(id, values) {
    const region = this.store.get(id);
    if (region) await this.store.change(id, { ...drawingOf(region), ...values });
  }

  reverse() {
    const region = this.store.get(this.selected);
    this.save(region.id, { points: region.points.toReversed() });
  }

  async remove(id = this.selected) {
    this.moved = null;
    await this.store.remove(id);
    this.card.querySelector("[data-act=undo]").focus();
  }

  undo() {
    if (this.tool && this.draft.length) this.removeDraftCorner();
    else this.store.undo();
  }

  redo() {
    this.store.redo();
  }
}
