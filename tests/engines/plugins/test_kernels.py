"""Tests of the pycuda wrapper: which kernels it launches with which arguments, and that it frees all resources.

The driver is a stand-in that runs the kernels in the emulator. The tests marked ``gpu`` run on a real GPU.
"""

from __future__ import annotations

import importlib.util
import sys
import types

import numpy as np
import numpy.typing as npt
import pytest

from engines.core.errors import DeviceError, MissingDependencyError
from engines.core.executor import RawDetections
from engines.core.machine import this_machine
from engines.plugins.kernels import PostprocessKernels, run_kernels
from engines.plugins.launch import Geometry, postprocess_launches
from engines.plugins.specification import postprocess
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.plugins.test_kernels_emulated import Heads, heads_of, parameters_of

SMALL = Geometry(7, 3, ((21, 19), (10, 11), (5, 6), (3, 3), (2, 1)), 50, 20, half=False)
HALF = Geometry(2, 9, ((33, 40), (17, 20)), 1000, 300, half=True)
COCO = Geometry(91, 9, ((100, 100), (50, 50), (25, 25), (13, 13), (7, 7)), 1000, 300, half=True)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    stand_in, package = Driver(), types.ModuleType("pycuda")
    package.driver = stand_in  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.setitem(sys.modules, "pycuda.driver", stand_in)
    monkeypatch.setattr("engines.core.cuda_context._retained", {})
    return stand_in


def specification(
    logits: Heads, deltas: Heads, parameters: npt.NDArray[np.float32], geometry: Geometry
) -> RawDetections:
    return postprocess(
        [head.astype(np.float32) for head in logits],
        [head.astype(np.float32) for head in deltas],
        parameters,
        num_classes=geometry.num_classes,
        top_k=geometry.top_k,
        max_detections=geometry.max_detections,
    )


def check(found: RawDetections, expected: RawDetections, *, boxes: float = 1e-3) -> None:
    assert expected.num_detections.all()
    np.testing.assert_array_equal(found.num_detections, expected.num_detections)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_allclose(found.boxes, expected.boxes, rtol=0, atol=boxes)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=0, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize(("geometry", "batch"), [(SMALL, 2), (HALF, 1)])
def test_it_launches_the_plan_and_detects_as_the_specification(driver: Driver, geometry: Geometry, batch: int) -> None:
    logits, deltas = heads_of(geometry, batch, seed=3)
    parameters = parameters_of(geometry)
    run = run_kernels(logits, deltas, parameters, geometry, runs=2)
    check(run.detections, specification(logits, deltas, parameters, geometry))
    assert run.milliseconds.tolist() == [[1, 1, 1]] * 2
    planned = [
        (item.entry, item.grid, (item.block, 1, 1), item.integers) for item in postprocess_launches(geometry, batch)
    ]
    assert driver.calls == planned * 2
    assert (driver.memory, driver.contexts, list(driver.alive)) == ({}, [], [])


@needs_compiler
def test_thresholds_are_inputs_of_the_kernels(driver: Driver) -> None:
    """Another score or IoU threshold, or class-agnostic NMS, needs another parameter tensor, but no other kernels."""
    logits, deltas = heads_of(SMALL, 1, seed=3)
    for score, iou, agnostic in ((0.05, 0.5, False), (0.3, 0.5, False), (0.05, 0.9, False), (0.05, 0.5, True)):
        parameters = parameters_of(SMALL, score=score, iou=iou, agnostic=agnostic)
        run = run_kernels(logits, deltas, parameters, SMALL)
        check(run.detections, specification(logits, deltas, parameters, SMALL))
    assert len({call[0] for call in driver.calls}) == 3


@pytest.mark.parametrize("allocation", range(22))
def test_a_failed_allocation_leaves_no_memory_allocated(driver: Driver, allocation: int) -> None:
    """There are 22 allocations: 6 scratch tensors, 11 inputs, 4 outputs, and the memory that is set to zero."""
    driver.fail_at = allocation
    logits, deltas = heads_of(SMALL, 1, seed=0)
    with pytest.raises(DeviceError, match=r"expected memory for this model, found too little .*out of memory"):
        run_kernels(logits, deltas, parameters_of(SMALL), SMALL)
    assert (driver.memory, driver.contexts, list(driver.alive), driver.calls) == ({}, [], [], [])


def test_closing_a_second_time_does_nothing(driver: Driver) -> None:
    driver.contexts.append("primary")
    with PostprocessKernels(driver, SMALL, 1) as kernels:
        assert len(driver.memory) == 6
    kernels.close()
    assert not driver.memory


