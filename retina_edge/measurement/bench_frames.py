"""The frames of a measurement, which are decoded before it begins, and the times of decoding."""

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

# Size (height, width) and number of the frames that are used if no source is given.
SAMPLE_SIZE, SAMPLE_FRAMES = (1080, 1920), 16
# Limits on the frames in memory. With more frames, the machine could swap during the measurement.
MAX_BYTES, MAX_FRAMES = 500_000_000, 200


def sample_frames() -> list[npt.NDArray[np.uint8]]:
    """Return frames of a flight over a forest, in which the sample model detects trees: uint8 [1080, 1920, 3], BGR.

    Examples:
        >>> frames = sample_frames()
        >>> len(frames), frames[0].shape
        (16, (1080, 1920, 3))
    """
    height, width = SAMPLE_SIZE
    return [
        np.asarray(cv2.resize(frame.image, (width, height)), np.uint8)
        for frame in Flight(read_image(FOREST), frames=SAMPLE_FRAMES)
    ]


def read_frames(sources: Sequence[Source]) -> tuple[list[npt.NDArray[np.uint8]], list[float]]:
    """Read the first frames of sources, as many as the limits allow.

    Returns:
        The frames, uint8 [height, width, 3], BGR, and the milliseconds that reading and decoding each of them took.

    Raises:
        SourceError: if a source cannot be read, or if there are no frames.

    Examples:
        >>> from retina_edge.sources.opening import open_sources
        >>> images, milliseconds = read_frames(open_sources([str(FOREST)]))
        >>> [image.shape for image in images], len(milliseconds)
        ([(622, 2299, 3)], 1)
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
