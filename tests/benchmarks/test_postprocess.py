"""The benchmark of post-processing, on the CPU and with fake kernels."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import postprocess
from benchmarks.comparison import Row
from benchmarks.networks import MAX_CANDIDATES, MIN_CANDIDATES, count_candidates
from engines.core.errors import DeviceError
from engines.plugins.kernels import KernelRun
from engines.plugins.launch import Geometry
from engines.plugins.specification import postprocess as specification
from tests.benchmarks.conftest import SIZE, not_run


def test_candidates_on_a_cpu_have_the_same_number_of_detections(work: Path) -> None:
    rows = list(postprocess.on_the_cpu(work, 1, SIZE))
    assert [row["candidate"] for row in rows] == [
        postprocess.TORCHVISION,
        postprocess.FUNCTIONS,
        postprocess.SPECIFICATION,
        postprocess.NMS_ALONE,
    ]
    assert not not_run(rows)
    assert len({row["detections"] for row in rows[:3]}) == 1
    assert {MIN_CANDIDATES <= row["candidates"] <= MAX_CANDIDATES for row in rows} == {True}


def test_random_heads_for_the_gpu_have_as_many_candidates_as_those_for_the_cpu() -> None:
    geometry = Geometry.of(postprocess._contract(91), half=True)
    logits, _ = postprocess._heads(geometry, 1)
    assert count_candidates(logits) == pytest.approx(1000, rel=0.1)


def run_by_specification(
    logits: list[npt.NDArray[Any]],
    deltas: list[npt.NDArray[Any]],
    parameters: npt.NDArray[np.float32],
    geometry: Geometry,
    *,
    runs: int = 1,
) -> KernelRun:
    detections = specification(
        [head.astype(np.float32) for head in logits],
        [head.astype(np.float32) for head in deltas],
        parameters,
        num_classes=geometry.num_classes,
        top_k=geometry.top_k,
        max_detections=geometry.max_detections,
    )
    return KernelRun(detections, np.tile([0.01, 0.02, 0.03], (runs, 1)))


def test_a_wrong_or_failing_case_of_the_kernels_does_not_affect_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernels(logits: Any, deltas: Any, parameters: Any, geometry: Geometry, *, runs: int = 1) -> KernelRun:
        if geometry.half:
            raise DeviceError("out of memory")
        run = run_by_specification(logits, deltas, parameters, geometry, runs=runs)
        if runs == 1 or len(logits[0]) == 1:
            return run
        return dataclasses.replace(run, detections=run.detections._replace(scores=run.detections.scores + 1))

    def no_gpu(*_: object) -> Row:
        raise RuntimeError("no GPU")

    monkeypatch.setattr(postprocess, "run_kernels", kernels)
    monkeypatch.setattr(postprocess, "CASES", [(1, True, 1), (1, False, 2), (1, False, 1), (91, False, 1)])
    monkeypatch.setattr(postprocess, "_torchvision", no_gpu)
    first, second, third, fourth, torchvision = postprocess.on_the_gpu(2)
    assert first["not_run"] == "out of memory"
    assert second["not_run"] == "ValueError: kernels: expected the same bits from every run, got different ones"
    assert third["ms"] == pytest.approx(0.06)
    assert (third["filter_ms"], third["select_ms"], third["nms_ms"]) == (0.01, 0.02, 0.03)
    assert fourth["candidates"] == pytest.approx(1000, rel=0.1)
    assert (torchvision["candidate"], torchvision["not_run"]) == (postprocess.TORCHVISION, "RuntimeError: no GPU")
