"""A made-up scene, filmed by a camera that moves: a textured ground with objects whose positions are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt

from retina_edge import Detections

FPS = 30.0
HEIGHT, WIDTH = 360, 640
SIDE = 40


def ground(seed: int = 0, height: int = 1200, width: int = 2400) -> npt.NDArray[np.uint8]:
    """Return a ground of random blobs of 5 to 160 pixels, the larger the stronger: uint8 [height, width, 3], BGR."""
    rng, scene = np.random.default_rng(seed), np.zeros((height, width, 3))
    for blob in (5, 10, 20, 40, 80, 160):
        coarse = rng.uniform(-1, 1, (height // blob + 1, width // blob + 1, 3))
        scene += blob**0.5 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(128 + 5 * scene, 0, 255).astype(np.uint8)


def view(scene: npt.NDArray[np.uint8], x: int, y: int) -> npt.NDArray[np.uint8]:
    """Return a copy of what a camera sees whose upper left corner is at (x, y) of the scene."""
    return scene[y : y + HEIGHT, x : x + WIDTH].copy()


def objects_of(boxes: npt.NDArray[np.floating]) -> Detections:
    """Return sure detections of one class."""
    return Detections(
        boxes.astype(np.float32).reshape(-1, 4),
        np.full(len(boxes), 0.9, np.float32),
        np.zeros(len(boxes), np.int32),
        ("car",),
        (0,),
    )


def filmed(path: Sequence[tuple[int, int]], objects: int = 5) -> Iterator[tuple[npt.NDArray[np.uint8], Detections]]:
    """Yield frame and detections along the path of the camera. Objects move at up to 2 pixels a frame on the ground.

    The row of a detection is the identity of its object. The objects start in the middle of the first view.
    """
    scene, rng = ground(), np.random.default_rng(1)
    corner = np.array([path[0][0] + 160, path[0][1] + 140]) + np.arange(objects)[:, None] * [65.0, 0.0]
    speed = rng.uniform(-1, 1, (objects, 2)) * [0.3, 1.0]
    colors = rng.integers(0, 256, (objects, 3)).tolist()
    for x, y in path:
        corner = corner + speed
        image = view(scene, x, y)
        boxes = np.concatenate([corner, corner + SIDE], axis=1) - [x, y, x, y]
        for (left, top, right, bottom), color in zip(np.rint(boxes).astype(int).tolist(), colors, strict=True):
            cv2.rectangle(image, (left, top), (right, bottom), color, cv2.FILLED)
        yield image, objects_of(boxes)
