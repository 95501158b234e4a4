"""The runner on an NVIDIA GPU, with whichever TensorRT is there; ``make gpu`` runs these."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from engines.build_options import KERNELS, BuildOptions
from engines.builder import build_engine
from engines.cuda import primary_context
from engines.executor import GPU, NETWORK
from engines.machine import this_machine
from engines.onnx_runtime import OnnxExecutor
from engines.plugins.reference import RawDetections
from engines.runner.engine import EngineExecutor
from export.deployable import export_onnx
from retina_edge.model.checkpoint import load_checkpoint
from retina_edge.sample import MODEL

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not this_machine().gpu, reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(importlib.util.find_spec("pycuda") is None, reason="needs pycuda"),
]
Frames = list[npt.NDArray[np.uint8]]
SURE, PIXELS, SCORE = 0.5, 0.5, 0.02
ROUNDS, LOADS = 10_000, 50
# What a driver keeps for itself from the first rounds on, and what other programs may take meanwhile.
TOLERANCE = 32 << 20


@pytest.fixture(scope="module")
def built(frames: Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample model for up to 4 images, FP32, for this GPU; ``model.onnx`` stands beside it."""
    folder = tmp_path_factory.mktemp("gpu")
    checkpoint = load_checkpoint(MODEL.with_suffix(".pt"))
    onnx = folder / "model.onnx"
    export_onnx(checkpoint.build_model(), checkpoint.contract, onnx, batch=None, images=frames[:1])
    return build_engine(onnx, folder / "model.engine", BuildOptions(max_batch=4, postprocess=KERNELS)).engine


@pytest.fixture(params=[True, False], ids=["graph", "no graph"])
def executor(built: Path, request: pytest.FixtureRequest) -> Iterator[EngineExecutor]:
    executor = EngineExecutor(built, cuda_graph=request.param)
    yield executor
    executor.close()


def same(found: RawDetections, expected: RawDetections) -> bool:
    return all(ours.tobytes() == theirs.tobytes() for ours, theirs in zip(found, expected, strict=True))


def free_memory() -> int:
    with primary_context() as driver:
        return int(driver.mem_get_info()[0])


def test_detections_are_those_of_onnx_runtime(executor: EngineExecutor, built: Path, frames: Frames) -> None:
    reference = OnnxExecutor(built.with_suffix(".onnx"))
    for batch in (frames[:1], frames, frames[2:4], [np.tile(frames[0], (3, 4, 1))]):
        found, expected = (each.result(each.submit(batch)) for each in (executor, reference))
        for n in range(len(batch)):
            sure = int((expected.scores[n] > SURE).sum())
            assert sure > 3
            for box, score in zip(expected.boxes[n, :sure], expected.scores[n, :sure], strict=True):
                distance = np.abs(found.boxes[n] - box).max(axis=1)
                nearest = int(distance.argmin())
                assert distance[nearest] < PIXELS
                assert abs(found.scores[n, nearest] - score) < SCORE


def test_the_same_again_bit_for_bit(executor: EngineExecutor, frames: Frames) -> None:
    expected = [executor.result(executor.submit([frame])) for frame in frames]
    for _ in range(50):
        tickets = [executor.submit([frame]) for frame in frames]
        for ticket, theirs in zip(tickets, expected, strict=True):
            assert same(executor.result(ticket), theirs)


def test_several_threads_beside_torch(executor: EngineExecutor, frames: Frames) -> None:
    torch = pytest.importorskip("torch")
    expected = [executor.result(executor.submit([frame])) for frame in frames]
    errors: list[BaseException] = []

    def detect(index: int) -> None:
        try:
            for _ in range(100):
                assert same(executor.result(executor.submit([frames[index]])), expected[index])
        except BaseException as error:
            errors.append(error)

    def multiply() -> None:
        try:
            matrix = torch.eye(512, device="cuda")
            for _ in range(200):
                assert float((matrix @ matrix).trace()) == 512
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=detect, args=(index,)) for index in range(4)]
    threads += [threading.Thread(target=multiply)] if torch.cuda.is_available() else []
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_ten_thousand_rounds_leave_memory_where_it_was(executor: EngineExecutor, frames: Frames) -> None:
    for frame in frames:
        executor.result(executor.submit([frame]))
    before = free_memory()
    for round_number in range(ROUNDS):
        executor.result(executor.submit([frames[round_number % len(frames)]]))
    assert before - free_memory() < TOLERANCE


def test_loading_again_and_again_leaves_memory_where_it_was(built: Path, frames: Frames) -> None:
    def once() -> None:
        executor = EngineExecutor(built)
        executor.result(executor.submit(frames[:2]))
        executor.close()

    for _ in range(3):
        once()
    before = free_memory()
    for _ in range(LOADS):
        once()
    assert before - free_memory() < TOLERANCE


def test_stages_add_up(executor: EngineExecutor, frames: Frames) -> None:
    for _ in range(5):
        found = executor.measure(frames[:1])
    assert all(milliseconds > 0 for milliseconds in found.values())
    assert found[NETWORK] < found[GPU] * 3
