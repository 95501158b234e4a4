"""Images whose memory is used again: a new one for each frame costs a page fault for every 4 KiB of it."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

# Frames of a stream that are on their way at a time: what more there are get memory of their own.
LIMIT = 12

Image = npt.NDArray[np.uint8]


class FramePool:
    """The images of one stream. One is written into again only when nobody holds it, nor a view of it, any more."""

    def __init__(self) -> None:
        self._images: list[Image] = []

    def take(self) -> Image | None:
        """An image to write into; None where all are held."""
        for number in range(len(self._images)):
            if _references(self._images, number) == _NOBODY:
                return self._images[number]
        return None

    def give(self, image: Image) -> None:
        """Remembers an image just written, if it is a new one."""
        if self._images and self._images[0].shape != image.shape:
            self._images.clear()
        if len(self._images) < LIMIT and not any(image is known for known in self._images):
            self._images.append(image)


def _references(images: list[Image], number: int) -> int:
    return sys.getrefcount(images[number])


# Of an image that only such a list holds, as this Python counts.
_NOBODY = _references([np.empty(0, np.uint8)], 0)
