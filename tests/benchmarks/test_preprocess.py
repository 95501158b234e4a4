"""The benchmark of preprocessing: a wrong image has no times, and a missing package costs only its own row."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from benchmarks import preprocess
from tests.benchmarks.conftest import not_run
from tests.engines.plugins import pycuda_stand_in
from tests.engines.plugins.emulated import needs_compiler


def test_every_candidate_on_a_cpu_has_the_image_of_opencv() -> None:
    rows = preprocess.measure("cpu", (90, 160), (64, 96), 2)
    assert [row["candidate"] for row in rows] == ["OpenCV", "torch, CPU"]
    assert rows[0]["ratio"] == 1
    assert all("ms" in row and row["frame"] == [90, 160] for row in rows)


def test_a_wrong_image_has_no_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "_torch", lambda _frame, size: torch.zeros((*size, 3), dtype=torch.uint8))
    rows = preprocess.measure("cpu", (90, 160), (64, 96), 2)
    assert "ms" in rows[0]
    assert "expected at most 1 gray level of difference from OpenCV, got" in not_run(rows)["torch, CPU"]


def test_without_a_gpu_and_pycuda_each_row_has_its_own_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    rows = preprocess.measure("cuda", (90, 160), (64, 96), 2)
    failed = not_run(rows)
    assert set(failed) == {"torch, GPU", "fused kernel, GPU"}
    assert "install it with pip install pycuda" in failed["fused kernel, GPU"]


class Event(pycuda_stand_in.Event):
    """An event that the GPU reaches only when something waits for it."""

    def query(self) -> bool:
        return self._done >= self.recorded


@needs_compiler
def test_the_fused_kernel_is_timed_behind_a_longer_piece_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, package = pycuda_stand_in.Driver(), types.ModuleType("pycuda")
    monkeypatch.setattr(driver, "Event", lambda: Event(driver))
    package.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr("engines.core.cuda_context._retained", {})
    monkeypatch.setattr(preprocess, "FLUSH_BYTES", 1 << 10)
    monkeypatch.setattr("benchmarks.gpu_clock.FLUSH_BYTES", 1 << 10)
    rows = preprocess.measure("cuda", (90, 160), (64, 96), 3)
    (row,) = (row for row in rows if row["candidate"] == preprocess.KERNEL)
    assert "not_run" not in row, row
    assert row["ms"] == 1.0  # the stand-in's clock advances by 1 ms with each event
    assert row["waits_for_host"] is False
    assert driver.log[-4:] == ["memset", "event", "letterbox", "event"]
    assert not driver.memory
