// The last hour of a stream: a bar for the events of each minute, and the time without frames.

import { fetchJson, streamAddress } from "./api.js";
import { makeSvg } from "./svg.js";
import { say } from "./words.js";

const MINUTES = 60, MINUTE_MS = 60_000;
const REFRESH_MS = 10_000;

export class Timeline {
  // Show the last hour of a stream in an element; onMinute(stream, start, time) is called with the minute that is
  // chosen.
  constructor(element, stream, onMinute) {
    this.element = element;
    this.stream = stream;
    this.minutes = [];
    this.start = null; // start of the minute that was chosen
    const slider = element.querySelector("input");
    slider.setAttribute("aria-label", say("last-hour", { stream }));
    // A click on the minute that is chosen already is no input event.
    for (const kind of ["input", "click"]) slider.addEventListener(kind, () => this.choose(onMinute));
    slider.addEventListener("keydown", (event) => { if (event.key === "Enter") this.choose(onMinute); });
    this.refresh();
    setInterval(() => this.refresh(), REFRESH_MS);
  }

  async refresh() {
    let minutes;
    try {
      minutes = await fetchJson(`${streamAddress(this.stream)}/timeline`);
    } catch {
      return; // the page says that the server does not answer
    }
    const last = minutes.length ? Date.parse(minutes.at(-1).time) : Math.floor(Date.now() / MINUTE_MS) * MINUTE_MS;
    const known = new Map(minutes.map((minute) => [Date.parse(minute.time), minute]));
    this.minutes = Array.from({ length: MINUTES }, (_, index) => {
      const start = last - (MINUTES - 1 - index) * MINUTE_MS;
      return { start, ...known.get(start) };
    });
    this.follow();
    this.draw();
  }

  // Keep the slider on the minute that was chosen, while the hour goes on.
  follow() {
    if (this.start === null) return;
    const index = this.minutes.findIndex(({ start }) => start === this.start);
    if (index >= 0) this.element.querySelector("input").value = index;
    else this.clear();
  }

  draw() {
    const most = Math.max(1, ...this.minutes.map(({ events }) => events ?? 0));
    const parts = this.minutes.flatMap(({ events, offline }, index) => {
      if (events === undefined) return [];
      const height = events ? 3 + (17 * events) / most : 0;
      return [
        rectangle("running", index, 0, 24),
        ...(offline > 0 ? [rectangle("offline", index, 24 - 24 * Math.min(1, offline / 60), 24)] : []),
        ...(events ? [rectangle("events", index, 24 - height, 24)] : []),
      ];
    });
    this.element.querySelector("svg").replaceChildren(...parts);
    this.describe();
  }

  // Return the minute on which the slider stands, and its description.
  chosen() {
    const minute = this.minutes[Number(this.element.querySelector("input").value)];
    if (!minute) return null;
    const time = new Date(minute.start).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
    const kind = minute.events === undefined ? "minute.none" : minute.offline >= 1 ? "minute.offline" : "minute";
    const text = say(kind, { time, events: minute.events, seconds: Math.round(minute.offline) });
    return { start: minute.start, text, time };
  }

  describe() {
    this.element.querySelector("input").setAttribute("aria-valuetext", this.chosen()?.text ?? "");
    const output = this.element.querySelector("output");
    if (output.textContent) output.textContent = this.chosen()?.text ?? "";
  }

  choose(onMinute) {
    const chosen = this.chosen();
    if (!chosen) return;
    this.start = chosen.start;
    this.element.querySelector("output").textContent = chosen.text;
    this.describe();
    onMinute(this.stream, chosen.start, chosen.time);
  }

  // Choose no minute.
  clear() {
    this.start = null;
    this.element.querySelector("output").textContent = "";
    this.element.querySelector("input").value = MINUTES - 1;
    this.describe();
  }
}

function rectangle(kind, index, top, bottom) {
  const width = kind === "running" ? 1 : 0.9;
  return makeSvg("rect", { class: kind, x: index + 0.05, y: top, width, height: bottom - top });
}
