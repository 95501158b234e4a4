// The page: it asks the server for its state once per second, and shows the frames as they arrive.

import { fetchJson, sendJson } from "./api.js";
import { EventList } from "./events.js";
import { watch } from "./live_video.js";
import { showOutputs } from "./outputs.js";
import { StreamCard } from "./stream_card.js";
import { say, writeWords } from "./words.js";

const REFRESH_MS = 1000;
const byId = (id) => document.getElementById(id);
const cards = [];
let events;
let full = false; // true if there are too many viewers

function makeCard(status) {
  const card = new StreamCard(status.name, (stream, start, time) => {
    for (const other of cards) if (other.stream !== stream) other.timeline.clear();
    events.chooseMinute(stream, start, time);
  });
  byId("streams").append(card.element);
  return card;
}

async function refresh() {
  try {
    const streams = await fetchJson("api/streams");
    // The server was started again with other streams: begin again, because frames have only the number of a stream.
    if (cards.length && String(cards.map((card) => card.stream)) !== String(streams.map(({ name }) => name))) {
      location.reload();
      return;
    }
    streams.forEach((status, index) => {
      cards[index] ??= makeCard(status);
      cards[index].show(status);
    });
    const online = streams.filter((status) => status.state === "online").length;
    setState(full ? say("full") : say("online", { online, all: streams.length }));
    showOutputs(await fetchJson("api/outputs"));
    const regions = streams.flatMap((status) => status.regions.map(({ name }) => name));
    events.offer(streams.map(({ name }) => name), cards[0]?.regions.classes ?? [], regions);
    await events.refresh();
  } catch {
    setState(say("no-answer"));
  }
}

// Refresh the page for as long as it is open. A slow answer delays the next request, so that none overtakes another.
async function keepFresh() {
  await refresh();
  setTimeout(keepFresh, REFRESH_MS);
}

// A screen reader speaks the state only if it changes.
function setState(text) {
  if (byId("state").textContent !== text) byId("state").textContent = text;
}

let sending = false;
let pendingScore = null;

// Send the newest position of the slider, one request at a time; positions in between are skipped.
async function sendScore() {
  if (sending || pendingScore === null) return;
  sending = true;
  const score = pendingScore;
  pendingScore = null;
  try {
    await sendJson("PUT", "api/score", { score });
  } catch (error) {
    setState(error.message);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  sending = false;
  sendScore();
}

// Show the score of the server, unless it is being changed here.
async function loadScore() {
  const { score } = await fetchJson("api/score").catch(() => ({}));
  if (score === undefined || sending) return;
  byId("score").value = score;
  showScore();
}

function showScore() {
  byId("score-value").textContent = Number(byId("score").value).toFixed(2);
}

async function start() {
  writeWords(document);
  events = new EventList(() => cards.forEach((card) => card.timeline.clear()));
  document.addEventListener("fullscreenchange", () => cards.forEach((card) => card.showFullScreen()));
  byId("score").addEventListener("input", ({ target }) => { showScore(); pendingScore = Number(target.value); sendScore(); });
  await keepFresh();
  watch({
    onFrame: (index, blob) => { full = false; cards[index]?.showFrame(blob); },
    onRegions: (stream, revision) => cards.find((card) => card.stream === stream)?.regions.told(revision),
    // What happened while there was no connection was missed.
    onOpen: () => { cards.forEach((card) => card.regions.load()); loadScore(); },
    onFull: () => { full = true; },
  });
}

start();
