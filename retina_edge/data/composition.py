"""Pictures composed of several images: a mosaic of four, and objects pasted from another image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors

# An image, uint8 [3, h, w], and its target: ``boxes`` [N, 4] xyxy in pixels, and ``labels``, int64 [N].
Labeled = tuple[Tensor, dict[str, Any]]
# Makes a random crop of (height, width) of an image.
Crop = Callable[[Tensor, dict[str, Any], tuple[int, int]], Labeled]

# The four images of a mosaic meet between these shares of its height and width.
CENTER = (0.3, 0.7)
# Each object of the other image is pasted with this probability, unless it hides more of an object than this share, or
# shares more of its own area with an object.
PASTED, MAX_HIDDEN = 0.5, 0.2


def mosaic(images: Sequence[Labeled], size: tuple[int, int], crop: Crop) -> Labeled:
    """Return a mosaic of four images around a random center (Bochkovskiy et al., arXiv 2004.10934, section 3.3).

    Args:
        images: four images and their targets: top left, top right, bottom left, bottom right.
        size: (height, width) of the mosaic, pixels.
        crop: makes a random crop of an image.

    Examples:
        >>> no_boxes = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=(8, 8))
        >>> image = torch.ones(3, 8, 8, dtype=torch.uint8), {"boxes": no_boxes, "labels": torch.zeros(0)}
        >>> def crop(image: Tensor, target: dict[str, Any], size: tuple[int, int]) -> Labeled:
        ...     return image[:, : size[0], : size[1]], target
        >>> picture, target = mosaic([image] * 4, (4, 6), crop)
        >>> picture.shape, int(picture.min())
        (torch.Size([3, 4, 6]), 1)
    """
    low, high = CENTER
    y, x = (round(side * (low + (high - low) * float(torch.rand(())))) for side in size)
    picture = images[0][0].new_empty((3, *size))
    boxes, labels = [], []
    tiles = [(top, left) for top in ((0, y), (y, size[0])) for left in ((0, x), (x, size[1]))]
    for image, ((top, bottom), (left, right)) in zip(images, tiles, strict=True):
        tile, target = crop(*image, (bottom - top, right - left))
        picture[:, top:bottom, left:right] = tile
        found = _plain(target["boxes"])
        boxes.append(found + found.new_tensor([left, top, left, top]))
        labels.append(target["labels"])
    return _labeled(picture, torch.cat(boxes), torch.cat(labels))


def paste_objects(image: Labeled, donor: Labeled, min_visible: float) -> Labeled:
    """Return an image with some objects of another one, each pasted as the part of the picture in its box.

    The idea is that of Dwibedi et al. (arXiv 1708.01642) and Ghiasi et al. (arXiv 2012.07177), who paste objects along
    their outline. There is no outline here, so some background comes with each object. A part is not pasted if it
    would hide more than a fifth of an object, or lie on one with more than a fifth of its own area. Objects that were
    pasted before count, too.

    Args:
        image: the image and its target.
        donor: an image of the same size, and its target.
        min_visible: share of a box's area, 0 to 1, that must lie in a pasted part; other objects in it have no box.

    Examples:
        >>> box = tv_tensors.BoundingBoxes(torch.tensor([[1.0, 1, 3, 3]]), format="XYXY", canvas_size=(4, 4))
        >>> no_box = tv_tensors.BoundingBoxes(torch.zeros(0, 4), format="XYXY", canvas_size=(4, 4))
        >>> dark = torch.zeros(3, 4, 4, dtype=torch.uint8), {"boxes": no_box, "labels": torch.zeros(0)}
        >>> light = torch.ones(3, 4, 4, dtype=torch.uint8), {"boxes": box, "labels": torch.zeros(1)}
        >>> picture, target = paste_objects(dark, light, 0.4)
        >>> int(picture.sum()) in (0, 3 * 4), int(picture.sum()) == 3 * 4 * len(target["boxes"])
        (True, True)
    """
    picture, target = image[0].clone(), image[1]
    boxes, labels = _plain(target["boxes"]), target["labels"]
    others, other_labels = _plain(donor[1]["boxes"]), donor[1]["labels"]
    hidden = torch.zeros(len(boxes))
    for box in others[torch.rand(len(others)) < PASTED]:
        part = torch.cat((box[:2].floor(), box[2:].ceil()))
        shared = _area(_within(boxes, part))
        # A sum counts twice what two parts hide, so no more is hidden than it says.
        hiding = hidden + shared
        if bool(((hiding > MAX_HIDDEN * _area(boxes)) | (shared > MAX_HIDDEN * _area(part[None]))).any()):
            continue
        left, top, right, bottom = part.int().tolist()
        picture[:, top:bottom, left:right] = donor[0][:, top:bottom, left:right]
        inside = _within(others, part)
        keep = (_area(inside) > 0) & (_area(inside) >= min_visible * _area(others))
        boxes, labels = torch.cat((boxes, inside[keep])), torch.cat((labels, other_labels[keep]))
        hidden = torch.cat((hiding, torch.zeros(int(keep.sum()))))
    return _labeled(picture, boxes, labels)


def _labeled(picture: Tensor, boxes: Tensor, labels: Tensor) -> Labeled:
    size = (picture.shape[-2], picture.shape[-1])
    found = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=size)
    return tv_tensors.Image(picture), {"boxes": found, "labels": labels}


def _plain(boxes: Tensor) -> Tensor:
    return boxes.as_subclass(Tensor).float()


def _within(boxes: Tensor, window: Tensor) -> Tensor:
    """Return boxes [N, 4] xyxy clipped to a window [4] xyxy; the area of a box outside of it is zero."""
    return torch.maximum(torch.minimum(boxes, window[[2, 3, 2, 3]]), window[[0, 1, 0, 1]])


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
