"""Augmentations move boxes and pixels together: objects painted onto real images stay inside their boxes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision import tv_tensors

from engines.core.errors import ContractError
from retina_edge.data.augment import Augmentation, CropKeepingBoxes, RandomTranspose
from retina_edge.data.augment_options import PHOTOMETRIC, AugmentOptions

BOXES = [[40, 60, 90, 140], [200, 30, 300, 80], [330, 330, 400, 400], [0, 200, 60, 230]]
# Bilinear resizing mixes the outermost pixels of an object with the background.
EDGE = 2


def painted(frame: npt.NDArray[np.uint8]) -> tuple[tv_tensors.Image, dict[str, torch.Tensor]]:
    """Return a real frame without blue, RGB, with one blue object painted into each box, and its target."""
    image = torch.from_numpy(frame[:, :, ::-1].copy()).permute(2, 0, 1).clone()
    image[2] = 0
    for x1, y1, x2, y2 in BOXES:
        image[:, y1:y2, x1:x2] = torch.tensor([0, 0, 255], dtype=torch.uint8)[:, None, None]
    boxes = tv_tensors.BoundingBoxes(torch.tensor(BOXES).float(), format="XYXY", canvas_size=(400, 400))
    return tv_tensors.Image(image), {"boxes": boxes, "labels": torch.arange(len(BOXES))}


def blue_pixels(image: torch.Tensor) -> npt.NDArray[np.bool_]:
    return (image[2] > 200).numpy()


@pytest.mark.parametrize("orientation", ["none", "horizontal", "dihedral"])
@pytest.mark.parametrize(("size", "scale"), [((256, 256), (0.5, 2.0)), ((416, 736), (0.3, 1.2)), ((96, 160), (1, 1))])
def test_boxes_stay_on_their_objects(
    frames: list[npt.NDArray[np.uint8]], orientation: str, size: tuple[int, int], scale: tuple[float, float]
) -> None:
    # Keep boxes of which very little is left, so that each blue pixel belongs to a box.
    options = AugmentOptions(size, (416, 736), scale, orientation, photometric="none", min_visible=0.0)
    transform = Augmentation(options)
    torch.manual_seed(5)
    visible_boxes = 0
    for _ in range(25):
        image, target = transform(*painted(frames[0]))
        assert image.shape == (3, *size)
        assert image.dtype == torch.uint8
        mask = blue_pixels(image)
        for x1, y1, x2, y2 in target["boxes"].round().int().tolist():
            inner = mask[y1 + EDGE : max(0, y2 - EDGE), x1 + EDGE : max(0, x2 - EDGE)]
            assert inner.all()
            visible_boxes += inner.size > 0
            mask[max(0, y1 - EDGE) : y2 + EDGE, max(0, x1 - EDGE) : x2 + EDGE] = False
        assert not mask.any(), "an object lost its box"
    assert visible_boxes >= 25


def test_labels_follow_their_boxes(frames: list[npt.NDArray[np.uint8]]) -> None:
    transform = Augmentation(AugmentOptions((416, 416), (400, 400 // 32 * 32), (1, 1), "none", "none", 0.99))
    torch.manual_seed(0)
    image, target = painted(frames[0])
    out, result = transform(image, target)
    scale = min(400 / 400, 384 / 400)
    for box, label in zip(result["boxes"].tolist(), result["labels"].tolist(), strict=True):
        width = BOXES[label][2] - BOXES[label][0]
        assert box[2] - box[0] == pytest.approx(width * scale, abs=0.5)
    assert out.shape == (3, 416, 416)


def test_photometric_changes_colors_but_not_boxes(frames: list[npt.NDArray[np.uint8]]) -> None:
    results = []
    for photometric in PHOTOMETRIC:
        torch.manual_seed(3)
        results.append(
            Augmentation(AugmentOptions((256, 256), (416, 736), photometric=photometric))(*painted(frames[0]))
        )
    (plain, target), *others = results
    for changed, same in others:
        assert torch.equal(target["boxes"], same["boxes"])
        assert torch.equal(target["labels"], same["labels"])
        assert not torch.equal(plain, changed)


def test_a_crop_contains_an_object_and_drops_slivers(frames: list[npt.NDArray[np.uint8]]) -> None:
    crop = CropKeepingBoxes((64, 64), min_visible=0.4)
    torch.manual_seed(1)
    kept = [len(crop(*painted(frames[0]))[1]["boxes"]) for _ in range(50)]
    assert sum(count > 0 for count in kept) > 25  # a crop can show too little of its object to keep the box
    image = tv_tensors.Image(torch.zeros(3, 100, 100, dtype=torch.uint8))
    boxes = tv_tensors.BoundingBoxes(torch.tensor([[0.0, 0, 10, 10]]), format="XYXY", canvas_size=(100, 100))
    for _ in range(50):
        _, target = CropKeepingBoxes((32, 32), 0.4)(image, {"boxes": boxes, "labels": torch.zeros(1)})
        for box in target["boxes"].tolist():
            assert (box[2] - box[0]) * (box[3] - box[1]) >= 40


def test_an_image_without_boxes_smaller_than_the_crop_is_padded() -> None:
    image = tv_tensors.Image(torch.full((3, 20, 30), 7, dtype=torch.uint8))
    no_boxes = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=(20, 30))
    out, target = CropKeepingBoxes((64, 96), 0.4)(image, {"boxes": no_boxes, "labels": torch.zeros(0)})
    assert out.shape == (3, 64, 96)
    assert (out[:, :20, :30] == 7).all()
    assert int((out == 7).sum()) == 3 * 20 * 30  # padding is zero
    assert target["boxes"].shape == (0, 4)


def test_transpose_does_not_change_oblong_crops(frames: list[npt.NDArray[np.uint8]]) -> None:
    image, target = painted(frames[0])
    oblong = tv_tensors.Image(image[:, :200])
    for _ in range(10):
        out, _ = RandomTranspose()(oblong, target)
        assert out is oblong


def test_options_are_checked() -> None:
    with pytest.raises(ContractError, match="multiples of 32"):
        AugmentOptions((100, 256), (416, 736))
    with pytest.raises(ValueError, match="orientation: expected one of"):
        AugmentOptions((256, 256), (416, 736), orientation="diagonal")
    with pytest.raises(ValueError, match="smallest <= largest"):
        AugmentOptions((256, 256), (416, 736), scale=(2, 1))


@pytest.mark.parametrize(("orientation", "expected"), [("none", 1), ("horizontal", 2), ("dihedral", 8)])
def test_every_orientation_occurs(orientation: str, expected: int) -> None:
    image = tv_tensors.Image(torch.zeros(3, 64, 64, dtype=torch.uint8))
    image[:, 0, 1] = 255  # beside a corner, so that its position differs in each of the eight orientations
    box = tv_tensors.BoundingBoxes(torch.tensor([[0.0, 0, 64, 64]]), format="XYXY", canvas_size=(64, 64))
    transform = Augmentation(AugmentOptions((64, 64), (64, 64), (1, 1), orientation, photometric="none"))
    torch.manual_seed(0)
    positions = {
        tuple(transform(image, {"boxes": box, "labels": torch.zeros(1)})[0][0].nonzero()[0].tolist())
        for _ in range(200)
    }
    assert len(positions) == expected


def test_scales_span_the_range() -> None:
    image = tv_tensors.Image(torch.zeros(3, 100, 100, dtype=torch.uint8))
    box = tv_tensors.BoundingBoxes(torch.tensor([[40.0, 40, 60, 60]]), format="XYXY", canvas_size=(100, 100))
    transform = Augmentation(AugmentOptions((256, 256), (96, 160), (0.5, 1.5), "none", photometric="none"))
    torch.manual_seed(0)
    widths = []
    for _ in range(200):
        x1, _, x2, _ = transform(image, {"boxes": box, "labels": torch.zeros(1)})[1]["boxes"][0].tolist()
        widths.append((x2 - x1) / (20 * 0.96))
    assert 0.48 < min(widths) < 0.52
    assert 1.48 < max(widths) < 1.52
    assert np.mean(widths) == pytest.approx(1.0, abs=0.06)


def test_thin_images_keep_at_least_one_pixel() -> None:
    for shape in ((900, 4), (1, 5000)):
        image = tv_tensors.Image(torch.zeros(3, *shape, dtype=torch.uint8))
        box = tv_tensors.BoundingBoxes(torch.tensor([[0.0, 0, shape[1], shape[0]]]), format="XYXY", canvas_size=shape)
        transform = Augmentation(AugmentOptions((96, 128), (96, 128), (0.5, 0.5)))
        out, _ = transform(image, {"boxes": box, "labels": torch.zeros(1)})
        assert out.shape == (3, 96, 128)
