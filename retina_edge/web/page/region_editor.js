// The editor of the regions of a stream: draw with the pointer or with the keys, drag, name, delete, undo.

import { between, keyStep, percent, shifted } from "./points.js";
import { RegionForm } from "./region_form.js";
import { REACH, RegionOverlay } from "./region_overlay.js";
import { RegionTools } from "./region_tools.js";
import { setAttributes } from "./svg.js";
import { say } from "./words.js";

const CORNERS = { zone: 3, mask: 3, line: 2 };
// A move with the keys is saved when no key has been pressed for this time.
const KEY_PAUSE_MS = 400;

export class RegionEditor {
  // Edit the regions of a store on a card; announce(text) tells the user something, onOpen() is called if the editor is
  // opened or closed.
  constructor(card, store, { announce, onOpen }) {
    Object.assign(this, { card, store, announce, onOpen });
    this.svg = card.querySelector(".overlay");
    this.overlay = new RegionOverlay(this.svg);
    this.form = new RegionForm(card.querySelector(".editor"), {
      onSelect: (id) => { this.setTool(null); this.select(id); },
      onChange: (values) => this.store.change(this.selected, values),
    });
    this.open = false;
    this.tool = null; // kind of the region that is being drawn
    this.draft = []; // its corners
    this.pointer = null; // where the next corner would be
    this.selected = null;
    this.corner = null; // number of the corner of the selected region that was chosen last
    this.moved = null; // {id, points} of a region that is being moved, before it is saved
    this.drag = null;
    this.saving = null; // timer of a move with the keys
    this.touched = false; // true if the newest corner was drawn with a finger
    store.addEventListener("change", () => this.changed());
    store.addEventListener("notice", ({ detail }) => this.open && announce(detail));
    this.tools = new RegionTools(card, {
      edit: () => (this.open ? this.close() : this.setOpen(true)), done: () => this.close(), undo: () => this.undo(),
      redo: () => this.redo(), finish: () => this.finish(), cancel: () => this.setTool(null), reverse: () => this.reverse(),
      "remove-corner": () => (this.tool ? this.removeDraftCorner() : this.removeCorner(this.selected, this.corner)),
      delete: () => this.remove(),
    }, (kind) => this.setTool(this.tool === kind ? null : kind));
    // A second finger neither draws nor moves anything.
    for (const kind of ["down", "move", "up", "cancel"]) {
      this.svg.addEventListener(`pointer${kind}`, (event) => this.open && this.overlay.size && event.isPrimary && this[kind](event));
    }
    card.addEventListener("keydown", (event) => this.open && this.key(event));
    this.svg.addEventListener("focusin", ({ target }) => this.focused(target));
    new ResizeObserver(() => this.draw()).observe(this.svg);
  }

  // Set the size of the stream's frames; null before the first one.
  setSize(width, height) {
    if (!width || String(this.overlay.size) === `${width},${height}`) return;
    this.overlay.size = [width, height];
    this.store.load(); // regions in pixels are other parts of the frame now
  }

  setOpen(open) {
    this.open = open;
    this.setTool(null);
    const button = this.card.querySelector("[data-act=edit]"), editor = this.card.querySelector(".editor");
    if (!open && editor.contains(document.activeElement)) button.focus();
    this.card.classList.toggle("editing", open);
    editor.hidden = !open;
    button.setAttribute("aria-expanded", String(open));
    const label = say("drawing-area", { stream: this.store.stream });
    const attributes = { role: "application", tabindex: 0, "aria-label": label, "aria-describedby": this.tools.hint.id };
    if (open) setAttributes(this.svg, attributes);
    else for (const name of Object.keys(attributes)) this.svg.removeAttribute(name);
    if (open) this.store.load(); // a stream without frames has not loaded them yet
    else this.announce("");
    this.onOpen();
    this.changed();
  }

  // Close the editor. A drawing with enough corners is saved; if it is refused, the editor stays open.
  async close() {
    if (!this.complete || (await this.finish())) this.setOpen(false);
  }

  setTool(kind) {
    this.tool = kind;
    this.draft = [];
    this.pointer = null;
    if (kind) {
      this.select(null);
      this.pointer = [0.5, 0.5];
      this.svg.focus();
    }
    this.changed();
  }

  select(id) {
    this.flush();
    this.selected = id;
    this.corner = null;
    this.changed();
  }

  // True if what is being drawn has enough corners.
  get complete() {
    return this.draft.length >= (CORNERS[this.tool] ?? Infinity);
  }

  removable({ kind, points }) {
    return points.length > CORNERS[kind];
  }

  // Show the state of the store and of the editor.
  changed() {
    const region = this.store.get(this.selected);
    if (!region) this.selected = null;
    if (!(this.corner < region?.points.length)) this.corner = null;
    this.form.show(this.store.regions, this.selected, this.store.classes);
    this.tools.show({
      store: this.store, hasPicture: Boolean(this.overlay.size), tool: this.tool, corners: this.draft.length,
      complete: this.complete, selected: region, removable: this.corner !== null && this.removable(region),
    });
    this.draw();
  }

  draw() {
    const regions = this.store.regions.map((region) => (
      region.id === this.moved?.id ? { ...region, points: this.moved.points } : region
    ));
    this.redrawing = true;
    this.overlay.draw({
      regions, editing: this.open, selected: this.selected, corner: this.corner, draft: this.tool ? this.draft : null,
      pointer: this.pointer,
    });
    this.redrawing = false;
  }

