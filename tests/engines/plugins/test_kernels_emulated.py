"""Tests of the kernels in the emulator: they must select the same candidates and boxes as the specification."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torchvision

from engines.core.executor import RawDetections
from engines.plugins import launch as launch_module
from engines.plugins.launch import Geometry, postprocess_launches
from engines.plugins.parameters import DELTA_CLIP, logit, unpack_parameters
from engines.plugins.specification import Candidates, decode, nms, sigmoid
from tests.engines.plugins.emulated import POISON, needs_compiler, run_kernel, run_kernels

pytestmark = needs_compiler

Heads = list[npt.NDArray[Any]]
# A box passes through one exponential, which two libraries round differently. The tolerance is one unit in the last
# place of the largest intermediate result in float32: a side of up to 62.5 times 1,024 pixels, before the box is
# clipped.
BOX_TOLERANCE = 62.5 * 1024 * 2.0**-23
SCORE_TOLERANCE = 2.0**-22

SMALL = Geometry(7, 3, ((21, 19), (10, 11), (5, 6), (3, 3), (2, 1)), 50, 20, half=False)


def parameters_of(
    geometry: Geometry, *, score: float = 0.05, iou: float = 0.5, agnostic: bool = False, seed: int = 0
) -> npt.NDArray[np.float32]:
    """Return parameters with anchors of several sizes around the origin, and strides that differ in x and y."""
    generator = np.random.default_rng(seed)
    levels = len(geometry.feature_sizes)
    sides = generator.uniform(8, 64, (levels, geometry.num_anchors, 2)) * 2.0 ** np.arange(levels)[:, None, None]
    anchors = np.concatenate([-sides / 2, sides / 2], axis=2)
    strides = 8.0 * 2.0 ** np.arange(levels)[:, None] + [0, 1]
    height, width = geometry.feature_sizes[0]
    header = [logit(score), iou, DELTA_CLIP, 8 * width, 9 * height, agnostic, 0, 0]
    return np.concatenate([header, anchors.reshape(-1), strides.reshape(-1)]).astype(np.float32)


def heads_of(
    geometry: Geometry,
    batch: int,
    seed: int,
    change: Callable[[npt.NDArray[Any], np.random.Generator], npt.NDArray[Any]] = lambda x, _: x,
    deltas: Callable[[npt.NDArray[Any], np.random.Generator], npt.NDArray[Any]] = lambda x, _: x,
) -> tuple[Heads, Heads]:
    """Return random heads, some logits of which pass the threshold.

    Args:
        geometry: sizes of the heads.
        batch: number of images.
        seed: seed of the random numbers.
        change: function that modifies the class logits.
        deltas: function that modifies the box deltas.
    """
    generator = np.random.default_rng(seed)
    kind = np.float16 if geometry.half else np.float32
    a, c = geometry.num_anchors, geometry.num_classes
    sizes = geometry.feature_sizes
    logits = [change(generator.normal(-3, 1.5, (batch, a * c, *size)), generator).astype(kind) for size in sizes]
    boxes = [deltas(generator.normal(0, 0.5, (batch, a * 4, *size)), generator).astype(kind) for size in sizes]
    return logits, boxes


def check(
    geometry: Geometry,
    logits: Heads,
    deltas: Heads,
    parameters: npt.NDArray[np.float32],
    *,
    expect_detections: bool = True,
) -> RawDetections:
    """Run the kernels and compare every number with the specification.

    With ``expect_detections`` there must be at least one detection, without it none.
    """
    (found_logits, found_boxes, found_labels), detections = run_kernels(logits, deltas, parameters, geometry)
    values = unpack_parameters(parameters, len(geometry.feature_sizes))
    top_k = geometry.top_k
    for n in range(len(logits[0])):
        start = 0
        for level in range(len(geometry.feature_sizes)):
            # The specification finds the anchors and the stride of a level by its index, so this level must be first.
            alone = dataclasses.replace(
                values, cell_anchors=values.cell_anchors[level:], strides=values.strides[level:]
            )
            with np.errstate(invalid="ignore", over="ignore"):
                expected = decode(
                    [logits[level][n].astype(np.float32)],
                    [deltas[level][n].astype(np.float32)],
                    alone,
                    num_classes=geometry.num_classes,
                    top_k=top_k,
                )
            count, end = len(expected.logits), start + top_k
            np.testing.assert_array_equal(found_logits[n, start : start + count], expected.logits)
            np.testing.assert_array_equal(found_labels[n, start : start + count], expected.labels)
            np.testing.assert_allclose(
                found_boxes[n, start : start + count], expected.boxes, rtol=0, atol=BOX_TOLERANCE
            )
            assert (found_logits[n, start + count : end] == -np.inf).all()
            assert not found_boxes[n, start + count : end].any()
            assert not found_labels[n, start + count : end].any()
            start = end
        # Give the boxes of the kernels to the specification's NMS, so that exactly the same boxes must be kept.
        order = np.argsort(-found_logits[n], kind="stable")
        order = order[found_logits[n][order] > -np.inf]
        candidates = Candidates(found_logits[n][order], found_boxes[n][order], found_labels[n][order])
        with np.errstate(invalid="ignore"):
            keep = nms(candidates, values.iou_threshold, geometry.max_detections, agnostic=values.agnostic)
        num = len(keep)
        assert detections.num_detections[n] == num
        np.testing.assert_array_equal(detections.boxes[n, :num], candidates.boxes[keep])
        np.testing.assert_array_equal(detections.labels[n, :num], candidates.labels[keep])
        np.testing.assert_allclose(
            detections.scores[n, :num], sigmoid(candidates.logits[keep]), rtol=0, atol=SCORE_TOLERANCE
        )
        for rest in (detections.boxes[n, num:], detections.scores[n, num:], detections.labels[n, num:]):
            assert not rest.any()
    assert (detections.num_detections.sum() > 0) == expect_detections
    return detections


CASES: dict[str, Callable[[npt.NDArray[Any], np.random.Generator], npt.NDArray[Any]]] = {
    "normal": lambda x, _: x,
    "heavy ties": lambda x, _: np.round(x * 2) / 2,
    "nearly all pass": lambda x, _: np.round(x * 4) / 4 + 3,
    "constant": lambda x, _: np.ones_like(x),
    "zeros of both signs": lambda x, g: np.where(g.random(x.shape) < 0.5, 0.0, -0.0),
    "NaN among them": lambda x, g: np.where(g.random(x.shape) < 0.2, np.nan, x),
    "infinities among them": lambda x, g: np.where(g.random(x.shape) < 0.02, np.sign(x) * -np.inf, x),
    "one passes": lambda x, _: np.where(np.arange(x.size).reshape(x.shape) == x.size // 3, 2.0, -9.0),
}


@pytest.mark.parametrize("half", [False, True], ids=["f32", "f16"])
@pytest.mark.parametrize("case", CASES)
def test_candidates_and_detections_are_those_of_the_specification(case: str, half: bool) -> None:
    geometry = dataclasses.replace(SMALL, half=half)
    for seed in range(2):
        check(geometry, *heads_of(geometry, 2, seed, CASES[case]), parameters_of(geometry, seed=seed))


@pytest.mark.parametrize("half", [False, True], ids=["f32", "f16"])
@pytest.mark.parametrize("value", [-9.0, np.nan, -np.inf])
def test_logits_below_the_threshold_give_no_detections(half: bool, value: float) -> None:
    geometry = dataclasses.replace(SMALL, half=half)
    logits, deltas = heads_of(geometry, 2, 0, lambda x, _: np.full_like(x, value))
    check(geometry, logits, deltas, parameters_of(geometry), expect_detections=False)


def test_deltas_may_be_nan_or_infinite() -> None:
    def broken(x: npt.NDArray[Any], generator: np.random.Generator) -> npt.NDArray[Any]:
        kind = generator.integers(0, 12, x.shape)
        return np.select([kind == 0, kind == 1, kind == 2, kind == 3], [np.nan, np.inf, -np.inf, 50.0], x)

    for half in (False, True):
        geometry = dataclasses.replace(SMALL, half=half)
        logits, deltas = heads_of(geometry, 2, 3, deltas=broken)
        check(geometry, logits, deltas, parameters_of(geometry))


@pytest.mark.parametrize("levels", range(2, 7))
@pytest.mark.parametrize("half", [False, True], ids=["f32", "f16"])
def test_two_to_six_levels(levels: int, half: bool) -> None:
    sizes = ((17, 15), (9, 8), (5, 5), (3, 2), (2, 2), (1, 1))[:levels]
    geometry = Geometry(3, 2, sizes, 40, 15, half)
    # Three images with an odd number of logits on a level: the later images are not aligned to 16 bytes.
    check(geometry, *heads_of(geometry, 3, levels), parameters_of(geometry))


@pytest.mark.parametrize(
    ("classes", "anchors", "top_k", "kept"),
    [(1, 1, 1, 1), (1, 15, 1024, 1024), (91, 9, 1000, 300), (1203, 1, 1000, 300), (4, 9, 333, 7)],
)
def test_any_number_of_classes_anchors_and_candidates(classes: int, anchors: int, top_k: int, kept: int) -> None:
    geometry = Geometry(classes, anchors, ((9, 13), (4, 7)), top_k, kept, half=True)
    for name in ("normal", "heavy ties"):
        check(geometry, *heads_of(geometry, 2, 5, CASES[name]), parameters_of(geometry))


@pytest.mark.parametrize(("score", "iou"), [(0.0, 0.5), (0.05, 0.0), (0.05, 1.0), (0.9, 0.3)])
def test_any_thresholds(score: float, iou: float) -> None:
    logits, deltas = heads_of(SMALL, 2, 7, CASES["nearly all pass"])
    check(SMALL, logits, deltas, parameters_of(SMALL, score=score, iou=iou))


def test_class_agnostic_nms() -> None:
    logits, deltas = heads_of(SMALL, 2, 7, CASES["nearly all pass"])
    aware = check(SMALL, logits, deltas, parameters_of(SMALL))
    agnostic = check(SMALL, logits, deltas, parameters_of(SMALL, agnostic=True))
    assert not np.array_equal(aware.boxes, agnostic.boxes)
    assert len(np.unique(agnostic.labels)) > 1


@pytest.fixture
def set_tile(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """Yield a function that changes the size of the tiles. The launch plans are cached, so it also clears the cache."""

    def change(tile: int) -> None:
        monkeypatch.setattr(launch_module, "TILE", tile)
        postprocess_launches.cache_clear()

    yield change
    postprocess_launches.cache_clear()


def test_the_number_of_tiles_does_not_change_the_result(set_tile: Callable[[int], None]) -> None:
    heads = heads_of(SMALL, 2, 1, CASES["heavy ties"])
    parameters = parameters_of(SMALL)
    whole = run_kernels(*heads, parameters, SMALL)
    for tile in (2, 64, 1024):  # some tiles are smaller than a 16-byte load, some have more than top_k candidates
        set_tile(tile)
        assert postprocess_launches(SMALL, 2)[0].grid[0] > 8379 // tile
        in_tiles = run_kernels(*heads, parameters, SMALL)
        for found, expected in zip(itertools.chain(*in_tiles), itertools.chain(*whole), strict=True):
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("case", ["nearly all pass", "heavy ties", "NaN among them"])
def test_the_order_of_threads_and_blocks_changes_no_bit(case: str, set_tile: Callable[[int], None]) -> None:
    """A shuffled order reveals a missing barrier."""
    set_tile(512)
    geometry = dataclasses.replace(SMALL, max_detections=200)  # many rounds of NMS, with winners from several warps
    heads = heads_of(geometry, 2, 1, CASES[case])
    parameters = parameters_of(geometry)
    candidates, detections = run_kernels(*heads, parameters, geometry)
    for seed in range(1, 5):
        again = run_kernels(*heads, parameters, geometry, seed=seed)
        for found, expected in zip(itertools.chain(*again), (*candidates, *detections), strict=True):
            assert found.tobytes() == expected.tobytes()


def test_a_batch_gives_the_results_of_its_single_images() -> None:
    logits, deltas = heads_of(SMALL, 3, 2)
    parameters = parameters_of(SMALL)
    _, together = run_kernels(logits, deltas, parameters, SMALL)
    for n in range(3):
        _, alone = run_kernels(
            [level[n : n + 1] for level in logits], [level[n : n + 1] for level in deltas], parameters, SMALL
        )
        for found, expected in zip(together, alone, strict=True):
            np.testing.assert_array_equal(found[n : n + 1], expected)


@pytest.mark.parametrize("agnostic", [False, True])
def test_nms_keeps_the_boxes_that_torchvision_keeps(agnostic: bool) -> None:
    """Compare with an independent NMS. Its IoU rounds differently, so no pair of boxes may be on the threshold."""
    generator = np.random.default_rng(4)
    geometry = Geometry(3, 1, ((4, 4), (2, 2)), 400, 300, half=False)
    count = 2 * 400
    corners = generator.uniform(0, 300, (count, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(10, 90, (count, 2))], axis=1).astype(np.float32)
    logits = generator.permutation(np.linspace(-2, 4, count)).astype(np.float32)
    labels = generator.integers(0, 3, count).astype(np.int32)
    order = np.concatenate([np.argsort(-logits[:400]), 400 + np.argsort(-logits[400:])])
    boxes, logits, labels = boxes[order], logits[order], labels[order]
    iou = torchvision.ops.box_iou(torch.from_numpy(boxes), torch.from_numpy(boxes))
    threshold = 0.5
    assert float((iou - threshold).abs().min()) > 1e-6, "a pair of boxes is on the threshold; take another seed"
    tensors = tuple(map(torch.from_numpy, (boxes, logits, labels)))
    all_kept = (
        torchvision.ops.nms(*tensors[:2], threshold) if agnostic else torchvision.ops.batched_nms(*tensors, threshold)
    )
    keep = all_kept[: geometry.max_detections].numpy()
    parameters = np.array([0, threshold, 0, 0, 0, agnostic, 0, 0], np.float32)
    nms_launch = postprocess_launches(geometry, 1)[2]
    num, kept_boxes, _, kept_labels = run_kernel(nms_launch, [logits[None], boxes[None], labels[None], parameters])
    assert num[0] == len(keep)
    np.testing.assert_array_equal(kept_boxes[0, : len(keep)], boxes[keep])
    np.testing.assert_array_equal(kept_labels[0, : len(keep)], labels[keep])


def test_every_element_of_an_output_is_written() -> None:
    """If no logit passes, the kernels fill all outputs, so no byte of the emulator's filling may remain."""
    logits, deltas = heads_of(SMALL, 1, 0, lambda x, _: np.full_like(x, -9.0))
    candidates, detections = run_kernels(logits, deltas, parameters_of(SMALL), SMALL)
    poison = np.full(4, POISON, np.uint8)
    for output in (*candidates, *detections):
        assert not (output.view(np.uint8).reshape(-1, 4) == poison).all(axis=1).any()


def test_a_model_of_real_size() -> None:
    """Input 800 by 800 with 91 classes and 9 anchors: 10.9 million logits in float16."""
    geometry = Geometry(91, 9, ((100, 100), (50, 50), (25, 25), (13, 13), (7, 7)), 1000, 300, half=True)
    logits, deltas = heads_of(geometry, 1, 0, lambda x, _: x - 2)
    detections = check(geometry, logits, deltas, parameters_of(geometry))
    assert detections.num_detections[0] == 300
