"""The runner on an NVIDIA GPU, with whichever TensorRT is there and with torch; ``make gpu`` runs these."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.building import built
from benchmarks.torch_network import TorchNetwork
from engines.core.cuda_context import primary_context
from engines.core.executor import GPU, NETWORK, RawDetections
from engines.core.machine import this_machine
from engines.onnx.onnx_executor import OnnxExecutor
from engines.runner.engine_executor import EngineExecutor
from engines.runner.gpu_executor import GpuExecutor
from export.torch_export import export_onnx
from retina_edge.assets import MODEL
from retina_edge.model.checkpoint import load_checkpoint

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not this_machine().gpu, reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(importlib.util.find_spec("pycuda") is None, reason="needs pycuda"),
]
Frames = list[npt.NDArray[np.uint8]]
# Torch runs it in FP16, and the letterbox differs by a gray level now and then.
SURE, PIXELS, SCORE = 0.5, 1.0, 0.03
MAX_BATCH = 4
ROUNDS, LOADS = 10_000, 50
# What a driver keeps for itself from the first rounds on, and what other programs may take meanwhile.
TOLERANCE = 32 << 20


@pytest.fixture(scope="module")
def model(frames: Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample model for any number of images, FP32."""
    folder = tmp_path_factory.mktemp("gpu")
    checkpoint = load_checkpoint(MODEL.with_suffix(".pt"))
    onnx = folder / "model.onnx"
    export_onnx(checkpoint.build_model(), checkpoint.contract, onnx, batch=None, images=frames[:1])
    return onnx


@pytest.fixture(scope="module")
def engine(model: Path) -> Path:
    return built(model, "fp32", max_batch=MAX_BATCH)


def by_torch(_driver: object) -> TorchNetwork:
    checkpoint = load_checkpoint(MODEL.with_suffix(".pt"))
    return TorchNetwork(checkpoint.build_model(), checkpoint.contract, max_batch=MAX_BATCH)


@pytest.fixture(params=["graph", "no graph", "torch"])
def executor(request: pytest.FixtureRequest) -> Iterator[GpuExecutor]:
    if request.param == "torch":
        pytest.importorskip("torch")
        executor = GpuExecutor(by_torch)
    else:
        executor = EngineExecutor(request.getfixturevalue("engine"), cuda_graph=request.param == "graph")
    yield executor
    executor.close()


def same(found: RawDetections, expected: RawDetections) -> bool:
    return all(ours.tobytes() == theirs.tobytes() for ours, theirs in zip(found, expected, strict=True))


def free_memory() -> int:
    with primary_context() as driver:
        return int(driver.mem_get_info()[0])


def test_detections_are_those_of_onnx_runtime(executor: GpuExecutor, model: Path, frames: Frames) -> None:
    reference = OnnxExecutor(model)
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


def test_the_same_again_bit_for_bit(executor: GpuExecutor, frames: Frames) -> None:
    expected = [executor.result(executor.submit([frame])) for frame in frames]
    for _ in range(50):
        tickets = [executor.submit([frame]) for frame in frames]
        for ticket, theirs in zip(tickets, expected, strict=True):
            assert same(executor.result(ticket), theirs)


def test_several_threads_beside_torch(executor: GpuExecutor, frames: Frames) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a torch that can use the GPU")
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
                torch.cuda.synchronize()  # breaks off what another thread is recording
        except BaseException as error:
            errors.append(error)

    def look() -> None:
        try:
            for count in (1, 2, 3, 4, 1, 2):  # batch sizes that are recorded while the others run
                assert len(executor.result(executor.submit(frames[:count])).num_detections) == count
                executor.measure(frames[:count])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=detect, args=(index,)) for index in range(4)]
    threads += [threading.Thread(target=work) for work in (multiply, look)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_ten_thousand_rounds_leave_memory_where_it_was(executor: GpuExecutor, frames: Frames) -> None:
    for frame in frames:
        executor.result(executor.submit([frame]))
    before = free_memory()
    for round_number in range(ROUNDS):
        executor.result(executor.submit([frames[round_number % len(frames)]]))
    assert before - free_memory() < TOLERANCE


def test_loading_again_and_again_leaves_memory_where_it_was(engine: Path, frames: Frames) -> None:
    def once() -> None:
        executor = EngineExecutor(engine)
        executor.result(executor.submit(frames[:2]))
        executor.close()

    for _ in range(3):
        once()
    before = free_memory()
    for _ in range(LOADS):
        once()
    assert before - free_memory() < TOLERANCE


def test_stages_add_up(executor: GpuExecutor, frames: Frames) -> None:
    for _ in range(5):
        found = executor.measure(frames[:1])
    assert all(milliseconds > 0 for milliseconds in found.values())
    assert found[NETWORK] < found[GPU] * 3
