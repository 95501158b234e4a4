// Regions drawn over the picture of a stream, with handles for what is being edited.

import { between, clamp, percent } from "./points.js";
import { makeSvg as make, setAttributes as set } from "./svg.js";
import { say } from "./words.js";

// Lengths in pixels of the screen.
const CORNER = 7, MIDDLE = 5, ARROW = 30, TEXT = 14;
// Farthest distance from a handle that grabs it, in pixels of the screen: for a mouse, and for a finger.
export const REACH = { mouse: 12, touch: 24, pen: 16 };
let patterns = 0;

export class RegionOverlay {
  constructor(svg) {
    this.svg = svg;
    this.size = null; // [width, height] of the frames
    this.hatch = document.getElementById("hatch").cloneNode(true); // with the scale of this picture
    this.hatch.id = `hatch-${(patterns += 1)}`;
  }

  // Pixels of the screen per pixel of the frame.
  get scale() {
    return this.svg.getScreenCTM()?.a || 1;
  }

  // Return where an event is on the frame: [x, y] from 0 to 1.
  locate(event) {
    const { a, e, d, f } = this.svg.getScreenCTM();
    return [(event.clientX - e) / a / this.size[0], (event.clientY - f) / d / this.size[1]].map(clamp);
  }

  // Return the distance of two points in pixels of the screen.
  distance(one, other) {
    return this.scale * Math.hypot((one[0] - other[0]) * this.size[0], (one[1] - other[1]) * this.size[1]);
  }

  // Return the corner near a point, or a new one if the middle of a side is near; null if neither is.
  handleAt({ kind, points }, point, reach) {
    const nearest = (places) => {
      const distances = places.map((place) => this.distance(place, point));
      const index = distances.indexOf(Math.min(...distances));
      return distances[index] <= reach ? index : null;
    };
    const corner = nearest(points);
    if (corner !== null) return { index: corner, points };
    if (kind === "line") return null;
    const middle = nearest(points.map((place, index) => between(place, points[(index + 1) % points.length])));
    if (middle === null) return null;
    return { index: middle + 1, points: points.toSpliced(middle + 1, 0, point), added: true };
  }

  // Draw regions. The one with the id "selected" has handles, if it can be changed, and "corner" is the number of the
  // corner that was chosen. draft has the corners of a region that is being drawn; pointer is the point at which the
  // pointer is, or to which the keys have moved.
  draw({ regions, editing, selected, corner, draft, pointer }) {
    if (!this.size) return;
    const focused = this.svg.contains(document.activeElement) && { ...document.activeElement.dataset };
    this.svg.setAttribute("viewBox", `0 0 ${this.size[0]} ${this.size[1]}`);
    this.hatch.setAttribute("patternTransform", `rotate(45) scale(${1 / this.scale})`);
    const parts = regions.filter(({ kind, unit }) => unit === "relative" && (editing || kind === "mask"))
      .map((region) => this.region(region, editing, region.id === selected, corner));
    if (draft) parts.push(...this.draft(draft, pointer));
    this.svg.replaceChildren(this.hatch, ...parts);
    if (focused?.key) this.refocus(focused);
  }

  // Give the focus back to the element that has taken the place of another one. A corner that was removed passes it to
  // its region, and a region that was deleted to the whole drawing area.
  refocus({ key, id }) {
    const find = (name) => this.svg.querySelector(`[data-key="${CSS.escape(name)}"]`);
    (find(key) ?? find(`shape-${id}`) ?? this.svg).focus({ preventScroll: true });
  }

