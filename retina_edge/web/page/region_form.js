// The list of the regions of a stream, and the form of the one that is selected.

import { showList } from "./lists.js";
import { say } from "./words.js";

export class RegionForm {
  // Show regions in an element. onSelect(id) is called if one is chosen, onChange(values) if values of it are changed.
  constructor(element, { onSelect, onChange }) {
    this.list = element.querySelector(".region-list");
    this.empty = element.querySelector(".no-regions");
    this.form = element.querySelector("form.region");
    this.onSelect = onSelect;
    this.shownId = null;
    this.form.addEventListener("submit", (event) => event.preventDefault());
    const { name, dwell } = this.form.elements;
    name.addEventListener("change", () => name.reportValidity() && onChange({ name: name.value.trim() }));
    dwell.addEventListener("change", () => {
      if (dwell.reportValidity()) onChange({ dwell: dwell.value === "" ? null : Number(dwell.value) });
    });
    this.form.querySelector(".classes").addEventListener("change", () => {
      onChange({ classes: [...this.form.querySelectorAll(".classes :checked")].map((box) => box.value) });
    });
  }

  show(regions, selected, classes) {
    const items = showList(this.list, regions, ({ id }) => id, ({ id }) => this.item(id));
    items.forEach((item, index) => describe(item.firstElementChild, regions[index], selected));
    this.empty.hidden = regions.length > 0;
    const region = regions.find(({ id, read_only }) => id === selected && !read_only);
    this.form.hidden = !region;
    if (region) this.fill(region, classes);
  }

  item(id) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.onclick = () => this.onSelect(id);
    item.append(button);
    return item;
  }

  // Fill the form in. A text that is being typed stays.
  fill(region, classes) {
    const other = this.shownId !== region.id;
    this.shownId = region.id;
    const { name, dwell } = this.form.elements;
    for (const [field, value] of [[name, region.name], [dwell, region.dwell ?? ""]]) {
      const typing = document.activeElement === field && field.value !== field.defaultValue;
      if (other || !typing) field.value = value;
      field.defaultValue = value;
    }
    this.form.querySelector(".dwell").hidden = region.kind !== "zone";
    this.form.querySelector("[data-act=reverse]").hidden = region.kind !== "line";
    const boxes = this.form.querySelector(".classes");
    const offered = [...boxes.querySelectorAll("input")].map((box) => box.value);
    if (String(offered) !== String(classes)) boxes.replaceChildren(...classes.map(checkbox));
    for (const box of boxes.querySelectorAll("input")) box.checked = region.classes.includes(box.value);
  }

  // Let the user type a name for a new region.
  askForName() {
    if (this.form.hidden) return;
    this.form.elements.name.focus({ preventScroll: true });
    this.form.elements.name.select();
  }
}

function describe(button, { id, kind, name, read_only }, selected) {
  button.setAttribute("aria-pressed", String(id === selected));
  button.textContent = say(read_only ? "list-item.fixed" : "list-item", { name, kind: say(`kind.${kind}`) });
}

function checkbox(name) {
  const label = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.value = name;
  label.append(box, ` ${name}`);
  return label;
}
