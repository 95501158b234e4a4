"""Tests of Select and NMS by themselves, in the emulator: hard inputs, the limits, and the number of serial steps.

A barrier makes all warps of a block wait for the slowest, so the number of barriers limits the speed on a GPU.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.plugins.launch import MAX_DETECTIONS, MAX_TOP_K, Geometry, postprocess_launches
from engines.plugins.specification import Candidates, nms
from tests.engines.plugins.emulated import barriers, exchanges, needs_compiler, run_kernel

pytestmark = needs_compiler

COCO = Geometry(91, 9, ((100, 100), (50, 50), (25, 25), (13, 13), (7, 7)), 1000, 300, half=True)
# Six levels with as many candidates and detections as the kernels' shared memory has room for.
LARGEST = Geometry(1, 1, ((32, 32),) * 6, MAX_TOP_K, MAX_DETECTIONS, half=False)


def check_nms(
    geometry: Geometry, candidates: Candidates, *, iou: float = 0.5, agnostic: bool = False, seed: int = 0
) -> int:
    """Spread candidates over the levels, run NMS and compare with the specification; return the number of detections.

    Args:
        geometry: sizes.
        candidates: candidates of one image, best first, with different logits.
        iou: IoU threshold.
        agnostic: True for class-agnostic NMS.
        seed: seed for the levels of the candidates and for the order of threads; 0 for the natural order of threads.
    """
    levels, top_k = len(geometry.feature_sizes), geometry.top_k
    count = len(candidates.logits)
    # Level 0 gets as many as fit, as in a real image, then level 1, and so on; at random, if all places are taken.
    places = np.sort(np.random.default_rng(seed).permutation(min(levels * top_k, 2 * count))[:count])
    level = np.random.default_rng(seed).permutation(places // top_k)
    logits = np.full((levels, top_k), -np.inf, np.float32)
    boxes = np.zeros((levels, top_k, 4), np.float32)
    labels = np.zeros((levels, top_k), np.int32)
    for index in range(levels):
        (mine,) = np.nonzero(level == index)
        logits[index, : len(mine)] = candidates.logits[mine]
        boxes[index, : len(mine)] = candidates.boxes[mine]
        labels[index, : len(mine)] = candidates.labels[mine]
    parameters = np.array([0, iou, 0, 0, 0, agnostic, 0, 0], np.float32)
    inputs = [logits.reshape(1, -1), boxes.reshape(1, -1, 4), labels.reshape(1, -1), parameters]
    num, found_boxes, _, found_labels = run_kernel(postprocess_launches(geometry, 1)[2], inputs, seed=seed)
    with np.errstate(invalid="ignore"):
        keep = nms(candidates, np.float32(iou), geometry.max_detections, agnostic=agnostic)
    assert num[0] == len(keep)
    np.testing.assert_array_equal(found_boxes[0, : len(keep)], candidates.boxes[keep])
    np.testing.assert_array_equal(found_labels[0, : len(keep)], candidates.labels[keep])
    return len(keep)


def scene(count: int, *, labels: int, objects: int, seed: int) -> Candidates:
    """Return candidates around random objects, as a trained network finds them."""
    generator = np.random.default_rng(seed)
    sides = generator.uniform(20, 200, (objects, 2))
    corners = generator.uniform(0, 800 - sides)
    which = generator.integers(0, objects, count)
    boxes = np.concatenate([corners, corners + sides], axis=1)[which] + generator.normal(0, 8, (count, 4))
    logits = np.sort(generator.normal(-1, 1, count))[::-1]
    return Candidates(
        logits.astype(np.float32),
        np.clip(boxes, 0, 800).astype(np.float32),
        (which % labels).astype(np.int32),
    )


@pytest.mark.parametrize(("labels", "agnostic"), [(1, False), (5, False), (5, True)])
@pytest.mark.parametrize("seed", range(3))
def test_nms_of_a_scene(labels: int, agnostic: bool, seed: int) -> None:
    """Most candidates are suppressed, by boxes of their own chunk or of earlier chunks."""
    kept = check_nms(COCO, scene(1200, labels=labels, objects=150, seed=seed), agnostic=agnostic, seed=seed)
    assert 100 < kept <= 300


def test_class_agnostic_nms_keeps_the_boxes_of_one_class_and_their_labels() -> None:
    """The labels of a scene change nothing but the labels of the detections, which check_nms compares."""
    several = scene(900, labels=7, objects=100, seed=4)
    one = several._replace(labels=np.zeros_like(several.labels))
    kept = [check_nms(COCO, several), check_nms(COCO, several, agnostic=True), check_nms(COCO, one)]
    assert kept[0] > kept[1] == kept[2]


def test_nms_of_a_chain() -> None:
    """Each box suppresses the next one only, so every second one is kept, and no group can be resolved in fewer steps
    than it has candidates."""
    count = 1000
    left = np.arange(count, dtype=np.float32) * 4
    boxes = np.stack([left, np.zeros_like(left), left + 10, np.full_like(left, 10)], axis=1)
    candidates = Candidates(np.linspace(5, -5, count, dtype=np.float32), boxes, np.zeros(count, np.int32))
    for seed in range(3):
        assert check_nms(LARGEST, candidates, iou=0.4, seed=seed) == count // 2


@pytest.mark.parametrize(("labels", "agnostic"), [(1, False), (3, False), (3, True)])
def test_nms_at_its_limits(labels: int, agnostic: bool) -> None:
    """All places have a candidate, and all detections are taken, the last one in the middle of a chunk."""
    candidates = scene(len(LARGEST.feature_sizes) * MAX_TOP_K, labels=labels, objects=4000, seed=1)
    candidates.boxes[:, 2:] = candidates.boxes[:, :2] + 9  # small boxes, most of which do not overlap
    assert check_nms(LARGEST, candidates, agnostic=agnostic) == MAX_DETECTIONS


@pytest.mark.parametrize("iou", [0.0, 1 / 3, 1.0])
def test_boxes_on_the_threshold_are_kept(iou: float) -> None:
    """Boxes with an IoU of exactly a third, equal boxes, boxes that touch, empty boxes and boxes with NaN."""
    some = [[0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 10, 10], [10, 0, 20, 10], [3, 3, 3, 3], [3, 3, 3, 3], [0, 0, 0, 5]]
    boxes = np.array(some * 40, np.float32)
    boxes[::9, 2] = np.nan
    logits = np.linspace(3, -3, len(boxes), dtype=np.float32)
    check_nms(COCO, Candidates(logits, boxes, np.zeros(len(boxes), np.int32)), iou=iou)


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 255, 256, 257, 513])
def test_any_number_of_candidates(count: int) -> None:
    check_nms(COCO, scene(count, labels=2, objects=60, seed=count))


def test_nms_meets_at_few_barriers() -> None:
    """1,000 candidates and 300 detections, the last one near the end of the list."""
    launch = postprocess_launches(COCO, 1)[2]
    kept = check_nms(COCO, scene(1000, labels=91, objects=330, seed=0))
    assert kept == 300
    assert barriers(launch) <= 30
    assert exchanges(launch) <= 150


@pytest.mark.parametrize("candidates", [1000, 3000])
def test_select_meets_at_few_barriers(candidates: int) -> None:
    """The candidates are sorted. If there are more than top_k, they also take a radix selection."""
    launch = postprocess_launches(COCO, 1)[1]
    tiles = postprocess_launches(COCO, 1)[0].grid[0]
    generator = np.random.default_rng(candidates)
    logits, per_tile = COCO.level_logits[0], 20
    keys = generator.integers(2**31, 2**32, (1, tiles, COCO.top_k), np.uint32).view(np.int32)
    index = np.zeros((1, tiles, COCO.top_k), np.int32)
    index[0, :, :per_tile] = generator.permutation(logits)[: tiles * per_tile].reshape(tiles, per_tile)
    count = np.zeros((1, tiles), np.int32)
    count[0, : candidates // per_tile] = per_tile
    deltas: list[npt.NDArray[Any]] = [np.zeros((1, 36, *size), np.float16) for size in COCO.feature_sizes]
    parameters = np.ones(COCO.inputs(1)["parameters"].shape, np.float32)
    found, _, _ = run_kernel(launch, [keys, index, count, *deltas, parameters])
    chosen = np.sort(keys[0, : candidates // per_tile, :per_tile].view(np.uint32).ravel())[::-1][: COCO.top_k]
    np.testing.assert_array_equal(found[0, : COCO.top_k].view(np.uint32) | 2**31, chosen)
    assert barriers(launch) <= (20 if candidates <= COCO.top_k else 40)
