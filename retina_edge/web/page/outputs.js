// The outputs: files of results, and receivers of events.

import { say } from "./words.js";

const byId = (id) => document.getElementById(id);

export function showOutputs(outputs) {
  byId("outputs-section").hidden = outputs.length === 0;
  byId("outputs").replaceChildren(...outputs.map((status) => {
    const item = byId("output").content.firstElementChild.cloneNode(true);
    item.dataset.output = status.name;
    item.querySelector(".name").textContent = status.name;
    const badge = item.querySelector(".badge");
    badge.dataset.state = status.state;
    badge.textContent = say(`state.${status.state}`);
    const counts = [say(status.kind === "file" ? "written" : "delivered", { count: status.done })];
    for (const [field, key] of [["waiting", "waiting"], ["dropped", "output-dropped"], ["lost", "lost"]]) {
      if (status[field]) counts.push(say(key, { count: status[field] }));
    }
    item.querySelector(".counts").textContent = counts.join(" · ");
    item.querySelector(".error").textContent = status.state === "ok" ? "" : status.error;
    return item;
  }));
}
