"""Make a small data set and a video: discs, squares and triangles on a cluttered background.

    python examples/first_hour/make_pictures.py shapes

The folder then holds ``images/``, ``train.json`` (18 pictures) and ``val.json`` (6 pictures) in COCO format, and
``video.mp4``, in which shapes move. The pictures have 640x480 pixels; each shape fits a circle of 12 to 120 pixels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

CLASSES = ("disc", "square", "triangle")
WIDTH, HEIGHT = 640, 480
SMALLEST, LARGEST = 12, 120
OBJECTS = (4, 9)  # the fewest and the most in a picture
TRAIN, VAL = 18, 6
FRAMES, FPS = 90, 15

Image = npt.NDArray[np.uint8]


class Shape:
    """A shape: its class, center, size, turn and color."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.label = int(generator.integers(len(CLASSES)))
        self.size = float(np.exp(generator.uniform(np.log(SMALLEST), np.log(LARGEST))))
        half = self.size / 2 + 1
        self.center = generator.uniform((half, half), (WIDTH - half, HEIGHT - half))
        self.turn = float(generator.uniform(0, 2 * np.pi))
        self.color = generator.integers(0, 256, 3)
        self.velocity = generator.uniform(-3, 3, 2)  # pixels a frame

    def mask(self) -> npt.NDArray[np.bool_]:
        """Return the pixels of the shape, [480, 640]."""
        canvas, radius = np.zeros((HEIGHT, WIDTH), np.uint8), self.size / 2
        if CLASSES[self.label] == "disc":
            cv2.circle(canvas, tuple(round(value) for value in self.center), round(radius), 1, -1)
        else:
            corners = 4 if CLASSES[self.label] == "square" else 3
            angles = self.turn + np.arange(corners) * 2 * np.pi / corners
            points = self.center + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
            cv2.fillPoly(canvas, [np.round(points).astype(np.int32)], 1)
        return canvas.astype(bool)


def background(generator: np.random.Generator) -> Image:
    """Return smooth clouds of color with fine noise, BGR uint8 [480, 640, 3]."""
    clouds = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    for cells in (3, 8, 24):
        coarse = generator.uniform(-1, 1, (cells, cells, 3)).astype(np.float32)
        fine = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
        clouds = clouds + np.asarray(fine, np.float32) * (100 / cells**0.5)
    clouds += 128 + generator.normal(0, 6, clouds.shape).astype(np.float32)
    return np.clip(clouds, 0, 255).astype(np.uint8)


def draw(picture: Image, shapes: list[Shape]) -> list[list[int]]:
    """Draw shapes into a picture, and return their boxes: x, y, width, height, pixels."""
    boxes = []
    for shape in shapes:
        mask = shape.mask()
        picture[mask] = (0.2 * picture[mask] + 0.8 * shape.color).astype(np.uint8)
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        x, y = int(columns[0]), int(rows[0])
        boxes.append([x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y])
    return boxes


def some_shapes(generator: np.random.Generator) -> list[Shape]:
    """Return shapes that do not overlap."""
    shapes: list[Shape] = []
    wanted = int(generator.integers(OBJECTS[0], OBJECTS[1] + 1))
    while len(shapes) < wanted:
        shape = Shape(generator)
        apart = (np.linalg.norm(shape.center - other.center) > (shape.size + other.size) / 2 + 2 for other in shapes)
        if all(apart):
            shapes.append(shape)
    return shapes


def write_set(folder: Path, name: str, count: int, generator: np.random.Generator) -> None:
    """Write pictures, and their annotations in COCO format."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(count):
        picture, shapes = background(generator), some_shapes(generator)
        file_name = f"{name}_{number:02}.jpg"
        images.append({"id": number, "file_name": file_name, "width": WIDTH, "height": HEIGHT})
        for shape, box in zip(shapes, draw(picture, shapes), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": shape.label + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        cv2.imwrite(str(folder / "images" / file_name), picture)
    categories = [{"id": label + 1, "name": class_name} for label, class_name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / f"{name}.json").write_text(json.dumps(content, indent=1))


def write_video(path: Path, generator: np.random.Generator) -> None:
    """Write a video in which shapes move over a background and bounce off the edges."""
    still, shapes = background(generator), some_shapes(generator)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    for _ in range(FRAMES):
        picture = still.copy()
        draw(picture, shapes)
        writer.write(picture)
        for shape in shapes:
            half, limits = shape.size / 2 + 1, np.array((WIDTH, HEIGHT))
            ahead = shape.center + shape.velocity
            shape.velocity[(ahead < half) | (ahead > limits - half)] *= -1
            shape.center = shape.center + shape.velocity
            shape.turn += 0.02
    writer.release()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random numbers (default: 1)")
    args = parser.parse_args()
    (args.folder / "images").mkdir(parents=True, exist_ok=True)
    for number, (name, count) in enumerate((("train", TRAIN), ("val", VAL))):
        write_set(args.folder, name, count, np.random.default_rng((args.seed, number)))
    write_video(args.folder / "video.mp4", np.random.default_rng((args.seed, 2)))
    print(f"{args.folder}: {TRAIN} pictures to train, {VAL} to measure, and video.mp4")


if __name__ == "__main__":
    main()
