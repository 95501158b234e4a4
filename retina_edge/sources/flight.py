"""A simulated flight over a large image, as a source of frames."""

from __future__ import annotations

import math
from collections.abc import Iterator

import cv2

from engines.core.letterbox import BgrImage
from retina_edge.sources.frames import Frame, Source, SourceInfo

# (height, width) of the frames, pixels.
WINDOW = (416, 736)
FPS = 25.0
# Sweeps across the image: enough for the frames together to show every part of it.
SWEEPS = 4


class Flight(Source):
    """A window that moves over one large image, by fractions of a pixel, like the view of a camera.

    The window moves along the width while it sweeps over the height. At both ends it stops moving along the width for
    half a sweep, so that the corners come into view.

    Args:
        ground: image to fly over, uint8 [height, width, 3], BGR, at least as large as the window.
        frames: number of frames of the whole flight.
        window: (height, width) of the frames, pixels.

    Examples:
        >>> import numpy as np
        >>> flight = Flight(np.zeros((625, 1900, 3), np.uint8), frames=2)
        >>> [frame.image.shape for frame in flight]
        [(416, 736, 3), (416, 736, 3)]
    """

    def __init__(self, ground: BgrImage, *, frames: int, window: tuple[int, int] = WINDOW) -> None:
        super().__init__()
        self.name = "flight"
        self.output_names = ("flight.mp4",)
        self.info = SourceInfo(window, FPS, frames)
        self._ground = ground
        self._window = window
        self._frames = frames

    def corner(self, index: int) -> tuple[float, float]:
        """Return the top left corner (x, y) of the window of a frame, in pixels of the ground."""
        time = index / max(1, self._frames - 1)
        wait = 1 / (2 * SWEEPS)
        along = min(1.0, max(0.0, (time - wait) / (1 - 2 * wait)))
        along = along * along * (3 - 2 * along)  # smooth start and stop
        across = 0.5 - 0.5 * math.cos(2 * math.pi * SWEEPS * time)
        height, width = (whole - part for whole, part in zip(self._ground.shape[:2], self._window, strict=True))
        return along * width, across * height

    def __iter__(self) -> Iterator[Frame]:
        height, width = self._window
        for index in range(self._frames):
            x, y = self.corner(index)
            center = (x + (width - 1) / 2, y + (height - 1) / 2)
            image = self.pool.take(height, width)
            cv2.getRectSubPix(self._ground, (width, height), center, image)
            yield Frame(image, index, index / FPS, self.name)
            del image  # a reference here would keep the pool from using the memory again
