"""Frame to detections, on a tiny network: who finds something else is no candidate, who fails has a reason."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import end_to_end
from benchmarks.agreement import Found
from benchmarks.comparison import Maker, Work
from benchmarks.end_to_end import BASE, Case
from benchmarks.forest_frame import forest_frame
from benchmarks.networks import MAX_CANDIDATES, MIN_CANDIDATES, as_torch
from benchmarks.peers import torchvisions
from engines.core.errors import BuildError
from engines.core.letterbox import letterbox_batch
from tests.benchmarks.conftest import SIZE, not_run


def test_all_in_fp32_find_the_same_and_one_that_does_not_is_no_candidate(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everybody = end_to_end.candidates
    kept = (BASE, "ONNX Runtime by hand, FP32", "retina_edge on ONNX Runtime, FP32")

    def some(case: Case) -> dict[str, Maker]:
        found = {name: maker for name, maker in everybody(case).items() if name in kept}
        broken = dict.fromkeys(("boxes", "scores", "labels"), torch.zeros(0))
        broken["boxes"] = torch.zeros(0, 4)
        return {**found, "broken, FP32": lambda _: lambda: broken, "broken, INT8": lambda _: lambda: broken}

    monkeypatch.setattr(end_to_end, "candidates", some)
    monkeypatch.setattr(end_to_end, "has_bf16", lambda: False)
    rows = [row for rows in end_to_end.measure("cpu", SIZE, 1, work) for row in rows]
    by_name = {row["candidate"]: row for row in rows}
    for name in kept:
        assert by_name[name]["agreement"] >= 0.99
        assert by_name[name]["detections"] > 50
        assert MIN_CANDIDATES <= by_name[name]["candidates"] <= MAX_CANDIDATES
    failed = not_run(rows)
    assert failed["broken, FP32"] == (
        "ValueError: detections: expected at least 95% as torchvision finds them in FP32, got 0%"
    )
    assert by_name["broken, INT8"]["agreement"] == 0
    assert failed["torchvision eager, BF16"] == failed["torchvision torch.compile, BF16"] == end_to_end.NO_BF16


def test_on_a_gpu_all_are_measured_apart_and_tf32_is_told(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way of a GPU, on a CPU: what needs one has a reason, and eager torch its row."""

    def refused(*_: object, **__: object) -> Path:
        raise BuildError("expected TensorRT, found none")

    monkeypatch.setattr(end_to_end, "built", refused)
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *_, **__: self)

    def on_a_cpu(*arguments: Any, device: str, compiled: bool = False, tf32: bool = True, **_: Any) -> Work:
        assert device == "cuda"
        if compiled:
            raise RuntimeError("no compiler")
        return torchvisions(*arguments, device="cpu", dtype=torch.float32, tf32=tf32)

    monkeypatch.setattr(end_to_end, "torchvisions", on_a_cpu)
    groups = list(end_to_end.measure("cuda", SIZE, 1, work))
    assert [len(rows) for rows in groups] == [1] * len(groups)
    rows = [row for rows in groups for row in rows]
    measured = {row["candidate"]: row for row in rows if "ms" in row}
    assert measured[BASE]["cudnn_allow_tf32"] is True
    assert measured[end_to_end.STRICT]["cudnn_allow_tf32"] is False
    failed = not_run(rows)
    assert failed["retina_edge engine, FP16"] == "expected TensorRT, found none"
    assert failed["torchvision torch.compile, BF16"] == "RuntimeError: no compiler"
    assert "CUDAExecutionProvider" in failed["ONNX Runtime by hand, FP32"]
    assert "retina_edge on torch, FP16" in failed
    assert len(measured) + len(failed) == len(rows) == 12


def test_the_base_is_kept_however_it_compares_or_there_would_be_no_ratio() -> None:
    case = Case("cuda", 100, np.zeros((100, 100, 3), np.uint8), nn.Identity(), Path("r50.onnx"))
    nothing = dict.fromkeys(("scores", "labels"), torch.zeros(0)) | {"boxes": torch.zeros(0, 4)}
    expected = Found(np.array([[0, 0, 9, 9]], np.float32), np.array([0.5], np.float32), np.array([1]))
    inspect = partial(end_to_end._inspect, case=case, expected=expected)
    assert inspect(BASE, nothing)["agreement"] == 0
    with pytest.raises(ValueError, match="got 0%"):
        inspect("retina_edge engine, FP32", nothing)
    found = {"scores": torch.tensor([0.5]), "labels": torch.tensor([1]), "boxes": torch.tensor([[0.0, 0.0, 9.0, 9.0]])}
    assert inspect("retina_edge engine, FP32", found) == {"detections": 1, "agreement": 1.0}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_detections_of_lower_precision_are_compared_too(dtype: torch.dtype) -> None:
    case = Case("cuda", 100, np.zeros((200, 200, 3), np.uint8), nn.Identity(), Path("r50.onnx"))
    found = {
        "scores": torch.tensor([0.5], dtype=dtype),
        "labels": torch.tensor([1]),
        "boxes": torch.tensor([[0.0, 8.0, 16.0, 200.0]], dtype=dtype),
    }
    # From pixels of the square to pixels of the frame, and no further than its edge.
    np.testing.assert_array_equal(end_to_end._found(found, case).boxes, [[0, 16, 32, 200]])
    assert end_to_end._found(found, case).scores.dtype == np.float32


def test_letterboxed_squares_are_the_same_for_all() -> None:
    """Torchvision's model gets the very pixels that ours does."""
    ours = letterbox_batch([forest_frame()], (SIZE, SIZE))[0][0]
    theirs = (as_torch(forest_frame(), (SIZE, SIZE)).permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(ours, theirs)
