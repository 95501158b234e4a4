"use strict";

const byId = (id) => document.getElementById(id);
const cards = [];
let socket;

// Addresses are relative, because a proxy may serve the page under a path.

// Fetch a JSON response. Without a valid token, open the login page.
async function fetchJson(path, options) {
  const response = await fetch(path, options);
  if (response.status === 401) location.assign("login");
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

function makeCard(status) {
  const card = byId("stream").content.firstElementChild.cloneNode(true);
  card.dataset.stream = status.name;
  card.querySelector(".name").textContent = status.name;
  card.querySelector("img").alt = `newest frame of ${status.name}`;
  byId("streams").append(card);
  return card;
}

function showStream(card, status) {
  const badge = card.querySelector(".badge");
  badge.textContent = badge.dataset.state = status.state;
  card.querySelector(".error").textContent = status.state === "online" ? "" : status.error;
  for (const cell of card.querySelectorAll("[data-field]")) {
    const value = status[cell.dataset.field];
    const unit = cell.dataset.field.startsWith("latency") ? " ms" : "";
    cell.textContent = value === null ? "–" : `${cell.dataset.field === "fps" ? value.toFixed(1) : Math.round(value)}${unit}`;
  }
  const objects = Object.entries(status.objects).map(([name, count]) => {
    const item = document.createElement("li");
    item.textContent = `${count} ${name}`;
    return item;
  });
  card.querySelector(".objects").replaceChildren(...objects);
}

async function refresh() {
  try {
    const streams = await fetchJson("api/streams");
    streams.forEach((status, index) => {
      cards[index] ??= makeCard(status);
      showStream(cards[index], status);
    });
    const online = streams.filter((status) => status.state === "online").length;
    byId("state").textContent = `${online} of ${streams.length} streams online`;
    showOutputs(await fetchJson("api/outputs"));
    showEvents(await fetchJson("api/events?limit=20"));
  } catch (error) {
    byId("state").textContent = "the server does not answer";
  }
}

function showOutputs(outputs) {
  byId("outputs-section").hidden = outputs.length === 0;
  byId("outputs").replaceChildren(...outputs.map((status) => {
    const item = byId("output").content.firstElementChild.cloneNode(true);
    item.dataset.output = status.name;
    item.querySelector(".name").textContent = status.name;
    const badge = item.querySelector(".badge");
    badge.textContent = badge.dataset.state = status.state;
    const counts = [
      `${status.done} ${status.kind === "file" ? "written" : "delivered"}`,
      ...["waiting", "dropped", "lost"].filter((field) => status[field]).map((field) => `${status[field]} ${field}`),
    ];
    item.querySelector(".counts").textContent = counts.join(" · ");
    item.querySelector(".error").textContent = status.state === "ok" ? "" : status.error;
    return item;
  }));
}

function showEvents(events) {
  byId("no-events").hidden = events.length > 0;
  const list = byId("events");
  if (list.dataset.newest === String(events[0]?.number)) return;
  list.dataset.newest = String(events[0]?.number);
  list.replaceChildren(...events.map((event) => {
    const item = document.createElement("li");
    const image = document.createElement("img");
    image.src = `api/events/${event.number}/thumbnail.jpg`;
    image.alt = event.text;
    image.loading = "lazy";
    const text = document.createElement("p");
    const time = document.createElement("time");
    time.dateTime = event.time;
    time.textContent = new Date(event.time).toLocaleTimeString();
    text.append(`${event.text} `, time);
    item.append(image, text);
    return item;
  }));
}

// The frames of all streams arrive through one connection, because a browser opens at most six connections to a host.
function openVideo() {
  const address = new URL("api/watch", location.href);
  address.protocol = address.protocol.replace("http", "ws");
  socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") return; // a change of regions
    const card = cards[new DataView(data).getUint16(0)];
    if (!card) return;
    const image = card.querySelector("img");
    const address = URL.createObjectURL(new Blob([data.slice(2)], { type: "image/jpeg" }));
    image.onload = image.onerror = () => URL.revokeObjectURL(address);
    image.src = address;
    card.dataset.frames = String(Number(card.dataset.frames ?? 0) + 1);
  };
  socket.onclose = () => setTimeout(openVideo, 1000);
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
    await fetchJson("api/score", {
      method: "PUT",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ score }),
    });
  } catch (error) {
    byId("state").textContent = String(error.message);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  sending = false;
  sendScore();
}

async function start() {
  const slider = byId("score");
  const showScore = () => { byId("score-value").textContent = Number(slider.value).toFixed(2); };
  slider.addEventListener("input", () => { showScore(); pendingScore = Number(slider.value); sendScore(); });
  await refresh();
  setInterval(refresh, 1000);
  openVideo();
  slider.value = (await fetchJson("api/score")).score;
  showScore();
}

start();
