"""The checks of a data set, the same for every format: records and images become a ``DetectionDataset``."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from engines.core.errors import DataError
from retina_edge.data.dataset import DetectionDataset, LabeledImage
from retina_edge.data.image_scan import ImageLook
from retina_edge.data.records import BoxRecord, ImageRecord, Records

# Annotation tools round differently: a box that reaches this many pixels outside the image is clipped, not refused.
EDGE_TOLERANCE = 1.0
# If at least this share of the boxes lies within one pixel, their coordinates are shares of the image, not pixels.
RELATIVE_SHARE = 0.9
# Values of a relative box beyond this are no rounding, and no box that sticks out, but pixels.
LARGEST_SHARE = 2.0
# Number of images that an error names.
MAX_NAMED = 100

_SKIP = "skip_invalid (--skip-invalid)"


def build_dataset(records: Records, looks: Sequence[ImageLook] | None, *, skip_invalid: bool) -> DetectionDataset:
    """Check the images and the boxes of a data set.

    Args:
        records: records of the annotations.
        looks: what a look at each image found; None if the images are not needed, so that sizes come from the records.
        skip_invalid: leave out images that cannot be used, and skip boxes that have no area or lie outside their image,
            instead of raising an error.

    Raises:
        DataError: for images or boxes that cannot be used. The message names the file, the records and the fix.
    """
    _check_paths(records)
    problems = {} if looks is None else _image_problems(records.images, looks)
    if problems and (not skip_invalid or len(problems) == len(records.images)):
        raise DataError(_names_of_bad_images(records, problems))
    remarks = list(records.remarks)
    if problems:
        remarks.append(f"{records.source.name}: left out: {_listed(records, problems)}")
    sizes = [image.size for image in records.images] if looks is None else [look.size for look in looks]
    boxes = [box for box in records.boxes if box.image not in problems]
    if records.relative:
        _check_shares(records, boxes)
        boxes = [_in_pixels(box, sizes[box.image]) for box in boxes]
    _check_units(records, boxes)
    kept: dict[int, list[tuple[BoxRecord, list[float]]]] = defaultdict(list)
    skipped = 0
    for box in boxes:
        size = sizes[box.image]
        if size is None:
            raise ValueError("expected a size for each image")
        clipped, problem = clip(box.bbox, size)
        if not problem:
            kept[box.image].append((box, clipped))
        elif skip_invalid:
            skipped += 1
        else:
            raise DataError(_bad_box(records, box, size, problem))
    if skipped:
        remarks.append(f"{records.source.name}: {skipped} invalid boxes skipped")
    images = tuple(
        _labeled(image, size, kept[index])
        for index, (image, size) in enumerate(zip(records.images, sizes, strict=True))
        if index not in problems and size is not None
    )
    return DetectionDataset(
        records.source,
        records.class_names,
        records.category_ids,
        images,
        files=records.files,
        skipped=skipped,
        left_out=len(problems),
        remarks=tuple(remarks),
    )


def clip(bbox: Sequence[float], size: tuple[int, int]) -> tuple[list[float], str]:
    """Convert a box (x, y, width, height) to xyxy, clipped to an image of (height, width).

    Returns:
        The box and an empty string; or an empty list and the problem of the box.

    Examples:
        >>> clip([30.5, 0.0, 10.0, 30.4], (30, 40))
        ([30.5, 0.0, 40.0, 30.0], '')
        >>> clip([35.0, 2.0, 10.0, 4.0], (30, 40))
        ([], 'reaches 5 pixels outside the image')
    """
    x, y, width, height = bbox
    image_height, image_width = size
    if width <= 0 or height <= 0:
        return [], "has no area"
    x2, y2 = x + width, y + height
    beyond = max(-x, -y, x2 - image_width, y2 - image_height)
    if beyond > EDGE_TOLERANCE:
        corners = ""
        if x < width <= image_width + EDGE_TOLERANCE and y < height <= image_height + EDGE_TOLERANCE:
            corners = "; it would fit as the corners x1, y1, x2, y2"
        return [], f"reaches {beyond:g} pixels outside the image{corners}"
    box = [max(x, 0.0), max(y, 0.0), min(x2, float(image_width)), min(y2, float(image_height))]
    if box[2] <= box[0] or box[3] <= box[1]:
        return [], "lies outside the image"
    return box, ""


def _check_paths(records: Records) -> None:
    """Refuse two records of one image: each copy would show the objects of the other as background."""
    seen: dict[str, ImageRecord] = {}
    for image in records.images:
        path = os.path.normpath(image.path)
        if path in seen:
            raise DataError(
                f"{records.source}: expected one record for each image, got two for {image.path.name} (image ids "
                f"{seen[path].id} and {image.id}); join them"
            )
        seen[path] = image


def _image_problems(images: Sequence[ImageRecord], looks: Sequence[ImageLook]) -> dict[int, str]:
    """Return the problems of images by index."""
    problems = {}
    for index, (image, look) in enumerate(zip(images, looks, strict=True)):
        if look.size is None:
            problems[index] = look.problem
        elif image.size is not None and image.size != look.size:
            problems[index] = _size_problem(image.size, look.size)
    return problems


def _size_problem(given: tuple[int, int], actual: tuple[int, int]) -> str:
    if given == actual[::-1]:
        return (
            "width and height are exchanged in the record: they count in the upright picture, after its EXIF "
            "orientation, if it has one"
        )
    return (
        f"the record says {given[1]}x{given[0]} pixels (width x height), the file has {actual[1]}x{actual[0]}, so the "
        "boxes would be misplaced"
    )


def _listed(records: Records, problems: Mapping[int, str]) -> str:
    """Return the bad images with their problems, for a message."""
    by_problem: dict[str, list[str]] = defaultdict(list)
    for index, problem in list(problems.items())[:MAX_NAMED]:
        by_problem[problem].append(_name(records.images[index]))
    parts = [f"{', '.join(names)} ({problem})" for problem, names in by_problem.items()]
    more = f" and {len(problems) - MAX_NAMED} more" if len(problems) > MAX_NAMED else ""
    return f"{len(problems)} of {len(records.images)} images: {'; '.join(parts)}{more}"


def _names_of_bad_images(records: Records, problems: Mapping[int, str]) -> str:
    folders = {image.path.parent for image in records.images}
    folder = f" in {next(iter(folders))}" if len(folders) == 1 else ""
    return (
        f"{records.source}: expected images that can be used{folder}, cannot use {_listed(records, problems)}; correct "
        f"or remove the files or their records, or leave them out with {_SKIP}"
    )


def _name(image: ImageRecord) -> str:
    return image.path.name if image.id == image.path.name else f"{image.path.name}, image id {image.id}"


def _check_units(records: Records, boxes: Sequence[BoxRecord]) -> None:
    """Refuse boxes whose coordinates are shares of the image, as YOLO writes them, in a format with pixels."""
    small = sum(max(box.bbox[0] + box.bbox[2], box.bbox[1] + box.bbox[3]) <= 1 for box in boxes)
    if boxes and not records.relative and small >= RELATIVE_SHARE * len(boxes):
        raise DataError(
            f"{records.source}: expected boxes in pixels, got {small} of {len(boxes)} boxes within one pixel, for "
            f"instance {list(boxes[0].bbox)}; if the coordinates are shares of the image, multiply them by its width "
            "and height"
        )


def _check_shares(records: Records, boxes: Sequence[BoxRecord]) -> None:
    """Refuse boxes in pixels in a format with shares of the image."""
    wrong = [box for box in boxes if max(map(abs, box.bbox)) > LARGEST_SHARE]
    if wrong:
        numbers = [round(value, 3) for value in wrong[0].bbox]
        raise DataError(
            f"{records.source}: expected shares of the image from 0 to 1, got {len(wrong)} of {len(boxes)} others, "
            f"such as {numbers} in {wrong[0].where}; if these are pixels, divide them by its width and height"
        )


def _in_pixels(box: BoxRecord, size: tuple[int, int] | None) -> BoxRecord:
    height, width = size or (0, 0)
    bbox = [value * side for value, side in zip(box.bbox, (width, height, width, height), strict=True)]
    return box._replace(bbox=bbox)


def _bad_box(records: Records, box: BoxRecord, size: tuple[int, int], problem: str) -> str:
    numbers = [round(value, 3) for value in box.bbox]
    return (
        f"{records.source}: {box.where}, image {records.images[box.image].path.name} ({size[1]}x{size[0]}): bbox "
        f"{numbers} (x, y, width, height) {problem}; correct the record, or skip such boxes with {_SKIP}"
    )


def _labeled(image: ImageRecord, size: tuple[int, int], rows: Sequence[tuple[BoxRecord, list[float]]]) -> LabeledImage:
    objects = [row for row in rows if not row[0].crowd]
    crowds = [row for row in rows if row[0].crowd]
    truth = [[*box.bbox, box.bbox[2] * box.bbox[3] if box.area is None else box.area] for box, _ in (*objects, *crowds)]
    return LabeledImage(
        id=image.id,
        path=Path(image.path),
        size=size,
        boxes=np.array([clipped for _, clipped in objects], np.float32).reshape(-1, 4),
        labels=np.array([box.label for box, _ in objects], np.int64),
        crowds=np.array([clipped for _, clipped in crowds], np.float32).reshape(-1, 4),
        crowd_labels=np.array([box.label for box, _ in crowds], np.int64),
        truth=np.array(truth, np.float64).reshape(-1, 5),
    )
