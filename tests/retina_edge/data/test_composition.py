"""Painted objects, found again by their colors, show that boxes and labels stay on them, whatever is composed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from engines.core.errors import ContractError
from retina_edge.data.augment import MIN_SIDE, Augmentation, ScaleJitter
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.composition import CENTER, MAX_HIDDEN, Labeled, mosaic, paste_objects

# Boxes of the objects in each image, some at the edges, some adjacent.
BOXES = [[10, 20, 60, 90], [80, 15, 130, 60], [150, 120, 200, 160], [0, 110, 50, 140], [50, 110, 75, 140]]
IMAGE = (160, 200)
BACKGROUND = 110
# Bilinear resizing by up to a factor of 2 mixes this many pixels at an edge; also the rounding of the box.
EDGE = 2
SEEDS = st.integers(0, 2**31)


def color(label: int) -> list[int]:
    """Return a color of its own for each label below 25. No mixture of two that touch is another one of them."""
    levels = (60, 160, 255)
    return [levels[label // 9], levels[label // 3 % 3], levels[label % 3]]


def painted(number: int) -> Labeled:
    """Return one of five images, RGB, with objects of the labels from 5 * number on, and its target."""
    image = torch.full((3, *IMAGE), BACKGROUND, dtype=torch.uint8)
    labels = range(5 * number, 5 * number + len(BOXES))
    for label, (x1, y1, x2, y2) in zip(labels, BOXES, strict=True):
        image[:, y1:y2, x1:x2] = torch.tensor(color(label), dtype=torch.uint8)[:, None, None]
    boxes = tv_tensors.BoundingBoxes(torch.tensor(BOXES).float(), format="XYXY", canvas_size=IMAGE)
    return tv_tensors.Image(image), {"boxes": boxes, "labels": torch.tensor(labels)}


def pixels_of(image: torch.Tensor, label: int) -> npt.NDArray[np.bool_]:
    """Return where the image has the color of a label, bool [h, w]."""
    distance = (image.as_subclass(torch.Tensor).int() - torch.tensor(color(label))[:, None, None]).abs().amax(0)
    return (distance < 20).numpy()


def check(image: torch.Tensor, target: dict[str, Any], *, hidden: float = 0.0) -> int:
    """Check that each box is where the color of its label is, and each color in a box; return the number of boxes.

    Args:
        image, target: an augmented image, with each object at most once, and its target.
        hidden: share of a box that other objects may hide.
    """
    found = dict(zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True))
    assert len(found) == len(target["labels"]), "an object has two boxes"
    for label in range(25):
        rows, columns = np.nonzero(pixels_of(image, label))
        if label not in found:
            assert len(np.unique(rows)) <= EDGE or len(np.unique(columns)) <= EDGE, f"object {label} lost its box"
            continue
        x1, y1, x2, y2 = found[label]
        if min(x2 - x1, y2 - y1) > 2 * EDGE:
            assert len(rows) >= (1 - hidden) * (x2 - x1 - 2 * EDGE) * (y2 - y1 - 2 * EDGE) > 0
        if len(rows):
            seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            differences = np.array(seen) - [x1, y1, x2, y2]
            assert (differences[:2] > -1).all(), "an object begins outside its box"
            assert (differences[2:] < 1).all(), "an object ends outside its box"
            if not hidden:
                assert np.abs(differences).max() <= EDGE
    return len(found)


def options(**changes: Any) -> AugmentOptions:
    # Boxes of which very little is left are kept, so that each color belongs to a box.
    base = AugmentOptions((128, 160), IMAGE, (0.5, 2.0), "horizontal", "none", min_visible=0.0)
    return dataclasses.replace(base, **changes)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.sampled_from(["none", "horizontal", "dihedral"]), st.sampled_from([(128, 160), (160, 160), (64, 96)]))
def test_boxes_stay_on_the_objects_of_a_mosaic(seed: int, orientation: str, size: tuple[int, int]) -> None:
    torch.manual_seed(seed)
    augment = Augmentation(options(size=size, orientation=orientation))
    image, target = augment(*painted(0), partners=[painted(number) for number in (1, 2, 3)])
    assert image.shape == (3, *size)
    assert image.dtype == torch.uint8
    assert target["boxes"].dtype == torch.float32
    assert target["labels"].dtype == torch.int64
    check(image, target)


def test_a_mosaic_shows_four_images_around_a_center() -> None:
    """The quarters have the values 1 to 4, and no pixel is left out or painted twice."""
    images = [
        (tv_tensors.Image(torch.full((3, *IMAGE), value, dtype=torch.uint8)), painted(0)[1]) for value in (1, 2, 3, 4)
    ]
    augment = Augmentation(options(scale=(2.0, 2.0)))
    centers = []
    torch.manual_seed(0)
    for _ in range(100):
        picture, _ = mosaic(images, (100, 200), augment.crop)
        y, x = int((picture[0, :, 0] == 1).sum()), int((picture[0, 0] == 1).sum())
        expected = torch.full((100, 200), 4)
        expected[:y, :x], expected[:y, x:], expected[y:, :x] = 1, 2, 3
        assert torch.equal(picture.as_subclass(torch.Tensor), expected.to(torch.uint8).expand(3, -1, -1))
        centers.append((y / 100, x / 200))
    assert CENTER[0] <= np.min(centers) < CENTER[0] + 0.05
    assert CENTER[1] - 0.05 < np.max(centers) <= CENTER[1]


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.booleans())
def test_pasted_objects_have_boxes_and_hide_little(seed: int, with_mosaic: bool) -> None:
    torch.manual_seed(seed)
    partners = [painted(number) for number in (1, 2, 3)] if with_mosaic else []
    image, target = Augmentation(options())(*painted(0), partners=partners, donor=painted(4))
    check(image, target, hidden=MAX_HIDDEN)


def test_objects_are_pasted_in_half_of_the_cases() -> None:
    """Onto an image without objects, each of two objects that lie apart is pasted with a probability of a half."""
    empty = tv_tensors.Image(torch.zeros(3, 64, 64, dtype=torch.uint8)), target_of([])
    donor = (
        tv_tensors.Image(torch.full((3, 64, 64), 9, dtype=torch.uint8)),
        target_of([[2, 3, 12, 13], [30, 30, 50, 40]]),
    )
    torch.manual_seed(0)
    pasted = []
    for _ in range(400):
        image, target = paste_objects(empty, donor, 0.4)
        expected = torch.zeros(64, 64, dtype=torch.uint8)
        for x1, y1, x2, y2 in target["boxes"].int().tolist():
            expected[y1:y2, x1:x2] = 9
        assert torch.equal(image.as_subclass(torch.Tensor), expected.expand(3, -1, -1))
        pasted.append(len(target["boxes"]))
    assert int(empty[0].sum()) == 0  # the given image stays as it is
    assert np.mean(pasted) == pytest.approx(1.0, abs=0.12)  # 3.4 standard deviations of 0.035


def target_of(boxes: Sequence[Sequence[float]], first_label: int = 0) -> dict[str, Any]:
    found = tv_tensors.BoundingBoxes(torch.tensor(boxes).reshape(-1, 4).float(), format="XYXY", canvas_size=(64, 64))
    return {"boxes": found, "labels": torch.arange(first_label, first_label + len(boxes))}


@pytest.mark.parametrize(
    ("own", "pasted"),
    [
        ([0, 0, 20, 20], True),  # hides 4 * 20 of 400 pixels, a fifth; shares 80 of its own 600
        ([0, 0, 21, 20], False),  # hides 5 * 20 of 420 pixels, more than a fifth
        ([18, 2, 22, 6], False),  # hides all of a small object
        ([0, 0, 64, 64], False),  # lies on a large object with all of its own area
    ],
)
def test_what_hides_too_much_is_not_pasted(own: list[float], pasted: bool) -> None:
    image = tv_tensors.Image(torch.zeros(3, 64, 64, dtype=torch.uint8)), target_of([own])
    donor = tv_tensors.Image(torch.full((3, 64, 64), 9, dtype=torch.uint8)), target_of([[16, 0, 46, 20]], 1)
    torch.manual_seed(0)
    counts = {len(paste_objects(image, donor, 0.4)[1]["boxes"]) for _ in range(30)}
    assert counts == ({1, 2} if pasted else {1})


def test_parts_together_hide_no_more_than_one_part_may() -> None:
    """Each part hides 15 * 25 of 68 * 68 pixels of the object, 8 %, so two of them may be pasted, and never three."""
    image = tv_tensors.Image(torch.zeros(3, 128, 128, dtype=torch.uint8)), target_of([[30, 30, 98, 98]])
    corners = [[0, 0, 45, 55], [83, 0, 128, 55], [0, 73, 45, 128], [83, 73, 128, 128]]
    donor = tv_tensors.Image(torch.full((3, 128, 128), 9, dtype=torch.uint8)), target_of(corners, 1)
    torch.manual_seed(0)
    hidden = {int((paste_objects(image, donor, 0.4)[0][0, 30:98, 30:98] == 9).sum()) for _ in range(60)}
    assert hidden == {0, 375, 750}


def test_neighbors_in_a_pasted_part_have_boxes_as_in_a_crop() -> None:
    """The part of the first object shows 3/4 of the second object and a quarter of the third."""
    boxes = [[10, 10, 40, 40], [20, 20, 30, 50], [35, 12, 55, 22]]
    clipped = {0: boxes[0], 1: [20, 20, 30, 40], 2: [35, 12, 40, 22]}
    empty = tv_tensors.Image(torch.zeros(3, 64, 64, dtype=torch.uint8)), target_of([])
    donor = tv_tensors.Image(torch.full((3, 64, 64), 9, dtype=torch.uint8)), target_of(boxes)
    torch.manual_seed(1)
    for _ in range(60):
        _, target = paste_objects(empty, donor, 0.4)
        found = dict(zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True))
        if 0 in found and found[0] == clipped[0]:
            assert found[1] == clipped[1]
            assert found.get(2) != clipped[2]
            return
    pytest.fail("the first object was never pasted")


@pytest.mark.parametrize("number", [0, 1])
def test_images_without_objects_can_be_composed(number: int) -> None:
    bare = (
        painted(0)[0],
        {
            "boxes": tv_tensors.wrap(torch.zeros(0, 4), like=painted(0)[1]["boxes"]),
            "labels": torch.zeros(0, dtype=torch.int64),
        },
    )
    images = [bare] * 4 if number == 0 else [bare, painted(1), bare, bare]
    torch.manual_seed(2)
    for donor in (None, bare):
        _, target = Augmentation(options())(*images[0], partners=images[1:], donor=donor)
        assert target["boxes"].shape[1:] == (4,)
        assert (len(target["boxes"]) > 0) == (number > 0)
        assert target["labels"].dtype == torch.int64


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_large_scale_jitter_keeps_boxes_on_objects_and_drops_tiny_ones(seed: int) -> None:
    torch.manual_seed(seed)
    image, target = Augmentation(options(scale=(0.1, 2.0), min_visible=0.4))(*painted(0))
    for label, (x1, y1, x2, y2) in zip(target["labels"].tolist(), target["boxes"].tolist(), strict=True):
        rows, columns = np.nonzero(pixels_of(image, label))
        if min(x2 - x1, y2 - y1) > 2 * EDGE:
            seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert np.abs(np.array(seen) - [x1, y1, x2, y2]).max() <= EDGE
        assert min(x2 - x1, y2 - y1) >= 0.4 * MIN_SIDE  # a crop may leave 40 % of a box


@pytest.mark.parametrize(
    ("factor", "kept"),
    [
        (1.0, [0, 1, 2]),  # the objects are as small as those that the network is to find
        (0.5, [0, 1, 2]),  # a factor of today's usual ranges: 0.5, 2 and 20 pixels, all kept
        (0.4, [2]),  # 0.4, 1.6 and 16 pixels
        (0.05, [2]),  # 0.05, 0.2 and 2 pixels
        (0.04, []),
    ],
)
def test_objects_that_are_shrunk_below_two_pixels_are_dropped(factor: float, kept: list[int]) -> None:
    boxes = tv_tensors.BoundingBoxes(
        torch.tensor([[5.0, 5, 6, 90], [10, 10, 14, 14], [40, 40, 80, 80]]), format="XYXY", canvas_size=(100, 200)
    )
    image = tv_tensors.Image(torch.zeros(3, 100, 200, dtype=torch.uint8))
    jitter = ScaleJitter((100, 200), (factor, factor))
    resized, target = jitter(image, {"boxes": boxes, "labels": torch.arange(3)})
    assert resized.shape[1:] == (round(100 * factor), round(200 * factor))
    assert target["labels"].tolist() == kept
    torch.testing.assert_close(
        target["boxes"].as_subclass(torch.Tensor), boxes.as_subclass(torch.Tensor)[kept] * factor
    )


def test_what_is_far_away_has_no_aliasing() -> None:
    """At a tenth of the size, stripes of one pixel in ten become a tenth of their value; sampling would miss them."""
    stripes = torch.zeros(3, 200, 200, dtype=torch.uint8)
    stripes[:, :, ::10] = 250
    none = {"boxes": target_of([])["boxes"], "labels": torch.zeros(0)}
    far, _ = ScaleJitter((200, 200), (0.1, 0.1))(tv_tensors.Image(stripes), none)
    near, _ = ScaleJitter((200, 200), (0.5, 0.5))(tv_tensors.Image(stripes), none)
    assert (far.float()[:, :, 1:-1] - 25).abs().max() <= 5  # the weights of the filter are not all equal
    assert near.unique().tolist() == [0, 125]  # as the letterbox does it: the mean of two pixels


@pytest.mark.parametrize("name", ["mosaic", "copy_paste"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "often", True])
def test_probabilities_are_checked(name: str, value: Any) -> None:
    with pytest.raises(ContractError, match=f"{name}: expected 0 <= probability <= 1, got"):
        AugmentOptions(**{name: value})
