"""The picture of the rooms and their imports, drawn from the code."""

from __future__ import annotations

import io
from collections.abc import Mapping
from graphlib import TopologicalSorter

import matplotlib as mpl

mpl.use("Agg")

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from retina_edge.__main__ import VERBS
from tests.import_graph import room_arrows

COLORS = {"engines": "#2f6f9f", "export": "#b8792b", "retina_edge": "#1b7f5c"}
WIDTH, HEIGHT, ROW, COLUMN = 1.5, 0.42, 1.0, 1.75
MAX_COLUMNS = 7
# Rounds of ordering each row by the neighbors of its boxes.
ROUNDS = 12

Graph = dict[str, set[str]]


def rooms() -> Graph:
    """Return the rooms that each room imports. The verbs count as one room, and so do the modules of ``export``."""

    def name_of(room: str) -> str:
        package, _, rest = room.partition(".")
        if package == "export":
            return room if rest == "precision" else "export"
        return "verbs" if rest in VERBS or rest == "__main__" else room

    graph: Graph = {}
    for room, targets in room_arrows().items():
        # The front pages of the packages only re-export names, and assets contains no code.
        if room not in ("engines", "retina_edge", "retina_edge.assets"):
            graph.setdefault(name_of(room), set()).update(map(name_of, targets))
    return {room: targets & graph.keys() - {room} for room, targets in graph.items()}


def without_shortcuts(graph: Mapping[str, set[str]]) -> Graph:
    """Return the graph without the arrows that follow from others (its transitive reduction)."""
    reachable: Graph = {}
    for room in TopologicalSorter(graph).static_order():
        reachable[room] = graph[room].union(*(reachable[target] for target in graph[room]))
    return {
        room: {t for t in targets if not any(t in reachable[other] for other in targets - {t})}
        for room, targets in graph.items()
    }


def draw_rooms() -> str:
    """Return the picture as SVG."""
    graph = without_shortcuts(rooms())
    rows = _rows(graph)
    places = {
        room: ((column - (len(row) - 1) / 2) * COLUMN, ROW * height)
        for height, row in enumerate(rows)
        for column, room in enumerate(row)
    }
    figure = Figure(figsize=(MAX_COLUMNS * COLUMN * 0.85, len(rows) * ROW * 0.8))
    axes = figure.add_axes((0, 0, 1, 1))
    for room, targets in graph.items():
        x, y = places[room]
        for target in targets:
            to_x, to_y = places[target]
            axes.annotate(
                "",
                xy=(to_x, to_y + HEIGHT / 2),
                xytext=(x, y - HEIGHT / 2),
                arrowprops={"arrowstyle": "-|>", "color": "#8a8f98", "lw": 0.9, "shrinkA": 0, "shrinkB": 0},
                zorder=1,
            )
    for room, (x, y) in places.items():
        package = room.partition(".")[0] if room != "verbs" else "retina_edge"
        box = FancyBboxPatch(
            (x - WIDTH / 2, y - HEIGHT / 2), WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.08",
            facecolor=COLORS[package], edgecolor="white", zorder=2,
        )  # fmt: skip
        axes.add_patch(box)
        label = room.removeprefix("retina_edge.").replace("engines.", "engines/").replace("export.", "export/")
        axes.text(x, y, label, ha="center", va="center", color="white", fontsize=9, zorder=3)
    axes.set_xlim(-MAX_COLUMNS * COLUMN / 2, MAX_COLUMNS * COLUMN / 2)
    axes.set_ylim(-HEIGHT, (len(rows) - 1) * ROW + HEIGHT)
    axes.set_axis_off()
    content = io.StringIO()
    figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    return content.getvalue()


def _rows(graph: Graph) -> list[list[str]]:
    """Return the rooms in rows: each room is above the rooms that it imports, and neighbors are near each other."""
    height: dict[str, int] = {}
    for room in TopologicalSorter(graph).static_order():
        height[room] = 1 + max((height[target] for target in graph[room]), default=-1)
    rows: list[list[str]] = [[] for _ in range(1 + max(height.values()))]
    for room in sorted(graph):
        rows[height[room]].append(room)
    neighbors = {room: set(targets) for room, targets in graph.items()}
    for room, targets in graph.items():
        for target in targets:
            neighbors[target].add(room)
    for _ in range(ROUNDS):
        place = {room: column - (len(row) - 1) / 2 for row in rows for column, room in enumerate(row)}
        for row in rows:
            row.sort(key=lambda room: sum(place[other] for other in neighbors[room]) / (len(neighbors[room]) or 1))
    return rows
