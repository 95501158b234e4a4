"""A generated data set: shapes of three classes, rendered over windows of the forest.

No tree in it is labeled, so a recipe cannot gain here by fitting the sample data.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.forest_frame import forest_frame

CLASSES = ("disc", "square", "triangle")
SIDE = 160
# Sizes of a shape, pixels: from one and a half strides of the finest level to 0.4 of the image.
SMALLEST, LARGEST = 12, 64
# Share of the forest that shows through a shape, so that no shape has a single color.
THROUGH = 0.25
# Largest number of objects in an image, and attempts to place one without overlap.
OBJECTS, TRIES = 8, 20
Image = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]


def write_shapes(folder: Path, *, train: int, val: int, seed: int = 0) -> tuple[Path, Path]:
    """Write ``images/``, ``train.json`` and ``val.json`` in COCO format, and return the two annotation files.

    Args:
        folder: folder to write to; created if it is missing.
        train, val: numbers of images.
        seed: seed of all random numbers.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    forest = forest_frame()
    paths = []
    for number, (part, count) in enumerate((("train", train), ("val", val))):
        generator = np.random.default_rng((seed, number))
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for image_id in range(count):
            image, objects = render(forest, generator)
            name = f"{part}_{image_id:04}.jpg"
            cv2.imwrite(str(folder / "images" / name), image)
            images.append({"id": image_id, "file_name": name, "height": SIDE, "width": SIDE})
            for label, (x1, y1, x2, y2) in objects:
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": label + 1,
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                    }
                )
        categories = [{"id": label + 1, "name": name} for label, name in enumerate(CLASSES)]
        path = folder / f"{part}.json"
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        paths.append(path)
    return paths[0], paths[1]


def render(forest: Image, generator: np.random.Generator) -> tuple[Image, list[tuple[int, Box]]]:
    """Render an image, BGR uint8 [160, 160, 3]; return it with the label and the box (xyxy, pixels) of each shape."""
    top, left = (int(generator.integers(0, side - SIDE + 1)) for side in forest.shape[:2])
    image = forest[top : top + SIDE, left : left + SIDE].copy()
    objects: list[tuple[int, Box]] = []
    for _ in range(int(generator.integers(1, OBJECTS + 1))):
        for _ in range(TRIES):
            # Log-uniform: as many shapes of 12 to 24 pixels as of 24 to 48.
            size = round(float(np.exp(generator.uniform(np.log(SMALLEST), np.log(LARGEST)))))
            x, y = (int(value) for value in generator.integers(0, SIDE - size + 1, 2))
            label = int(generator.integers(len(CLASSES)))
            mask = _mask(label, x, y, size)
            box = _box(mask)
            if all(_apart(box, other) for _, other in objects):
                color = generator.integers(0, 256, 3)
                mixed = THROUGH * image[mask] + (1 - THROUGH) * color
                image[mask] = mixed.astype(np.uint8)
                objects.append((label, box))
                break
    return image, objects


def _mask(label: int, x: int, y: int, size: int) -> npt.NDArray[np.bool_]:
    """Return the pixels of an upright shape. The classes of turned shapes take more than 1,000 steps to learn."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    radius, center = (size - 1) / 2, (x + (size - 1) / 2, y + (size - 1) / 2)
    if CLASSES[label] == "disc":
        cv2.circle(canvas, (round(center[0]), round(center[1])), max(1, int(radius)), 1, -1)
    else:
        corners, turn = (4, np.pi / 4) if CLASSES[label] == "square" else (3, -np.pi / 2)
        angles = turn + np.arange(corners) * 2 * np.pi / corners
        points = np.stack([center[0] + radius * np.cos(angles), center[1] + radius * np.sin(angles)], axis=1)
        cv2.fillPoly(canvas, [np.round(points).astype(np.int32)], 1)
    return canvas.astype(bool)


def _box(mask: npt.NDArray[np.bool_]) -> Box:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _apart(box: Box, other: Box) -> bool:
    return box[2] <= other[0] or other[2] <= box[0] or box[3] <= other[1] or other[3] <= box[1]
