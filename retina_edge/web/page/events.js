// The list of events with its filters, and the clips of events.

import { fetchJson, request, streamAddress } from "./api.js";
import { say } from "./words.js";

const SHOWN = 20, SHOWN_OF_A_MINUTE = 100;
const CLIP_RETRY_MS = 1000, CLIP_TRIES = 60;
const byId = (id) => document.getElementById(id);

export class EventList {
  // Show the events; onClear() is called when all times are to be shown again.
  constructor(onClear) {
    this.minute = null; // {start, time} of the chosen minute
    this.shown = "";
    this.playing = 0; // number of the clip that was opened last
    byId("filter").addEventListener("change", () => this.refresh());
    byId("all-times").onclick = () => {
      this.minute = null;
      onClear();
      this.refresh();
      byId("filter-stream").focus();
    };
    const dialog = byId("clip");
    dialog.querySelector("button").onclick = () => dialog.close();
    dialog.addEventListener("close", () => {
      this.playing += 1;
      dialog.querySelector("video").removeAttribute("src");
      dialog.querySelector("video").load();
    });
  }

  // Show the events of a minute of a stream.
  chooseMinute(stream, start, time) {
    this.minute = { start, time };
    byId("filter-stream").value = stream;
    this.refresh();
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
    const filtered = query !== `limit=${SHOWN}`;
    byId("no-events").hidden = events.length > 0;
    byId("no-events").textContent = say(filtered ? "no-such-events" : "no-events");
    const shown = JSON.stringify([query, events.map(({ number }) => number)]);
    if (shown === this.shown) return;
    this.shown = shown;
    const focused = document.activeElement?.closest("#events li")?.dataset.number;
    byId("events").replaceChildren(...events.map((event) => this.item(event)));
    if (focused) byId("events").querySelector(`[data-number="${focused}"] button`)?.focus();
  }

  item(event) {
    const item = byId("event").content.firstElementChild.cloneNode(true);
    item.dataset.number = event.number;
    const seconds = Math.round(event.dwell ?? 0);
    const direction = event.direction && say(`count.${event.direction}`);
    const text = say(`event.${event.kind}`, { ...event, seconds, direction });
    item.querySelector(".text").textContent = text;
    const time = item.querySelector("time");
    time.dateTime = event.time;
    time.textContent = new Date(event.time).toLocaleTimeString();
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
