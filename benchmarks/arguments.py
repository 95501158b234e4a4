"""Arguments that the scripts share: which device is measured, and where models are kept."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.machine import this_machine

CPU, CUDA, AUTO = "cpu", "cuda", "auto"


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``."""
    parser.add_argument(
        "--device", choices=(CPU, CUDA, AUTO), default=AUTO, help="what to measure (default: all there is)"
    )


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
