"""Frame to detections, on a tiny network: wrong candidates are rejected, and failed ones have a reason."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import end_to_end
from benchmarks.agreement import FrameDetections
from benchmarks.comparison import Maker, Work
from benchmarks.end_to_end import BASE, Case
from benchmarks.forest_frame import forest_frame
from benchmarks.networks import MAX_CANDIDATES, MIN_CANDIDATES, as_torch
from benchmarks.peers import torchvision_detect
from engines.core.errors import BuildError
from engines.core.letterbox import letterbox_batch
from tests.benchmarks.conftest import SIZE, not_run


def test_fp32_candidates_agree_and_one_that_does_not_is_rejected(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    all_candidates = end_to_end.candidates
    kept = (BASE, "ONNX Runtime by hand, FP32", "retina_edge on ONNX Runtime, FP32")

    def kept_and_broken(case: Case) -> dict[str, Maker]:
        makers = {name: maker for name, maker in all_candidates(case).items() if name in kept}
        broken = dict.fromkeys(("boxes", "scores", "labels"), torch.zeros(0))
        broken["boxes"] = torch.zeros(0, 4)
        return {**makers, "broken, FP32": lambda _: lambda: broken, "broken, INT8": lambda _: lambda: broken}

    monkeypatch.setattr(end_to_end, "candidates", kept_and_broken)
    monkeypatch.setattr(end_to_end, "has_bf16", lambda: False)
    rows = [row for rows in end_to_end.measure("cpu", SIZE, 1, work) for row in rows]
    by_name = {row["candidate"]: row for row in rows}
    for name in kept:
        assert by_name[name]["agreement"] >= 0.99
        assert by_name[name]["partners"] >= 0.99
        assert by_name[name]["displacement"] < 0.1
        assert by_name[name]["detections"] > 50
        assert MIN_CANDIDATES <= by_name[name]["candidates"] <= MAX_CANDIDATES
    failed = not_run(rows)
    assert failed["broken, FP32"] == (
        "ValueError: detections: expected at least 95% of the sure boxes of torchvision in FP32, at most 1 px away on "
        "average, got 0%, 0.0 px away"
    )
    assert by_name["broken, INT8"]["agreement"] == 0
    assert failed["torchvision eager, BF16"] == failed["torchvision torch.compile, BF16"] == end_to_end.NO_BF16


@pytest.mark.slow
def test_on_a_gpu_candidates_are_measured_apart_and_rows_name_tf32(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code path of a GPU runs on a CPU: candidates that need a GPU have a reason, and eager torch has its row."""

    def refused(*_: object, **__: object) -> Path:
        raise BuildError("expected TensorRT, found none")

    monkeypatch.setattr(end_to_end, "build_once", refused)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)

    def on_a_cpu(*arguments: Any, device: str, compiled: bool = False, tf32: bool = True, **_: Any) -> Work:
        assert device == "cuda"
        if compiled:
            raise RuntimeError("no compiler")
        return torchvision_detect(*arguments, device="cpu", dtype=torch.float32, tf32=tf32)

    monkeypatch.setattr(end_to_end, "torchvision_detect", on_a_cpu)
    row_groups = list(end_to_end.measure("cuda", SIZE, 1, work))
    assert [len(rows) for rows in row_groups] == [1] * len(row_groups)
    rows = [row for rows in row_groups for row in rows]
    measured = {row["candidate"]: row for row in rows if "ms" in row}
    assert measured[BASE]["cudnn_allow_tf32"] is True
    assert measured[end_to_end.STRICT]["cudnn_allow_tf32"] is False
    failed = not_run(rows)
    assert failed["retina_edge engine, FP16"] == "expected TensorRT, found none"
    assert failed["torchvision torch.compile, BF16"] == "RuntimeError: no compiler"
    assert "CUDAExecutionProvider" in failed["ONNX Runtime by hand, FP32"]
    assert "retina_edge on torch, FP16" in failed
    assert len(measured) + len(failed) == len(rows) == 12


def test_the_base_is_never_rejected_because_ratios_need_it() -> None:
    case = Case("cuda", 100, np.zeros((100, 100, 3), np.uint8), nn.Identity(), Path("r50.onnx"))
    nothing = dict.fromkeys(("scores", "labels"), torch.zeros(0)) | {"boxes": torch.zeros(0, 4)}
    expected = FrameDetections(np.array([[0, 0, 9, 9]], np.float32), np.array([0.5], np.float32), np.array([1]))
    inspect = partial(end_to_end._inspect, case=case, expected=expected)
    assert inspect(BASE, nothing)["agreement"] == 0
    with pytest.raises(ValueError, match="got 0%"):
        inspect("retina_edge engine, FP32", nothing)
    same = {"scores": torch.tensor([0.5]), "labels": torch.tensor([1]), "boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]])}
    assert inspect("retina_edge engine, FP32", same) == {
        "detections": 1,
        "agreement": 1.0,
        "partners": 1.0,
        "displacement": 0.0,
    }
    moved = {**same, "boxes": torch.tensor([[1.5, 0.0, 10.5, 9.0]])}
    with pytest.raises(ValueError, match=r"got 100%, 1\.5 px away"):
        inspect("retina_edge engine, FP32", moved)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_detections_of_any_precision_are_mapped_to_the_frame(dtype: torch.dtype) -> None:
    case = Case("cuda", 100, np.zeros((200, 200, 3), np.uint8), nn.Identity(), Path("r50.onnx"))
    result = {
        "scores": torch.tensor([0.5], dtype=dtype),
        "labels": torch.tensor([1]),
        "boxes": torch.tensor([[0.0, 8.0, 16.0, 200.0]], dtype=dtype),
    }
    # From pixels of the square to pixels of the frame, clipped to the frame.
    np.testing.assert_array_equal(end_to_end._in_frame(result, case).boxes, [[0, 16, 32, 200]])
    assert end_to_end._in_frame(result, case).scores.dtype == np.float32


def test_all_candidates_get_the_same_letterboxed_square() -> None:
    """Torchvision's model gets exactly the pixels that this project's model gets."""
    ours = letterbox_batch([forest_frame()], (SIZE, SIZE))[0][0]
    theirs = (as_torch(forest_frame(), (SIZE, SIZE)).permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(ours, theirs)
