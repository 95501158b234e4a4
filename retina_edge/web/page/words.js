// All words of the page and of the login page. To translate them, translate this file.

const WORDS = {
  "api": "API",
  "metrics": "metrics",
  "minimum-score": "minimum score",

  "login.title": "retina_edge: log in",
  "login.token": "Token",
  "login.button": "Log in",
  "login.wrong":
    "Wrong token. Use the token that was given with --token, or the one that was printed when the server started.",

  "online": "{online} of {all} streams online",
  "full": "too many viewers: close the page in another window to see frames here",
  "no-answer": "the server does not answer",
  "connecting": "connecting",
  "state.connecting": "connecting",
  "state.online": "online",
  "state.offline": "offline",
  "state.ended": "ended",
  "state.ok": "ok",
  "state.waiting": "waiting",
  "state.lost": "lost",
  "state.failed": "failed",

  "streams": "streams",
  "picture": "newest frame of {stream}",
  "fps": "frames/s",
  "latency_p50": "latency p50",
  "latency_p95": "p95",
  "dropped": "dropped",
  "reconnects": "reconnects",
  "milliseconds": "{number} ms",
  "objects": "objects",
  "count": "{count} {name}",
  "stream-tools": "{stream}: picture",
  "pause": "Pause",
  "paused": "paused",
  "full-screen": "Full screen",
  "snapshot": "Snapshot",
  "with-boxes": "With boxes",
  "without-boxes": "Without boxes",
  "no-snapshot": "No snapshot: {reason}",

  "regions": "Zones and lines",
  "region-counts": "counts of zones and lines",
  "region-count": "{name}: {counts}",
  "longest": "longest {seconds} s",
  "count.inside": "inside",
  "count.entered": "entered",
  "count.left": "left",
  "count.dwelled": "dwelled",
  "count.in": "in",
  "count.out": "out",

  "draw": "draw",
  "draw.zone": "Zone",
  "draw.line": "Line",
  "draw.mask": "Mask",
  "kind.zone": "zone",
  "kind.line": "line",
  "kind.mask": "mask",
  "undo": "Undo",
  "redo": "Redo",
  "done": "Done",
  "finish": "Finish",
  "remove-corner": "Remove corner",
  "cancel": "Cancel",
  "hint.idle": "Draw a new one, or choose one to change it. A mask is an area in which objects are ignored.",
  "hint.zone": "Click the corners, then the first corner again to finish. Keys: arrows, Space for a corner, Enter to finish.",
  "hint.line":
    "Click the two ends. A crossing to the right, seen from the first end toward the second, counts as in. " +
    "Keys: arrows, Space for an end.",
  "hint.selected":
    "Drag a corner to move it, or the inside to move the whole region. To add a corner, drag the small circle in the " +
    "middle of a side.",
  "hint.selected-line": "Drag an end to move it, or the line to move all of it.",
  "hint.fixed": "Set with --zone or --line when the server started; it cannot be changed here.",
  "hint.no-picture": "Zones and lines can be drawn once the stream has delivered a frame.",
  "region-list": "zones, lines and masks",
  "no-regions": "There are no zones, lines or masks yet.",
  "list-item": "{name} ({kind})",
  "list-item.fixed": "{name} ({kind}, from the command line)",
  "name": "Name",
  "dwell": "Dwell time, seconds",
  "dwell.hint": "An object that stays this long is an event. Empty: the value of --dwell.",
  "classes": "Classes",
  "classes.hint": "None chosen: all classes.",
  "reverse": "Reverse direction",
  "delete": "Delete",
  "drawing-area": "drawing area of {stream}",
  "shape": "{kind} {name}",
  "corner": "{name}: corner {number} of {all}, {x} % from the left, {y} % from the top",
  "middle": "{name}: add a corner after corner {number}",
  "cursor": "{x} % from the left, {y} % from the top",
  "corner-added": "corner {number} at {x} %, {y} %",
  "saved": "{name}: saved",
  "deleted": "{name}: deleted",
  "undone": "{name}: undone",
  "redone": "{name}: done again",
  "replaced-newer": "{name}: saved; this replaced a change that was made elsewhere at the same time",
  "changed-elsewhere": "changed in another window",
  "in": "in",

  "last-hour": "last hour of {stream}",
  "minute": "{time}: events: {events}",
  "minute.offline": "{time}: events: {events}; without frames: {seconds} s",
  "minute.none": "{time}: not running yet",
  "now": "now",
  "hour-ago": "60 min ago",

  "outputs": "Outputs",
  "written": "{count} written",
  "delivered": "{count} delivered",
  "waiting": "{count} waiting",
  "output-dropped": "{count} dropped",
  "lost": "{count} lost",

  "events": "Events",
  "no-events": "no events yet",
  "no-such-events": "no such events",
  "no-kept-events": "no such events, or they are no longer kept",
  "filter": "filter of the events",
  "stream": "Stream",
  "class": "Class",
  "region": "Zone or line",
  "all": "all",
  "all-times": "{time} only: show all",
  "event.entered": "{stream}: {class} {track} entered {region}",
  "event.left": "{stream}: {class} {track} left {region}",
  "event.dwelled": "{stream}: {class} {track} dwelled in {region}, {seconds} s",
  "event.crossed": "{stream}: {class} {track} crossed {region}, {direction}",
  "play": "Play the clip: {event}",
  "close": "Close",
  "clip.waiting": "The clip is not there yet: it is still being written, or no longer kept.",
  "clip.gone": "The clip is not there: it is no longer kept, or could not be written.",
};

// Return a text, with values in the place of {names}.
export function say(key, values = {}) {
  const text = WORDS[key];
  if (text === undefined) throw new Error(`no words for ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => String(values[name]));
}

// Write the words of elements: data-word is the text, data-label the label for screen readers.
export function writeWords(root) {
  for (const element of root.querySelectorAll("[data-word]")) element.textContent = say(element.dataset.word);
  for (const element of root.querySelectorAll("[data-label]")) element.setAttribute("aria-label", say(element.dataset.label));
  for (const template of root.querySelectorAll("template")) writeWords(template.content);
}