  region(region, editing, selected, corner) {
    const { id, kind, name, points } = region;
    const group = make("g", { class: `region ${kind} ${selected ? "selected" : ""} ${region.read_only ? "fixed" : ""}` });
    const shape = make(kind === "line" ? "polyline" : "polygon", { points: this.list(points), class: "shape" });
    const outline = shape.cloneNode(); // wider, so that a thin line can be hit
    outline.setAttribute("class", "outline");
    if (kind === "mask") shape.setAttribute("fill", `url(#${this.hatch.id})`);
    if (editing) {
      const label = say("shape", { kind: say(`kind.${kind}`), name });
      set(outline, { tabindex: 0, role: "button", "aria-label": label, "aria-pressed": selected });
      Object.assign(outline.dataset, { key: `shape-${id}`, id });
    }
    group.append(shape, outline);
    // The frames themselves show the names of zones and lines, and the directions of lines.
    if (selected && kind === "line") group.append(...this.arrow(points));
    if (kind === "mask") group.append(this.text(name, [Math.min(...points.map(([x]) => x)), Math.min(...points.map(([, y]) => y))], -6));
    if (editing && selected && !region.read_only) group.append(...this.handles(region, corner));
    return group;
  }

  handles({ id, kind, name, points }, chosen) {
    const middles = kind === "line" ? [] : points.map((point, index) => {
      const next = points[(index + 1) % points.length];
      const handle = this.circle([(point[0] + next[0]) / 2, (point[1] + next[1]) / 2], MIDDLE, "middle");
      set(handle, { tabindex: 0, role: "button", "aria-label": say("middle", { name, number: index + 1 }) });
      Object.assign(handle.dataset, { key: `middle-${id}-${index}`, id, middle: index });
      return handle;
    });
    const corners = points.map((point, index) => {
      const handle = this.circle(point, CORNER, index === chosen ? "corner chosen" : "corner");
      const where = { name, number: index + 1, all: points.length, ...percent(point) };
      set(handle, { tabindex: 0, role: "button", "aria-label": say("corner", where) });
      Object.assign(handle.dataset, { key: `corner-${id}-${index}`, id, corner: index });
      return handle;
    });
    return [...middles, ...corners];
  }

  // An arrow from the middle of a line to the side that counts as in: to the right, from the first point to the second.
  arrow(points) {
    const [[x1, y1], [x2, y2]] = points.map(([x, y]) => [x * this.size[0], y * this.size[1]]);
    const length = Math.hypot(x2 - x1, y2 - y1) || 1;
    const inward = [-(y2 - y1) / length, (x2 - x1) / length];
    const middle = [(x1 + x2) / 2, (y1 + y2) / 2];
    const at = (along, across) => [
      middle[0] + (along * inward[0] - across * inward[1]) / this.scale,
      middle[1] + (along * inward[1] + across * inward[0]) / this.scale,
    ];
    const path = [middle, at(ARROW, 0), at(ARROW - 9, 6), at(ARROW, 0), at(ARROW - 9, -6)];
    const tip = at(ARROW + 12, 0);
    const text = this.text(say("in"), [tip[0] / this.size[0], tip[1] / this.size[1]], TEXT / 3);
    text.setAttribute("text-anchor", "middle");
    return [make("polyline", { points: path.map((point) => point.join()).join(" "), class: "arrow" }), text];
  }

  draft(points, pointer) {
    const parts = [make("polyline", { points: this.list(pointer ? [...points, pointer] : points), class: "draft" })];
    parts.push(...points.map((point) => this.circle(point, CORNER, "corner")));
    if (pointer) parts.push(this.circle(pointer, MIDDLE, "pointer"));
    return parts;
  }

  circle([x, y], radius, kind) {
    return make("circle", { cx: x * this.size[0], cy: y * this.size[1], r: radius / this.scale, class: kind });
  }

  text(words, [x, y], down) {
    const size = TEXT / this.scale;
    const top = Math.max(size, y * this.size[1] + down / this.scale);
    const text = make("text", { x: x * this.size[0], y: top, "font-size": size });
    text.textContent = words;
    return text;
  }

  list(points) {
    return points.map(([x, y]) => `${x * this.size[0]},${y * this.size[1]}`).join(" ");
  }
}