@needs_compiler
def test_a_launch_allocates_and_copies_nothing(driver: Driver) -> None:
    """Otherwise a CUDA graph could not capture the launch."""
    driver.contexts.append("primary")
    kernels = PostprocessKernels(driver, SMALL, 1)
    tensors = {}
    logits, deltas = heads_of(SMALL, 1, seed=0)
    allocations = []
    for name, array in zip(SMALL.inputs(1), [*logits, *deltas, parameters_of(SMALL)], strict=True):
        allocations.append(driver.mem_alloc(array.nbytes))
        driver.memcpy_htod(allocations[-1], array)
        tensors[name] = int(allocations[-1])
    for output in postprocess_launches(SMALL, 1)[-1].outputs:
        allocations.append(driver.mem_alloc(output.nbytes))
        tensors[output.name] = int(allocations[-1])
    before = set(driver.memory)
    driver.fail_at = len(before)
    kernels.launch(tensors, 1, driver.Stream())
    assert set(driver.memory) == before


def test_heads_of_another_geometry_are_refused(driver: Driver) -> None:
    logits, deltas = heads_of(SMALL, 1, seed=0)
    parameters = parameters_of(SMALL)
    with pytest.raises(ValueError, match=r"cls_0: expected float32 \[1, 21, 21, 19\], got float16 \[1, 21, 21, 19\]"):
        run_kernels([head.astype(np.float16) for head in logits], deltas, parameters, SMALL)
    with pytest.raises(ValueError, match=r"box_1: expected float32 \[1, 12, 10, 11\], got float32 \[1, 12, 10, 10\]"):
        run_kernels(logits, [deltas[0], deltas[1][..., :-1], *deltas[2:]], parameters, SMALL)
    with pytest.raises(ValueError, match="expected 10 tensors, got 9"):
        run_kernels(logits[1:], deltas, parameters, SMALL)
    with pytest.raises(ValueError, match=r"cls_0: expected float32 \[0, "):
        run_kernels([head[:0] for head in logits], [head[:0] for head in deltas], parameters, SMALL)
    with pytest.raises(ValueError, match=r"parameters: expected float32 \[78\], got float32 \[77\]"):
        run_kernels(logits, deltas, parameters[:-1], SMALL)
    with pytest.raises(ValueError, match="runs: expected at least 1, got 0"):
        run_kernels(logits, deltas, parameters, SMALL, runs=0)
    assert not driver.calls


def test_a_missing_gpu_is_an_error(driver: Driver) -> None:
    logits, deltas = heads_of(SMALL, 1, seed=0)
    with pytest.raises(DeviceError, match=r"GPU 7: expected an NVIDIA GPU and its driver, found none \(cuDeviceGet"):
        run_kernels(logits, deltas, parameters_of(SMALL), SMALL, device=7)
    assert (driver.contexts, driver.retained) == ([], 0)


def test_without_pycuda_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    logits, deltas = heads_of(SMALL, 1, seed=0)
    with pytest.raises(MissingDependencyError, match="install it with pip install pycuda"):
        run_kernels(logits, deltas, parameters_of(SMALL), SMALL)


@pytest.mark.parametrize(
    ("geometry", "batch", "agnostic"),
    [(SMALL, 2, False), (HALF, 3, False), (COCO, 1, False), (COCO, 4, False), (SMALL, 2, True), (COCO, 1, True)],
    ids=["small", "half", "coco", "coco, 4 images", "small, agnostic", "coco, agnostic"],
)
@pytest.mark.gpu
@pytest.mark.skipif(not this_machine().gpu, reason="needs an NVIDIA GPU and its driver")
@pytest.mark.skipif(importlib.util.find_spec("pycuda") is None, reason="needs pycuda")
def test_detections_on_a_gpu_are_those_of_the_specification(geometry: Geometry, batch: int, agnostic: bool) -> None:
    """Repeated runs give the same bits."""
    logits, deltas = heads_of(geometry, batch, 1, lambda x, _: np.round(x * 8) / 8)
    parameters = parameters_of(geometry, agnostic=agnostic)
    run = run_kernels(logits, deltas, parameters, geometry)
    check(run.detections, specification(logits, deltas, parameters, geometry), boxes=0.02)
    for _ in range(20):
        again = run_kernels(logits, deltas, parameters, geometry).detections
        for first, second in zip(run.detections, again, strict=True):
            assert first.tobytes() == second.tobytes()
