"""Results of tests stay out of the project's own; a tiny network that is made once; one thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import record
from benchmarks.comparison import Row
from benchmarks.forest_frame import forest_frame
from benchmarks.networks import export_lively_r50

SIZE = 64


def not_run(rows: list[Row]) -> dict[str, str]:
    """The reasons by name."""
    return {row["candidate"]: row["not_run"] for row in rows if "not_run" in row}


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that scripts write to."""
    folder = tmp_path / "results"
    monkeypatch.setattr(record, "RESULTS", folder)
    return folder


@pytest.fixture(scope="package")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lively R50 of a tiny input."""
    folder = tmp_path_factory.mktemp("work")
    export_lively_r50(folder / str(SIZE) / "r50.onnx", SIZE, forest_frame())
    return folder


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks as tiny as these only lose by more, above all where other tests run beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
