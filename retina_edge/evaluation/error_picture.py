"""Pictures of a detector's errors: the objects that it found, those that it missed, and boxes without an object."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from engines.core.contract import BIT_DEPTH
from engines.core.letterbox import BgrImage
from retina_edge.data.dataset import DetectionDataset, LabeledImage
from retina_edge.detections import Detections
from retina_edge.evaluation.confusion import ImageOutcome, match_image
from retina_edge.imaging.drawing import BLACK, Color, draw_label, label_size
from retina_edge.imaging.scaling import limited

# Colors (BGR) from the palette of Okabe and Ito, and the width of lines, pixels.
FOUND_COLOR: Color = (233, 180, 86)  # sky blue
MISSED_COLOR: Color = (0, 159, 230)  # orange
WRONG_COLOR: Color = (167, 121, 204)  # reddish purple
WIDTH = 2


def draw_errors(
    image: LabeledImage,
    detections: Detections,
    dataset: DetectionDataset,
    *,
    score: float,
    side: int,
    bit_depth: int = BIT_DEPTH,
) -> BgrImage:
    """Draw found objects, missed objects, and boxes that are wrong.

    A found object has the box of its detection in blue. A missed object has its own box in orange. A box that is no
    object, has the wrong class or lies badly is purple, with its class and score.

    Args:
        image: image of the data set.
        detections: detections in this image.
        dataset: data set of the image.
        score: boxes that score this or less are not drawn.
        side: longest side of the picture, pixels; the image is made smaller, never larger.
        bit_depth: bits that an image file of 16 bits uses.

    Returns:
        The picture, uint8 [height, width, 3], BGR.

    Raises:
        SourceError: if the image cannot be decoded.

    Examples:
        >>> from retina_edge.data.load import load_dataset
        >>> data = load_dataset("tests/data/treecrowns/val.json", None)
        >>> draw_errors(data.images[0], Detections.empty(["tree"], [1]), data, score=0.4, side=200).shape
        (200, 200, 3)
    """
    frame = image.read(bit_depth)
    scale = min(1.0, side / max(frame.shape[:2]))
    picture = limited(frame, side).copy()
    outcome = match_image(detections, image, dataset, score)
    found = outcome.found(image, dataset)
    missed = ~np.isin(np.arange(len(image.boxes)), outcome.taken)
    several = len(dataset.class_names) > 1
    boxes = outcome.detections
    texts = [
        f"{name} {value:.2f}" if several else f"{value:.2f}"
        for name, value in zip(boxes.names, boxes.scores.tolist(), strict=True)
    ]
    names = [dataset.class_names[label] if several else "" for label in image.labels.tolist()]
    wrong = ~found & ((outcome.taken >= 0) | outcome.false_alarms)
    _draw(picture, scale * boxes.boxes[found], [""] * int(found.sum()), FOUND_COLOR)
    _draw(picture, scale * image.boxes[missed], _chosen(names, missed), MISSED_COLOR)
    _draw(picture, scale * boxes.boxes[wrong], _chosen(texts, wrong), WRONG_COLOR)
    return picture


def count_errors(outcome: ImageOutcome, image: LabeledImage, dataset: DetectionDataset) -> tuple[int, int]:
    """Return the number of objects that were not found, and the number of false alarms."""
    return len(image.boxes) - int(outcome.found(image, dataset).sum()), int(outcome.false_alarms.sum())


def examples(dataset: DetectionDataset, count: int) -> list[int]:
    """Return the indices of images with objects, evenly spaced over a data set.

    Args:
        dataset: the data set.
        count: number of indices, at most.

    Examples:
        >>> from retina_edge.data.load import load_dataset
        >>> examples(load_dataset("tests/data/treecrowns/val.json", None), 4)
        [0, 5, 10, 15]
    """
    labeled = [index for index, image in enumerate(dataset.images) if len(image.boxes)]
    places = np.linspace(0, len(labeled) - 1, min(count, len(labeled))).round().astype(int)
    return [labeled[place] for place in places]


def _draw(picture: BgrImage, boxes: npt.NDArray[np.floating], texts: Sequence[str], color: Color) -> None:
    corners = np.round(boxes).astype(int).tolist()
    for x1, y1, x2, y2 in corners:
        cv2.rectangle(picture, (x1, y1), (x2, y2), BLACK, WIDTH + 2)
        cv2.rectangle(picture, (x1, y1), (x2, y2), color, WIDTH)
    for (x1, y1, _, _), text in zip(corners, texts, strict=True):
        plain = text.encode("ascii", "replace").decode()  # OpenCV can only draw ASCII
        if plain and label_size(picture, plain)[0] <= picture.shape[1]:
            draw_label(picture, plain, (x1, y1), color)


def _chosen(texts: Sequence[str], rows: npt.NDArray[np.bool_]) -> list[str]:
    return [text for text, chosen in zip(texts, rows.tolist(), strict=True) if chosen]
