// The card of a stream: its picture, its state, and pause, full screen and snapshots.

import { request, streamAddress } from "./api.js";
import { RegionEditor } from "./region_editor.js";
import { RegionStore } from "./region_store.js";
import { Timeline } from "./timeline.js";
import { say } from "./words.js";

export class StreamCard {
  // Make the card of a stream; onMinute(stream, start, time) is called if a minute of its last hour is chosen.
  constructor(stream, onMinute) {
    this.stream = stream;
    this.element = document.getElementById("stream").content.firstElementChild.cloneNode(true);
    this.element.dataset.stream = stream;
    this.find(".name").textContent = stream;
    this.find("img").alt = say("picture", { stream });
    this.find(".tools").setAttribute("aria-label", say("stream-tools", { stream }));
    this.shots = null; // while paused: the paused frame, with and without boxes
    this.pausing = false; // true while the frame to pause at is on its way
    this.regions = new RegionStore(stream);
    const editing = { announce: (text) => this.announce(text), onOpen: () => this.showShot() };
    this.editor = new RegionEditor(this.element, this.regions, editing);
    this.timeline = new Timeline(this.find(".last-hour"), stream, onMinute);
    this.find("[data-act=pause]").onclick = () => this.pause();
    this.find("[data-act=full]").onclick = () => this.toggleFullScreen();
    for (const [act, field] of [["with-boxes", "annotated"], ["without-boxes", "plain"]]) {
      this.find(`[data-act=${act}]`).onclick = () => this.save(field);
    }
    const menu = this.find("details.menu");
    menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && menu.open) {
        menu.open = false;
        menu.querySelector("summary").focus();
        event.stopPropagation();
      }
    });
    // A click on a button does not give it the focus in every browser, so only another focus closes the menu.
    menu.addEventListener("focusout", ({ relatedTarget }) => {
      if (relatedTarget && !menu.contains(relatedTarget)) menu.open = false;
    });
    document.addEventListener("pointerdown", ({ target }) => { if (!menu.contains(target)) menu.open = false; });
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  announce(text) {
    this.find(".notice").textContent = text;
  }

  // Show the status of the stream, as the API gives it.
  show(status) {
    const badge = this.find(".badge");
    badge.dataset.state = status.state;
    badge.textContent = say(`state.${status.state}`);
    this.find(".error").textContent = status.state === "online" ? "" : status.error;
    if (status.width) this.find(".frame").style.aspectRatio = `${status.width} / ${status.height}`;
    this.editor.setSize(status.width, status.height);
    for (const cell of this.element.querySelectorAll("[data-field]")) {
      const field = cell.dataset.field;
      const value = status[field];
      const number = field === "fps" ? value?.toFixed(1) : Math.round(value);
      cell.textContent = value === null ? "–" : field.startsWith("latency") ? say("milliseconds", { number }) : number;
    }
    const objects = Object.entries(status.objects).map(([name, count]) => say("count", { name, count }));
    this.find(".objects").replaceChildren(...objects.map(listItem));
    const regions = status.regions.map(({ name, counts, longest }) => {
      const parts = Object.entries(counts).map(([kind, count]) => say("count", { name: say(`count.${kind}`), count }));
      if (longest !== null) parts.push(say("longest", { seconds: Math.round(longest) }));
      return say("region-count", { name, counts: parts.join(" · ") });
    });
    this.find(".region-counts").replaceChildren(...regions.map(listItem));
  }

  // Show a frame, unless the picture is paused.
  showFrame(blob) {
    if (this.shots) return;
    this.showPicture(blob);
    this.element.dataset.frames = String(Number(this.element.dataset.frames ?? 0) + 1);
  }

  showPicture(blob) {
    const image = this.find("img"), shown = image.src;
    image.src = URL.createObjectURL(blob);
    URL.revokeObjectURL(shown); // a frame that another one replaces while it loads is neither loaded nor an error
  }

  // Pause the picture at a frame in full size, or show live frames again.
  async pause() {
    if (this.shots || this.pausing) {
      this.shots = null;
      this.pausing = false;
    } else {
      this.pausing = true;
      const shots = await this.takeShots();
      if (!this.pausing) return; // the button was pressed again meanwhile
      this.pausing = false;
      this.shots = shots;
      this.showShot();
    }
    this.find("[data-act=pause]").setAttribute("aria-pressed", String(Boolean(this.shots)));
    this.find(".paused").hidden = !this.shots;
  }

  // Show the frame at which the picture is paused. While regions are drawn it has no boxes, because it would show the
  // regions as they were.
  showShot() {
    if (this.shots) this.showPicture(this.shots.get(this.editor.open ? "plain" : "annotated"));
  }

  // Return the newest frame, with and without boxes; null if there is none, which the card says.
  async takeShots() {
    try {
      const shots = await (await request(`${streamAddress(this.stream)}/snapshot`)).formData();
      this.announce("");
      return shots;
    } catch (error) {
      this.announce(say("no-snapshot", { reason: error.message }));
      return null;
    }
  }

  // Save the paused frame, or else the newest one: "annotated" with boxes, or "plain".
  async save(field) {
    this.find("details.menu").open = false;
    this.find("summary").focus();
    const file = (this.shots ?? (await this.takeShots()))?.get(field);
    if (!file) return;
    const link = document.createElement("a");
    link.href = URL.createObjectURL(file);
    link.download = file.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }

  // A phone may have no full screen for elements, and a browser may refuse it; then the card fills the page.
  async toggleFullScreen() {
    if (document.fullscreenElement) await document.exitFullscreen();
    else if (this.element.classList.contains("full")) this.showFullScreen(false);
    else {
      await this.element.requestFullscreen?.().catch(() => {});
      this.showFullScreen(true);
    }
  }

  showFullScreen(full = document.fullscreenElement === this.element) {
    this.element.classList.toggle("full", full);
    this.find("[data-act=full]").setAttribute("aria-pressed", String(full));
  }
}

function listItem(text) {
  const item = document.createElement("li");
  item.textContent = text;
  return item;
}
