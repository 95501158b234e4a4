"""What the scripts share: their arguments, and the way from rows to a result file and a table."""

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
# Device, rounds, folder for models.
Measure = Callable[[str, int, Path], Iterator[list[Row]]]


def script_parser(description: str | None, rounds: Mapping[str, int]) -> argparse.ArgumentParser:
    """With ``--rounds``, ``--device`` and ``--work``.

    Args:
        description: of the script; its first line is shown.
        rounds: of each device, unless others are asked for.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    usual = " and ".join(f"{count} on {device}" for device, count in rounds.items())
    parser.add_argument("--rounds", type=int, help=f"counted runs of each (default: {usual}, fewer of what is slow)")
    parser.add_argument(
        "--device", choices=(CPU, CUDA, AUTO), default=AUTO, help="what to measure (default: all there is)"
    )
    add_work(parser)
    parser.set_defaults(usual_rounds=rounds)
    return parser


def add_work(parser: argparse.ArgumentParser) -> None:
    """``--work``."""
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keeps exported models and engines there, and takes those it finds"
    )


def devices(chosen: str) -> list[str]:
    """Those to measure, of ``cpu`` and ``cuda``.

    Raises:
        SystemExit: a GPU was asked for, and there is none.
    """
    gpu = this_machine().gpu
    if chosen == CUDA and not gpu:
        raise SystemExit("--device cuda: expected an NVIDIA GPU and its driver, found none; leave it out, or say cpu")
    return ([CPU, CUDA] if gpu else [CPU]) if chosen == AUTO else [chosen]


@contextmanager
def work_folder(given: Path | None) -> Iterator[Path]:
    """The folder given, or one that is gone afterwards."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def run(name: str, args: argparse.Namespace, measure: Measure, table: Callable[[list[Row]], Table]) -> int:
    """Measures each device asked for, writes its result file after each row, and prints the table; 0.

    Args:
        name: of the script.
        args: from ``script_parser``.
        measure: gives the rows of a device, a number of rounds and a folder for models, as they come.
        table: of the rows.
    """
    before, console = begin(), Console()
    for device in devices(args.device):
        figures: list[Row] = []
        with work_folder(args.work) as work:
            for rows in measure(device, args.rounds or args.usual_rounds[device], work):
                figures += rows
                path = save(name, figures, suffix=SUFFIXES[device], before=before)
        if not figures:
            raise SystemExit(f"{name} on {device}: expected something to measure, found nothing")
        console.print(table(figures))
        console.print(f"written to {path.name}")
    return 0
