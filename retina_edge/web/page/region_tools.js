// The buttons of the region editor, and the hint below them.

import { say } from "./words.js";

export class RegionTools {
  // Show the tools of a card. actions has a function for each button by its name, onTool(kind) chooses a tool.
  constructor(card, actions, onTool) {
    this.hint = card.querySelector(".hint");
    this.hint.id = `hint-${card.dataset.stream}`; // the description of the drawing area
    this.drawButtons = [...card.querySelectorAll("[data-draw]")];
    this.buttons = Object.fromEntries(Object.keys(actions).map((name) => [name, card.querySelector(`[data-act=${name}]`)]));
    for (const [name, act] of Object.entries(actions)) this.buttons[name].onclick = act;
    for (const button of this.drawButtons) button.onclick = () => onTool(button.dataset.draw);
  }

  // Show what can be done: tool is the kind of the region that is being drawn, selected the region that is selected.
  show({ store, hasPicture, tool, corners, complete, selected, removable }) {
    const focused = document.activeElement;
    for (const button of this.drawButtons) {
      button.disabled = !store.editable || !hasPicture;
      button.setAttribute("aria-pressed", String(button.dataset.draw === tool));
    }
    const { undo, redo, finish, cancel, "remove-corner": removeCorner } = this.buttons;
    undo.disabled = !store.done.length && !corners;
    redo.disabled = !store.undone.length;
    finish.hidden = cancel.hidden = !tool;
    finish.disabled = !complete;
    removeCorner.hidden = !tool && !removable;
    removeCorner.disabled = Boolean(tool) && !corners;
    this.hint.textContent = hintOf({ store, hasPicture, tool, selected });
    // A button that is hidden or disabled loses the focus: pass it on, so that the keys go on from here.
    const lost = Object.values(this.buttons).includes(focused) && (focused.hidden || focused.disabled);
    const next = focused === undo ? redo : focused === redo ? undo : this.drawButtons[0];
    if (lost) (next.disabled ? this.buttons.done : next).focus();
  }
}

function hintOf({ store, hasPicture, tool, selected }) {
  if (!store.editable) return store.whyNot;
  if (!hasPicture) return say("hint.no-picture");
  if (tool) return say(tool === "line" ? "hint.line" : "hint.zone");
  if (selected) return say(selected.read_only ? "hint.fixed" : selected.kind === "line" ? "hint.selected-line" : "hint.selected");
  return say("hint.idle");
}
