"""A pool that reuses the memory of frames: new memory costs a page fault for every 4 KiB of a frame."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

# Largest number of images in the pool. A stream rarely uses more at once; further frames get new memory.
MAX_IMAGES = 12

Image = npt.NDArray[np.uint8]


class FramePool:
    """A pool of the images of one stream. An image is reused only when no reference to it or to a view of it is left.

    Examples:
        >>> pool = FramePool()
        >>> pool.add(np.zeros((48, 64, 3), np.uint8))
        >>> pool.take().shape
        (48, 64, 3)
    """

    def __init__(self) -> None:
        self._images: list[Image] = []

    def take(self) -> Image | None:
        """Return an image that may be overwritten; None if all images are still referenced."""
        for number in range(len(self._images)):
            if _references(self._images, number) == _UNREFERENCED:
                return self._images[number]
        return None

    def add(self, image: Image) -> None:
        """Add an image that was just written, unless the pool contains it or is full."""
        if self._images and self._images[0].shape != image.shape:
            self._images.clear()
        if len(self._images) < MAX_IMAGES and not any(image is known for known in self._images):
            self._images.append(image)


def _references(images: list[Image], number: int) -> int:
    return sys.getrefcount(images[number])


# The count that this Python version reports for an image that only the list references.
_UNREFERENCED = _references([np.empty(0, np.uint8)], 0)