  // Pointer.

  down(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.svg.setPointerCapture(event.pointerId);
    this.focus(this.svg); // a text that is being typed is saved before another region is selected
    const point = this.overlay.locate(event);
    const reach = REACH[event.pointerType] ?? REACH.mouse;
    if (this.tool) {
      this.touched = event.pointerType === "touch";
      this.addCorner(point, reach);
      return;
    }
    this.flush();
    const region = this.store.get(this.selected);
    const handle = region && this.store.canChange(region) ? this.overlay.handleAt(region, point, reach) : null;
    if (handle) {
      this.drag = { region, index: handle.index, points: handle.points, start: point };
      if (handle.added) this.moved = { id: region.id, points: handle.points };
      this.corner = handle.index;
      this.changed();
      this.focus(this.svg.querySelector(`[data-key="corner-${region.id}-${handle.index}"]`));
    } else {
      const id = event.target.dataset.id ?? null;
      this.select(id);
      if (id) this.focus(this.svg.querySelector(`[data-key="shape-${id}"]`));
      const hit = this.store.get(id);
      if (hit && this.store.canChange(hit)) this.drag = { region: hit, index: null, points: hit.points, start: point };
    }
  }

  // Give an element the focus. The page does not scroll, because that would move the picture under the pointer.
  focus(element) {
    element?.focus({ preventScroll: true });
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
    const shortcut = event.ctrlKey || event.metaKey;
    if (shortcut && !event.altKey && (letter === "z" || letter === "y")) {
      event.preventDefault();
      if (letter === "y" || event.shiftKey) this.redo();
      else this.undo();
    } else if (shortcut || event.altKey) return; // a key of the browser, such as Alt+Left
    else if (this.tool && (event.target === this.svg || event.key === "Escape")) this.drawingKey(event);
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
    const by = keyStep(event);
    if (!by) this.flush();
    const region = this.store.get(id);
    if ((event.key === "Enter" || event.key === " ") && middle === undefined) this.select(id);
    else if (event.key === "Escape") this.select(null);
    else if (!this.store.canChange(region)) return;
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
      else this.removeCorner(id, Number(corner));
    } else return;
    event.preventDefault();
  }

  // The focus selects a region, so that its corners are the next stops of the Tab key. It does not if a region is being
  // drawn or dragged, or if the focus only comes back after the regions were drawn again.
  focused({ dataset }) {
    if (this.redrawing || this.drag || this.tool) return;
    if (dataset.key?.startsWith("shape-") && dataset.id !== this.selected) this.select(dataset.id);
    else if (dataset.corner !== undefined) {
      this.corner = Number(dataset.corner);
      this.changed();
    }
  }

  insertCorner({ id, points }, index) {
    const added = between(points[index], points[(index + 1) % points.length]);
    this.store.change(id, { points: points.toSpliced(index + 1, 0, added) });
  }

  removeCorner(id, corner) {
    this.flush();
    const region = this.store.get(id);
    this.corner = null;
    if (this.removable(region)) this.store.change(id, { points: region.points.toSpliced(corner, 1) });
  }

  // Drawing.

  // Add a corner to the draft; a corner within reach of the first one closes a polygon.
  addCorner(point, reach) {
    if (this.finishing) return;
    const near = (other) => other && this.overlay.distance(point, other) <= reach;
    if (this.tool !== "line" && this.complete && (near(this.draft[0]) || near(this.draft.at(-1)))) {
      this.finish();
      return;
    }
    if (this.draft.some((corner) => String(corner) === String(point)) || near(this.draft.at(-1))) return; // a double click
    this.draft.push(point);
    this.pointer = point;
    this.announce(say("corner-added", { number: this.draft.length, ...percent(point) }));
    if (this.tool === "line" && this.complete) this.finish();
    else this.changed();
  }

  removeDraftCorner() {
    if (this.finishing) return;
    this.draft.pop();
    this.changed();
  }

  // Save the draft, and return true. If the server refuses it, it stays, so that it can be corrected.
  async finish() {
    if (!this.complete || this.finishing) return false;
    this.finishing = true;
    const { tool: kind, draft } = this;
    const id = await this.store.draw({ kind, name: this.store.newName(kind), points: draft, classes: [], dwell: null });
    this.finishing = false;
    if (this.draft !== draft) return false; // it was canceled meanwhile
    if (!id) {
      if (kind === "line") this.removeDraftCorner();
      return false;
    }
    this.setTool(null);
    this.select(id);
    if (!this.touched) this.form.askForName(); // the keyboard of a phone would cover the picture
    return true;
  }

  // Changes.

  // Save what was moved.
  flush() {
    clearTimeout(this.saving);
    const { moved } = this;
    this.moved = null;
    if (moved) this.store.change(moved.id, { points: moved.points });
  }

  reverse() {
    this.flush();
    const { id, points } = this.store.get(this.selected);
    this.store.change(id, { points: points.toReversed() });
  }

  async remove(id = this.selected) {
    this.moved = null;
    await this.store.remove(id);
    this.card.querySelector("[data-act=undo]").focus();
  }

  undo() {
    this.flush();
    if (this.tool && this.draft.length) this.removeDraftCorner();
    else this.store.undo();
  }

  redo() {
    this.flush();
    this.store.redo();
  }
}
