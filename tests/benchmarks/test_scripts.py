"""The scripts, on tiny networks and on stand-ins that fail: what fails costs only its own row."""

from __future__ import annotations

import dataclasses
import json
import sys
import types
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from benchmarks import detectors, end_to_end, postprocess, preprocess, scaling
from benchmarks.agreement import Found
from benchmarks.comparison import Maker, Row, Work
from benchmarks.detectors import Peer
from benchmarks.end_to_end import BASE, Case
from benchmarks.forest_frame import forest_frame
from benchmarks.networks import FEWEST, MOST, count_candidates, export_lively_r50
from benchmarks.peers import torchvisions
from engines.errors import BuildError, DeviceError, MissingDependencyError
from engines.letterbox import letterbox_batch
from engines.plugins.kernels import KernelRun
from engines.plugins.launch import Geometry
from engines.plugins.reference import postprocess as specification
from retina_edge import Detector
from tests.engines.plugins import pycuda_stand_in
from tests.engines.plugins.emulated import needs_compiler

SIZE = 64


def not_run(rows: list[Row]) -> dict[str, str]:
    return {row["candidate"]: row["not_run"] for row in rows if "not_run" in row}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks as tiny as these only lose by more, above all where other tests run beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lively R50 of a tiny input."""
    folder = tmp_path_factory.mktemp("work")
    export_lively_r50(folder / str(SIZE) / "r50.onnx", SIZE, forest_frame())
    return folder


# Frame to detections


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
        assert FEWEST <= by_name[name]["candidates"] <= MOST
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


# Before and behind the network


def test_each_way_to_the_input_is_held_against_opencv() -> None:
    rows = preprocess.measure("cpu", (90, 160), (64, 96), 2)
    assert [row["candidate"] for row in rows] == ["OpenCV", "torch, CPU"]
    assert rows[0]["ratio"] == 1
    assert all("ms" in row and row["frame"] == [90, 160] for row in rows)


def test_a_wrong_image_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preprocess, "_torch", lambda _frame, size: torch.zeros((*size, 3), dtype=torch.uint8))
    rows = preprocess.measure("cpu", (90, 160), (64, 96), 2)
    assert "ms" in rows[0]
    assert "expected OpenCV's within 1 grey level, got one" in not_run(rows)["torch, CPU"]


def test_without_torch_s_gpu_or_pycuda_each_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    rows = preprocess.measure("cuda", (90, 160), (64, 96), 2)
    failed = not_run(rows)
    assert set(failed) == {"torch, GPU", "fused kernel, GPU"}
    assert "install it with pip install pycuda" in failed["fused kernel, GPU"]


class Event(pycuda_stand_in.Event):
    """Asked whether the GPU has come to it, it has not: nothing has been waited for."""

    def query(self) -> bool:
        return self._done >= self.recorded


@needs_compiler
def test_the_fused_kernel_is_timed_behind_a_longer_piece_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, package = pycuda_stand_in.Driver(), types.ModuleType("pycuda")
    monkeypatch.setattr(driver, "Event", lambda: Event(driver))
    package.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr("engines.cuda._retained", {})
    monkeypatch.setattr(preprocess, "FLUSH_BYTES", 1 << 10)
    monkeypatch.setattr("benchmarks.gpu_clock.FLUSH_BYTES", 1 << 10)
    rows = preprocess.measure("cuda", (90, 160), (64, 96), 3)
    (row,) = (row for row in rows if row["candidate"] == preprocess.KERNEL)
    assert "not_run" not in row, row
    assert row["ms"] == 1.0  # the stand-in counts events
    assert row["waits_for_host"] is False
    assert driver.log[-4:] == ["memset", "event", "letterbox", "event"]
    assert not driver.memory


def test_ways_behind_the_network_find_the_same_on_a_cpu(work: Path) -> None:
    rows = list(postprocess.on_the_cpu(work, 1, SIZE))
    assert [row["candidate"] for row in rows] == [
        postprocess.TORCHVISION,
        postprocess.FUNCTIONS,
        postprocess.SPECIFICATION,
        postprocess.NMS_ALONE,
    ]
    assert not not_run(rows)
    assert len({row["detections"] for row in rows[:3]}) == 1
    assert {FEWEST <= row["candidates"] <= MOST for row in rows} == {True}


def test_random_heads_of_the_gpu_are_as_full_as_those_of_the_cpu() -> None:
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
    found = specification(
        [head.astype(np.float32) for head in logits],
        [head.astype(np.float32) for head in deltas],
        parameters,
        num_classes=geometry.num_classes,
        top_k=geometry.top_k,
        max_detections=geometry.max_detections,
    )
    return KernelRun(found, np.tile([0.01, 0.02, 0.03], (runs, 1)))


def test_a_case_of_the_kernels_that_is_wrong_or_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert second["not_run"] == "ValueError: kernels: expected the same bits from every run, got others"
    assert third["ms"] == pytest.approx(0.06)
    assert (third["filter_ms"], third["select_ms"], third["nms_ms"]) == (0.01, 0.02, 0.03)
    assert fourth["candidates"] == pytest.approx(1000, rel=0.1)
    assert (torchvision["candidate"], torchvision["not_run"]) == (postprocess.TORCHVISION, "RuntimeError: no GPU")


# Other detectors


class Tiny(nn.Module):
    """Finds as much as it is told to."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layer, self.count = nn.Conv2d(3, 2, 3), count

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        self.layer(images[0][None])
        return [{"scores": torch.zeros(self.count)}]


