"""Results of a pipeline, as sinks get them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from retina_edge.detections import Detections
from retina_edge.pipeline.result import Result
from retina_edge.sources.frames import Frame
from tests.stand_in import patch_frame


def result(
    index: int = 0,
    *,
    size: tuple[int, int] = (64, 96),
    name: str = "a.jpg",
    count: int = 1,
    live: bool = False,
    fps: float = 25,
) -> Result:
    """Return a result of stream ``a`` with ``count`` equal detections; without detections, it has no timestamp."""
    detections = Detections(
        np.array([[1, 2, 30.123456, 40]] * count, np.float32).reshape(count, 4),
        np.full(count, 0.75, np.float32),
        np.full(count, 1, np.int32),
        ("person", "naïve"),
        (1, 2),
    )
    image = patch_frame(size, (8, 8))
    return Result(Frame(image, index, None if count == 0 else index / fps, name), detections, "a", live)


def noise(index: int, *, name: str = "a.png", stream: str = "a") -> Result:
    """Return a result whose image no codec can compress."""
    image = np.random.default_rng(index).integers(0, 256, (240, 320, 3), np.uint8)
    return replace(result(), frame=Frame(image, index, index / 25, name), stream=stream)
