"""Tests of the runner on an NVIDIA GPU, with the installed TensorRT and with torch; ``make gpu`` runs them."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.building import build_once
from benchmarks.torch_network import TorchNetwork
from engines.core.cuda_context import primary_context
from engines.core.executor import GPU, NETWORK, RawDetections
from engines.core.machine import this_machine
from engines.runner.engine_executor import EngineExecutor
from engines.runner.gpu_executor import GpuExecutor
from export.network import Network
from export.torch_export import export_onnx
from retina_edge.assets import MODEL
from retina_edge.model.checkpoint import load_checkpoint
from tests.parity import Heads, check_runner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not this_machine().gpu, reason="needs an NVIDIA GPU"),
    pytest.mark.skipif(importlib.util.find_spec("pycuda") is None, reason="needs pycuda"),
]
Frames = list[npt.NDArray[np.uint8]]
MAX_BATCH = 4
ROUNDS, LOADS = 10_000, 50
# Bytes that the driver may keep after the first rounds, and that other programs may take meanwhile.
TOLERANCE = 32 << 20


@pytest.fixture(scope="module")
def model(frames: Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of the sample model as ONNX in FP32, for any batch size."""
    folder = tmp_path_factory.mktemp("gpu")
    checkpoint = load_checkpoint(MODEL.with_suffix(".pt"))
    onnx = folder / "model.onnx"
    export_onnx(checkpoint.build_model(), checkpoint.contract, onnx, batch=None, images=frames[:1])
    return onnx


@pytest.fixture(scope="module")
def engine(model: Path) -> Path:
    """Path of an FP32 engine of the sample model."""
    return build_once(model, "fp32", max_batch=MAX_BATCH)


def load_torch_network(_driver: object) -> TorchNetwork:
    checkpoint = load_checkpoint(MODEL.with_suffix(".pt"))
    return TorchNetwork(checkpoint.build_model(), checkpoint.contract, max_batch=MAX_BATCH)


@pytest.fixture(params=["graph", "no graph", "torch"])
def executor(request: pytest.FixtureRequest) -> Iterator[GpuExecutor]:
    if request.param == "torch":
        pytest.importorskip("torch")
        executor = GpuExecutor(load_torch_network)
    else:
        executor = EngineExecutor(request.getfixturevalue("engine"), cuda_graph=request.param == "graph")
    yield executor
    executor.close()


def identical(found: RawDetections, expected: RawDetections) -> bool:
    """True if two results are equal bit for bit."""
    return all(array.tobytes() == other.tobytes() for array, other in zip(found, expected, strict=True))


def free_memory() -> int:
    """Return the bytes of GPU memory that are free."""
    with primary_context() as driver:
        return int(driver.mem_get_info()[0])


def test_heads_and_detections_are_those_of_torch_in_fp32(executor: GpuExecutor, frames: Frames) -> None:
    torch = pytest.importorskip("torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    checkpoint = load_checkpoint(MODEL.with_suffix(".pt"))
    network = Network(checkpoint.build_model(), checkpoint.contract).eval().to(device)

    def reference(images: npt.NDArray[np.uint8]) -> Heads:
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            return [head.cpu().numpy() for head in network(torch.from_numpy(images).to(device))]

    for batch in (frames[:1], frames, frames[2:4], [np.tile(frames[0], (3, 4, 1))]):
        check_runner(executor, batch, reference)


def test_repeated_runs_give_the_same_bits(executor: GpuExecutor, frames: Frames) -> None:
    expected = [executor.result(executor.submit([frame])) for frame in frames]
    for _ in range(50):
        tickets = [executor.submit([frame]) for frame in frames]
        for ticket, detections in zip(tickets, expected, strict=True):
            assert identical(executor.result(ticket), detections)


def test_pinned_frames_give_the_same_bits_while_their_memory_is_used_again(
    executor: GpuExecutor, frames: Frames
) -> None:
    expected = [executor.result(executor.submit([frame])) for frame in frames]
    for _ in range(50):
        tickets = [executor.submit([executor.pool.place(frame)]) for frame in frames]
        for ticket, detections in zip(tickets, expected, strict=True):
            assert identical(executor.result(ticket), detections)
    placed = executor.pool.place(frames[0])
    block = executor.pool.block_of(placed)
    assert block is not None
    assert block.pin is not None
    executor.close()
    np.testing.assert_array_equal(placed, frames[0])


def test_several_threads_and_torch_share_the_gpu(executor: GpuExecutor, frames: Frames) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a torch that can use the GPU")
    expected = [executor.result(executor.submit([frame])) for frame in frames]
    errors: list[BaseException] = []

    def detect(index: int) -> None:
        try:
            for _ in range(100):
                assert identical(executor.result(executor.submit([frames[index]])), expected[index])
        except BaseException as error:
            errors.append(error)

    def multiply() -> None:
        try:
            matrix = torch.eye(512, device="cuda")
            for _ in range(200):
                assert float((matrix @ matrix).trace()) == 512
                torch.cuda.synchronize()  # invalidates the capture of another thread
        except BaseException as error:
            errors.append(error)

    def measure() -> None:
        try:
            for count in (1, 2, 3, 4, 1, 2):  # batch sizes that are captured while the other threads run
                assert len(executor.result(executor.submit(frames[:count])).num_detections) == count
                executor.measure(frames[:count])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=detect, args=(index,)) for index in range(4)]
    threads += [threading.Thread(target=work) for work in (multiply, measure)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_ten_thousand_rounds_leak_no_memory(executor: GpuExecutor, frames: Frames) -> None:
    for frame in frames:
        executor.result(executor.submit([frame]))
    before = free_memory()
    for round_number in range(ROUNDS):
        executor.result(executor.submit([frames[round_number % len(frames)]]))
    assert before - free_memory() < TOLERANCE


def test_repeated_loading_leaks_no_memory(engine: Path, frames: Frames) -> None:
    def load_and_run() -> None:
        executor = EngineExecutor(engine)
        executor.result(executor.submit(frames[:2]))
        executor.close()

    for _ in range(3):
        load_and_run()
    before = free_memory()
    for _ in range(LOADS):
        load_and_run()
    assert before - free_memory() < TOLERANCE


def test_measured_stages_are_plausible(executor: GpuExecutor, frames: Frames) -> None:
    for _ in range(5):
        found = executor.measure(frames[:1])
    assert all(milliseconds > 0 for milliseconds in found.values())
    assert found[NETWORK] < found[GPU] * 3
