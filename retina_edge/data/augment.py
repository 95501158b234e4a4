"""Augmentations of training images and their boxes, based on ``torchvision.transforms.v2``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.composition import Labeled, mosaic, paste_objects
from retina_edge.data.photometric import StrongPhotometric

Target = dict[str, Any]
# An object that a factor below FAR shrinks to a side of less than MIN_SIDE pixels shows nothing to learn.
FAR, MIN_SIDE = 0.5, 2.0


class Augmentation(nn.Module):
    """A transform of an image and its target to an augmented crop of ``options.size`` and its target.

    An image is a ``tv_tensors.Image``, uint8 [3, h, w]. Its target holds ``boxes``, ``tv_tensors.BoundingBoxes``
    [N, 4] xyxy in pixels, and ``labels``, int64 [N]. Random numbers come from torch's global generator.

    Args:
        options: the augmentation. ``mosaic`` and ``copy_paste`` are the caller's, who has the other images.

    Raises:
        ValueError: if the options lack a size.

    Examples:
        >>> image = tv_tensors.Image(torch.zeros(3, 100, 200, dtype=torch.uint8))
        >>> boxes = tv_tensors.BoundingBoxes([[10, 20, 60, 70]], format="XYXY", canvas_size=(100, 200))
        >>> augment = Augmentation(AugmentOptions().for_input((64, 96)))
        >>> crop, target = augment(image, {"boxes": boxes, "labels": torch.tensor([0])})
        >>> crop.shape
        torch.Size([3, 64, 96])
    """

    def __init__(self, options: AugmentOptions) -> None:
        super().__init__()
        if options.size is None or options.input_size is None:
            raise ValueError(
                "augmentation: expected the size of the network's input; call options.for_input(input_size)"
            )
        self.size, self.min_visible = options.size, options.min_visible
        self.jitter = ScaleJitter(options.input_size, options.scale)
        self.steps: list[nn.Module] = []
        if options.orientation != "none":
            self.steps.append(v2.RandomHorizontalFlip())
        if options.orientation == "dihedral":
            self.steps += [v2.RandomVerticalFlip(), RandomTranspose()]
        if options.photometric == "usual":
            # v2.RandomPhotometricDistort would also swap color channels, and a purple forest teaches nothing.
            self.steps.append(v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.03))
        if options.photometric == "strong":
            self.steps.append(StrongPhotometric())

    def forward(
        self, image: Tensor, target: Target, *, partners: Sequence[Labeled] = (), donor: Labeled | None = None
    ) -> Labeled:
        """Return the crop and its target.

        Args:
            image, target: the image.
            partners: three more images for a mosaic; none for a crop of the image alone.
            donor: an image whose objects are pasted; None for none.
        """
        if partners:
            image, target = mosaic([(image, target), *partners], self.size, self.crop)
        else:
            image, target = self.crop(image, target, self.size)
        if donor is not None:
            image, target = paste_objects((image, target), self.crop(*donor, self.size), self.min_visible)
        for step in self.steps:
            image, target = step(image, target)
        return image, target

    def crop(self, image: Tensor, target: Target, size: tuple[int, int]) -> Labeled:
        """Return a random crop of (height, width) of the image, resized by a random factor."""
        crop: Labeled = CropKeepingBoxes(size, self.min_visible)(*self.jitter(image, target))
        return crop


class ScaleJitter(nn.Module):
    """A resize of an image to its size in the letterbox times a random factor. Each side keeps at least one pixel.

    The factor is uniform, as in torchvision's ``ScaleJitter``, which can round the short side of a thin image down to
    zero. A factor below a half makes objects that are far away (large-scale jitter, Ghiasi et al., arXiv 2012.07177).
    Those of less than 2 pixels lose their box.

    Args:
        input_size: (height, width) of the network's input, pixels.
        scale: smallest and largest factor.
    """

    def __init__(self, input_size: tuple[int, int], scale: tuple[float, float]) -> None:
        super().__init__()
        self.input_size = input_size
        self.scale = scale

    def forward(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        low, high = self.scale
        fit = min(self.input_size[0] / image.shape[-2], self.input_size[1] / image.shape[-1])
        factor = low + (high - low) * float(torch.rand(()))
        size = [max(1, round(side * (fit * factor))) for side in image.shape[-2:]]
        boxes, labels = F.resize(target["boxes"], size), target["labels"]
        # No antialiasing, because the letterbox does not antialias either; but a lens does that with what is far away.
        resized = F.resize(image, size, antialias=factor < FAR)
        if factor < FAR:
            seen = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= MIN_SIDE
            boxes, labels = tv_tensors.wrap(boxes[seen], like=boxes), labels[seen]
        return resized, {**target, "boxes": boxes, "labels": labels}


class CropKeepingBoxes(nn.Module):
    """A random crop that contains the center of a random box, if the image has boxes.

    An image smaller than the crop is padded with zeros at the right and the bottom, as the letterbox does. A box is
    dropped if less than ``min_visible`` of its area is left, because a network that learns slivers detects slivers.

    Args:
        size: (height, width) of the crop, pixels.
        min_visible: share of a box's area, 0 to 1, that must be left in the crop.
    """

    def __init__(self, size: tuple[int, int], min_visible: float) -> None:
        super().__init__()
        self.size = size
        self.min_visible = min_visible

    def forward(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        boxes: Tensor = target["boxes"].as_subclass(Tensor).float()
        window = []
        center = _random_center(boxes)
        for axis, length in enumerate(self.size):
            spare = max(0, image.shape[-2 + axis] - length)
            low, high = 0, spare
            if center is not None:
                low = max(0, min(spare, int(center[1 - axis]) - length + 1))
                high = min(spare, max(0, int(center[1 - axis])))
            window.append(int(torch.randint(low, high + 1, ())))
        top, left = window
        height, width = self.size
        visible = min(height, image.shape[-2] - top), min(width, image.shape[-1] - left)
        image = F.crop(image, top, left, *visible)
        image = F.pad(image, [0, 0, width - visible[1], height - visible[0]])
        moved = boxes - boxes.new_tensor([left, top, left, top])
        limits = boxes.new_tensor([width, height, width, height])
        clipped = torch.minimum(moved.clamp(min=0), limits)
        area = _area(clipped)
        keep = (area > 0) & (area >= self.min_visible * _area(boxes))
        cropped = tv_tensors.BoundingBoxes(clipped[keep], format="XYXY", canvas_size=self.size)
        return image, {**target, "boxes": cropped, "labels": target["labels"][keep]}


class RandomTranspose(nn.Module):
    """A random swap of rows and columns, with probability 0.5. With both flips, this gives all eight orientations.

    Crops that are not square stay as they are, because all crops of a batch must have the same size.
    """

    def forward(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        if image.shape[-1] != image.shape[-2] or torch.rand(()) < 0.5:
            return image, target
        boxes = target["boxes"].as_subclass(Tensor)[:, [1, 0, 3, 2]]
        turned = tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=image.shape[-2:])
        return image.transpose(-1, -2).contiguous(), {**target, "boxes": turned}


def _random_center(boxes: Tensor) -> Tensor | None:
    """Return the center (x, y) of a random box out of boxes [N, 4] xyxy; None if there are no boxes."""
    if len(boxes) == 0:
        return None
    box = boxes[int(torch.randint(len(boxes), ()))]
    return (box[:2] + box[2:]) / 2


def _area(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
