"""Fixtures of the benchmark tests: a results folder of their own, a tiny network made once, and a single thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import record
from benchmarks.comparison import Row
from benchmarks.forest_frame import forest_frame
from benchmarks.networks import export_lively_r50
from tests.conftest import made_once

SIZE = 64


def not_run(rows: list[Row]) -> dict[str, str]:
    """Return the reasons of the candidates that did not run, by name."""
    return {row["candidate"]: row["not_run"] for row in rows if "not_run" in row}


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A temporary folder that the scripts write their results to."""
    folder = tmp_path / "results"
    monkeypatch.setattr(record, "RESULTS", folder)
    return folder


@pytest.fixture(scope="package")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for models that holds ``lively_r50`` with a tiny input."""
    return made_once(
        tmp_path_factory,
        "benchmark models",
        lambda folder: export_lively_r50(folder / str(SIZE) / "r50.onnx", SIZE, forest_frame()),
    )


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: more threads slow down such tiny networks, especially if tests run in parallel."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
