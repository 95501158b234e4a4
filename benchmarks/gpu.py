"""All benchmarks and tests that need an NVIDIA GPU, within ten minutes and without a network.

    python -m benchmarks.gpu

The steps that tell most come first. Each step has a share of the time, so a step that hangs costs only its own time and
keeps the rows that it has. Results are written to ``benchmarks/results/*_gpu.json``. ``gpu.json`` lists the steps, how
they ended, the last lines of failed steps, the outcomes of the tests, and the goals. Models in ``out/gpu``, which
``python -m benchmarks.gpu_prepare`` makes on a machine without a GPU, are not made again.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any
from xml.etree import ElementTree

from rich.console import Console
from rich.table import Table

from benchmarks import record
from benchmarks.arguments import add_work, work_folder
from benchmarks.goals import floors, goals
from benchmarks.gpu_steps import report_of, steps
from benchmarks.record import SUFFIXES, begin, save, without_folders
from benchmarks.step import run_step
from engines.core.machine import this_machine

ROOT = Path(__file__).parents[1]
WORK = ROOT / "out" / "gpu"
LIMIT = 570.0
# Columns of the table of goals; a log has no width of its own.
TABLE_WIDTH = 140


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--seconds", type=float, default=LIMIT, help=f"seconds for all steps together (default: {LIMIT:.0f})")
    add("--sanitizer", action="store_true", help="also run the kernels under the four tools of compute-sanitizer")
    add_work(parser)
    args = parser.parse_args(argv)
    if not this_machine().gpu:
        raise SystemExit("gpu: expected an NVIDIA GPU and its driver, found none; look at nvidia-smi")
    with work_folder(args.work or (WORK if WORK.is_dir() else None)) as work:
        figures = run_steps(work, args.seconds, sanitizer=args.sanitizer)
    console = Console()
    console.width = max(console.width, TABLE_WIDTH)
    print_goals(console, figures["goals"])
    return 0 if all(step["ended"] in ("ok", "left out") for step in figures["steps"]) else 1


def run_steps(work: Path, seconds: float, *, sanitizer: bool) -> dict[str, Any]:
    """Run all steps, and return what ``gpu.json`` holds. The file is written after each step.

    Args:
        work: folder of models and engines.
        seconds: time for all steps.
        sanitizer: also run the kernels under compute-sanitizer.
    """
    before, start = begin(), perf_counter()
    planned = steps(work, sanitizer=sanitizer)
    for step in planned:  # delete results of an earlier run, which would pass for results of this one
        (record.RESULTS / f"{step.name}{SUFFIXES['cuda']}.json").unlink(missing_ok=True)
        report_of(work, step.name).unlink(missing_ok=True)
    ended: list[dict[str, Any]] = []
    for step in planned:
        if step.why_not:
            ended.append({"step": step.name, "ended": "left out", "seconds": 0.0, "why": without_folders(step.why_not)})
        else:
            limit = step.limit(seconds, remaining=seconds - (perf_counter() - start))
            ended.append(run_step(step.name, step.arguments, limit, folder=ROOT, launcher=step.launcher))
        print(f"{step.name}: {ended[-1]['ended']} after {ended[-1]['seconds']} s", flush=True)
        figures = {
            "seconds": seconds,
            "steps": ended,
            "tests": [row for step in planned for row in outcomes(report_of(work, step.name))],
            "goals": goals(record.RESULTS),
            "floors": floors(record.RESULTS),
        }
        save("gpu", figures, before=before)  # after every step, because the machine may be lost before the last one
    return figures


def print_goals(console: Console, rows: Sequence[dict[str, Any]]) -> None:
    """Print a table of the goals: the figure, whether it is met, and why it was not measured."""
    table = Table("goal", "limit", "measured", "met")
    for row in rows:
        limit = f"≥ {row['at least']}" if "at least" in row else f"≤ {row['at most']}"
        if row["met"] is None:
            measured, met = "not measured", row["why"]
        else:
            measured, met = str(row["measured"]), "yes" if row["met"] else "no"
        table.add_row(f"{row['goal']}, {row['unit']}", limit, measured, met)
    console.print(table)


def outcomes(report: Path) -> list[dict[str, Any]]:
    """Return each test of a JUnit report: name, outcome, seconds, and the first line of the failure or skip message.

    The list is empty if there is no whole report, because the tests have not run or were stopped.
    """
    try:
        root = ElementTree.parse(report).getroot()
    except (FileNotFoundError, ElementTree.ParseError):
        return []
    tests = []
    for case in root.iter("testcase"):
        name = f"{case.get('classname')}.{case.get('name')}"
        row: dict[str, Any] = {"test": name, "outcome": "passed", "seconds": round(float(case.get("time", 0)), 2)}
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                message = (child.get("message") or "").partition("\n")[0]
                row |= {"outcome": child.tag, "message": without_folders(message)}
        tests.append(row)
    return tests


if __name__ == "__main__":
    raise SystemExit(main())