def test_detectors_have_to_find_nothing_and_have_their_facts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def peer(name: str, count: int, weights: Any = None) -> Peer:
        small = lambda _: torch.zeros(3, 12, 12)  # noqa: E731
        return Peer(name, lambda: Tiny(count), (12, 12), small, lambda model, image: model([image]), weights)

    peers = [peer("empty", 0, detectors.RETINANET), peer("finds", 7)]
    monkeypatch.setattr(detectors, "BASE", peers[0].title)

    def refused(*_: object) -> None:
        raise MissingDependencyError("expected onnxscript, found none")

    monkeypatch.setattr(detectors, "random_retinanet", refused)
    groups = list(detectors.measure(peers, "cpu", 1, tmp_path, [("RetinaNet R50", (64, 64))]))
    empty, finds, ours = groups[0]
    assert empty["ratio"] == 1
    assert empty["published_ap"] == 36.4
    assert empty["published_by"] == "torchvision, RetinaNet_ResNet50_FPN_Weights.COCO_V1"
    assert empty["parameters"] == 2 * 3 * 9 + 2
    assert finds["not_run"] == "ValueError: expected thresholds under which nothing is found, got 7 detections"
    assert finds["published_ap"] is None
    assert ours["not_run"] == "expected onnxscript, found none"
    assert ours["run_by"] == "ONNX Runtime"
    assert groups[1] == [
        {
            "detector": "YOLOX-S",
            "device": "cpu",
            "run_by": "torch eager",
            "not_run": "expected the package libreyolo; install it with pip install libreyolo",
        }
    ]


def test_gflop_are_two_for_each_multiply_add() -> None:
    layer = nn.Conv2d(3, 8, 1, bias=False)
    found = detectors._arithmetic(layer, lambda: layer(torch.zeros(1, 3, 1000, 1000)))
    assert found == {"parameters": 24, "gflop": round(2 * 24 * 1e6 / 1e9, 2)}


def test_published_ap_stands_only_beside_the_input_it_was_published_for() -> None:
    found = {(peer.name, peer.input): peer.published["published_ap"] for peer in detectors.peers()}
    by_rule = {name: ap for (name, size), ap in found.items() if size == detectors.RULED}
    assert by_rule == {"RetinaNet R50": 36.4, "Faster R-CNN R50 FPN": 37.0, "FCOS R50 FPN": 39.2}
    assert {ap for (_, size), ap in found.items() if size == (800, 800)} == {None}
    assert found[("SSD300 VGG16", (300, 300))] == 25.1


