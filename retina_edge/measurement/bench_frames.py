"""Frames to measure with, decoded beforehand and timed on the way."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter

import cv2
import numpy as np
import numpy.typing as npt

from engines.core.errors import SourceError
from retina_edge.assets import FOREST
from retina_edge.imaging.image_file import read_image
from retina_edge.sources.flight import Flight
from retina_edge.sources.frames import Source

# 1080p, of the flight over the forest, where no source is given.
SAMPLE_SIZE, SAMPLE_FRAMES = (1080, 1920), 16
# Kept in memory: more would measure how fast the machine swaps.
MAX_BYTES, MAX_FRAMES = 500_000_000, 200


def sample_frames() -> list[npt.NDArray[np.uint8]]:
    """Frames of 1080p that the network finds something in: uint8 [1080, 1920, 3], BGR."""
    height, width = SAMPLE_SIZE
    return [
        np.asarray(cv2.resize(frame.image, (width, height)), np.uint8)
        for frame in Flight(read_image(FOREST), frames=SAMPLE_FRAMES)
    ]


def read_frames(sources: Sequence[Source]) -> tuple[list[npt.NDArray[np.uint8]], list[float]]:
    """The first frames of sources, as many as fit, and the milliseconds that decoding each took.

    Raises:
        SourceError: one cannot be read, or there are no frames.
    """
    images: list[npt.NDArray[np.uint8]] = []
    milliseconds: list[float] = []
    for source in sources:
        with source:
            frames = iter(source)
            while len(images) < MAX_FRAMES and sum(image.nbytes for image in images) < MAX_BYTES:
                start = perf_counter()
                if (frame := next(frames, None)) is None:
                    break
                milliseconds.append(1000 * (perf_counter() - start))
                images.append(frame.image)
    if not images:
        raise SourceError(f"{', '.join(source.name for source in sources)}: expected frames, found none")
    return images, milliseconds
