// The list of events with its filters, and the clips of events.

import { fetchJson, request, streamAddress } from "./api.js";
import { showList } from "./lists.js";
import { say } from "./words.js";

const SHOWN = 20, SHOWN_OF_A_MINUTE = 100;
const CLIP_RETRY_MS = 1000, CLIP_TRIES = 60;
const byId = (id) => document.getElementById(id);

export class EventList {
  // Show the events; onClear() is called when all times are to be shown again.
  constructor(onClear) {
    this.minute = null; // {start, time} of the chosen minute
    this.playing = 0; // number of the clip that was opened last
    this.opener = document.body; // what had the focus when it was opened
    byId("filter").addEventListener("change", () => this.update());
    byId("all-times").onclick = () => {
      this.minute = null;
      onClear();
      this.update();
      byId("filter-stream").focus();
    };
    const dialog = byId("clip");
    dialog.querySelector("button").onclick = () => dialog.close();
    dialog.addEventListener("close", () => {
      this.playing += 1;
      dialog.querySelector("video").removeAttribute("src");
      dialog.querySelector("video").load();
      // The browser gives the focus back to the button that opened the dialog, if that is still there.
      if (!this.opener.isConnected) byId("filter-stream").focus({ preventScroll: true });
    });
  }

  // Show the events of a minute of a stream.
  chooseMinute(stream, start, time) {
    this.minute = { start, time };
    byId("filter-stream").value = stream;
    this.update();
  }

  // Offer streams, classes, and zones and lines as filters; a choice that is still there stays.
  offer(streams, classes, regions) {
    for (const [id, names] of [["stream", streams], ["class", classes], ["region", regions]]) {
      const select = byId(`filter-${id}`);
      const wanted = ["", ...new Set(select.value ? [...names, select.value] : names)];
      if (JSON.stringify([...select.options].map((option) => option.value)) === JSON.stringify(wanted)) continue;
      const chosen = select.value;
      select.replaceChildren(...wanted.map((name) => new Option(name || say("all"), name)));
      select.value = chosen;
    }
  }

  // Show what is chosen at once. If the server does not answer, the next refresh of the page says so.
  update() {
    this.refresh().catch(() => {});
  }

  async refresh() {
    const query = new URLSearchParams({ limit: this.minute ? SHOWN_OF_A_MINUTE : SHOWN });
    for (const id of ["stream", "class", "region"]) {
      if (byId(`filter-${id}`).value) query.set(id, byId(`filter-${id}`).value);
    }
    if (this.minute) {
      query.set("since", new Date(this.minute.start).toISOString());
      query.set("until", new Date(this.minute.start + 60_000).toISOString());
    }
    byId("all-times").hidden = !this.minute;
    if (this.minute) byId("all-times").textContent = say("all-times", { time: this.minute.time });
    const asked = String(query);
    this.asked = asked;
    const events = await fetchJson(`api/events?${query}`);
    if (this.asked === asked) this.show(events, asked); // else the filters have changed meanwhile
  }

  show(events, query) {
    const nothing = this.minute ? "no-kept-events" : query === `limit=${SHOWN}` ? "no-events" : "no-such-events";
    byId("no-events").hidden = events.length > 0;
    byId("no-events").textContent = say(nothing);
    const list = byId("events");
    const focused = list.contains(document.activeElement);
    showList(list, events, keyOf, (event) => this.item(event));
    if (focused && !list.contains(document.activeElement)) list.querySelector("li:last-child button")?.focus({ preventScroll: true });
  }

  item(event) {
    const item = byId("event").content.firstElementChild.cloneNode(true);
    const seconds = Math.round(event.dwell ?? 0);
    const direction = event.direction && say(`count.${event.direction}`);
    const text = say(`event.${event.kind}`, { ...event, seconds, direction });
    item.querySelector(".text").textContent = text;
    const time = item.querySelector("time");
    time.dateTime = event.time;
    time.textContent = timeOf(new Date(event.time));
    item.querySelector("img").src = `api/events/${event.number}/thumbnail.jpg`;
    const play = item.querySelector("button");
    if (event.clip) {
      play.setAttribute("aria-label", say("play", { event: text }));
      play.onclick = () => this.play(event, text);
    } else {
      play.replaceWith(...play.querySelectorAll("img"));
    }
    return item;
  }

  // Play the clip of an event as soon as it is complete.
  async play(event, text) {
    const dialog = byId("clip"), video = dialog.querySelector("video"), notice = dialog.querySelector("[role=status]");
    const number = (this.playing += 1);
    this.opener = document.activeElement;
    dialog.querySelector("h2").textContent = text;
    notice.textContent = "";
    dialog.showModal();
    const address = `${streamAddress(event.stream)}/clips/${encodeURIComponent(event.clip)}`;
    for (let tries = 0; tries < CLIP_TRIES; tries += 1) {
      try {
        await request(address, { headers: { range: "bytes=0-0" } });
        if (this.playing !== number) return;
        notice.textContent = "";
        video.src = address;
        await video.play().catch(() => {}); // a browser may want a click first
        return;
      } catch {
        if (this.playing !== number) return;
        notice.textContent = say("clip.waiting");
        await new Promise((resolve) => setTimeout(resolve, CLIP_RETRY_MS));
        if (this.playing !== number) return;
      }
    }
    notice.textContent = say("clip.gone");
  }
}

// A server that was started again counts from 0, so the number alone is not enough.
const keyOf = ({ number, time }) => `${number} ${time}`;

// Return a time for people, with the date if that is not today's.
function timeOf(moment) {
  const today = moment.toDateString() === new Date().toDateString();
  return today ? moment.toLocaleTimeString() : moment.toLocaleString();
}