# What a frame costs


class Counts:
    """A detector that takes no time."""

    def __call__(self, frames: Any) -> list[Any]:
        return list(frames)


def test_a_row_of_scaling_is_written_as_soon_as_it_is_there(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def detector(settings: dict[str, int], *_: object) -> Counts:
        if settings["classes"] == 365:
            raise MemoryError("no room")
        path = results / "scaling.json"
        seen.append([row["varied"] for row in json.loads(path.read_text())["figures"]] if path.exists() else [])
        return Counts()

    monkeypatch.setattr(scaling, "_detector", detector)
    assert scaling.main(["--device", "cpu", "--rounds", "2", "--work", str(tmp_path / "models")]) == 0
    rows = json.loads((results / "scaling.json").read_text(encoding="utf-8"))["figures"]
    assert [(row["varied"], row["value"]) for row in rows] == [
        (name, value) for name, values in scaling.VARIED["cpu"].items() for value in values
    ]
    assert seen[0] == []
    assert set(seen[-1]) == {"batch", "input", "classes"}
    (failed,) = (row for row in rows if "not_run" in row)
    assert (failed["varied"], failed["value"], failed["not_run"]) == ("classes", 365, "MemoryError: no room")
    assert {row["cost"] for row in rows if row.get("value") in (320, 20) or row["value"] == 0} == {1.0}


def test_scaling_takes_onnx_runtime_where_no_engine_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def detector(_settings: object, _frame: object, on: str, _work: Path, _stack: ExitStack, *_: object) -> Counts:
        asked.append(on)
        if on == scaling.ENGINE:
            raise BuildError("expected TensorRT, found none")
        return Counts()

    monkeypatch.setattr(scaling, "_detector", detector)
    on = scaling.runs_on("cuda", tmp_path)
    assert on == {"on": "ONNX Runtime", "why": "expected TensorRT, found none"}
    rows = scaling.measure("candidates", (0, 1000), 1, on, tmp_path)
    assert asked == [scaling.ENGINE, "ONNX Runtime", "ONNX Runtime"]
    assert all(row["why"] == "expected TensorRT, found none" and "ms" in row for row in rows)
    assert scaling.runs_on("cpu", tmp_path) == {"on": "ONNX Runtime"}


def test_on_a_gpu_one_engine_takes_every_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, int | None]] = []

    def built(path: Path, precision: str, *, max_batch: int | None) -> Path:
        assert precision == "fp16"
        made.append((path.name, max_batch))
        return path

    monkeypatch.setattr(scaling, "built", built)
    monkeypatch.setattr(scaling, "random_retinanet", lambda *_, **__: (None, None))
    monkeypatch.setattr(scaling, "exported", lambda *_, **__: None)
    monkeypatch.setattr(Detector, "load", lambda _: _Closing())
    on = {"on": scaling.ENGINE}
    scaling.measure("batch", (1, 4, 16), 1, on, tmp_path)
    assert set(made) == {("scaling_batch1to16_input320_classes20_candidates0.onnx", 16)}
    made.clear()
    scaling.measure("input", (320, 800), 1, on, tmp_path)
    assert [batch for _, batch in made] == [None, None]
    assert sum(len(values) for values in scaling.VARIED["cuda"].values()) <= 12


class _Closing(Counts):
    def __enter__(self) -> _Closing:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_letterboxed_squares_are_the_same_for_all() -> None:
    """Torchvision's model gets the very pixels that ours does."""
    from benchmarks.networks import as_torch

    ours = letterbox_batch([forest_frame()], (SIZE, SIZE))[0][0]
    theirs = (as_torch(forest_frame(), (SIZE, SIZE)).permute(1, 2, 0).numpy()[..., ::-1] * 255).round().astype(np.uint8)
    np.testing.assert_array_equal(ours, theirs)
