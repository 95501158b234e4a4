"""Shared parts of the scripts: arguments, result files and printed tables."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.comparison import Row
from benchmarks.record import SUFFIXES, begin, save
from engines.core.machine import this_machine

CPU, CUDA, AUTO = "cpu", "cuda", "auto"
# A function of a device, a number of rounds and a folder for models, which yields rows as they are measured.
Measure = Callable[[str, int, Path], Iterator[list[Row]]]


def script_parser(description: str | None, rounds: Mapping[str, int]) -> argparse.ArgumentParser:
    """Return a parser with ``--rounds``, ``--device`` and ``--work``.

    Args:
        description: docstring of the script; the help shows its first line.
        rounds: default number of counted runs for each device.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    usual = " and ".join(f"{count} on {device}" for device, count in rounds.items())
    parser.add_argument(
        "--rounds", type=int, help=f"counted runs of each candidate (default: {usual}, fewer for a slow candidate)"
    )
    parser.add_argument(
        "--device",
        choices=(CPU, CUDA, AUTO),
        default=AUTO,
        help="device to measure (default: auto, every device of this machine)",
    )
    add_work(parser)
    parser.set_defaults(usual_rounds=rounds)
    return parser


def add_work(parser: argparse.ArgumentParser) -> None:
    """Add ``--work`` to a parser."""
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="folder that keeps exported models and engines and reuses existing ones",
    )


def devices(chosen: str) -> list[str]:
    """Return the devices to measure: ``cpu``, ``cuda`` or both.

    Raises:
        SystemExit: if ``cuda`` was chosen and there is no GPU.
    """
    gpu = this_machine().gpu
    if chosen == CUDA and not gpu:
        raise SystemExit(
            "--device cuda: expected an NVIDIA GPU and its driver, found none; omit --device, or choose cpu"
        )
    return ([CPU, CUDA] if gpu else [CPU]) if chosen == AUTO else [chosen]


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """Yield the given folder, created if it is missing, or else a temporary one."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def run(name: str, args: argparse.Namespace, measure: Measure, table: Callable[[list[Row]], Table]) -> int:
    """Measure each chosen device, write its result file after every row, print the table, and return exit code 0.

    Args:
        name: name of the script and of its result file.
        args: arguments from ``script_parser``.
        measure: function that measures one device; it takes the device, a number of rounds and a folder for models.
        table: function that makes a printable table of the rows.
    """
    before, console = begin(), Console()
    for device in devices(args.device):
        figures: list[Row] = []
        with work_folder(args.work) as work:
            for rows in measure(device, args.rounds or args.usual_rounds[device], work):
                figures += rows
                path = save(name, figures, suffix=SUFFIXES[device], before=before)
        if not figures:
            raise SystemExit(f"{name} on {device}: expected at least one row, got none")
        console.print(table(figures))
        console.print(f"written to {path.name}")
    return 0
