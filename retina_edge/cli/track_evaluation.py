"""The part of ``retina-edge evaluate`` that measures tracks: ``--tracks``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from engines.core.atomic_file import atomic_file
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.evaluation.track_metrics import TrackEvaluation, evaluate_tracks
from retina_edge.system.console import Console
from retina_edge.system.output_file import check_output
from retina_edge.system.table import Table

# The options that belong to tracks, by their names in the namespace.
_OF_TRACKS = ("model", "annotations", "tracks", "json")
_SEQUENCE_COLUMNS = ("HOTA", "IDF1", "MOTA", "switches")


def check_track_options(parser: VerbParser, args: argparse.Namespace) -> None:
    """Refuse options that a measurement of tracks does not have."""
    for action in parser._actions:
        if action.dest not in (*_OF_TRACKS, "help") and getattr(args, action.dest) != action.default:
            parser.error(f"{action.option_strings[-1]} does not belong to --tracks, which runs no model; leave it out")


def measure_tracks(args: argparse.Namespace) -> int:
    """Measure tracks, print the metrics, and write them to ``--json``."""
    if args.json:
        inputs = [("tracks", args.model), ("ground truth", args.annotations)]
        check_output("--json", args.json, inputs=inputs)
    evaluation = evaluate_tracks(args.model, args.annotations)
    _print_metrics(Console(), evaluation)
    if args.json:
        _write_json(evaluation, args.json)
    return 0


def _print_metrics(console: Console, evaluation: TrackEvaluation) -> None:
    table = Table()
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in evaluation.combined.to_dict().items():
        table.add_row(name.replace("_", " "), _text(value))
    console.print(table)
    if len(evaluation.sequences) > 1:
        table = Table("sequence")
        for name in _SEQUENCE_COLUMNS:
            table.add_column(name, justify="right")
        for sequence, metrics in evaluation.sequences.items():
            values = metrics.to_dict()
            table.add_row(sequence, *(_text(values[name]) for name in _SEQUENCE_COLUMNS))
        console.print(table)


def _text(value: float | int) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _write_json(evaluation: TrackEvaluation, path: Path) -> None:
    with atomic_file(path) as file:
        file.write(f"{json.dumps(evaluation.to_dict(), indent=2)}\n".encode())
