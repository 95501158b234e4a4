"""The records of an annotation format before they are checked, and the values of their fields.

Every format is read into these records, so that all formats get the same checks. Annotation tools write numbers as
text, whole numbers as floats, and flags as ``null``. A value is taken if it has only one meaning, otherwise refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from engines.core.errors import DataError, MissingDependencyError

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?")
# Text with leading zeros, such as 0012, is a name and not the number 12.
_WHOLE = re.compile(r"(-?(?:0|[1-9]\d{0,17}))(?:\.0*)?")


@dataclass(frozen=True)
class ImageRecord:
    """The record of an image.

    Attributes:
        id: id of the image in the annotations.
        path: path of the image file.
        size: (height, width) that the record gives, pixels; None if the format has no sizes.
    """

    id: int | str
    path: Path
    size: tuple[int, int] | None


class BoxRecord(NamedTuple):
    """The record of an object. A large data set has a million of them, which a tuple makes in half the time.

    Attributes:
        where: name of the record in messages, for instance ``annotation id 7``.
        image: index of the image.
        label: index of the class.
        bbox: x, y, width, height in pixels, or as shares of the image if the format is relative.
        area: area of the object, pixels; None for the area of the box.
        crowd: True for a region of many objects.
    """

    where: str
    image: int
    label: int
    bbox: Sequence[float]
    area: float | None = None
    crowd: bool = False


@dataclass(frozen=True)
class Records:
    """The records of a data set.

    Attributes:
        source: path of the annotations, as ``DetectionDataset.annotations``.
        class_names, category_ids, files, remarks: as in ``DetectionDataset``.
        images: records of the images.
        boxes: records of the objects.
        relative: True if boxes are shares of the image.
    """

    source: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    images: tuple[ImageRecord, ...]
    boxes: tuple[BoxRecord, ...]
    files: tuple[Path, ...]
    relative: bool = False
    remarks: tuple[str, ...] = ()


def as_number(value: Any) -> float | None:
    """Return a finite number, also from text; None for anything else.

    Examples:
        >>> as_number(" 1.5"), as_number(True), as_number("nan")
        (1.5, None, None)
    """
    if type(value) is float and math.isfinite(value):  # the usual case first, because files are large
        return value
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_whole(value: Any) -> int | None:
    """Return a whole number, also from text and from a float without a fraction; None for anything else.

    Examples:
        >>> as_whole(160.0), as_whole("160"), as_whole("0160"), as_whole(1.5)
        (160, 160, None, None)
    """
    if type(value) is int and -(2**63) < value < 2**63:  # the usual case first, because files are large
        return value
    if isinstance(value, str):
        match = _WHOLE.fullmatch(value.strip())
        return int(match[1]) if match else None
    if isinstance(value, float):
        return int(value) if value.is_integer() and abs(value) < 2**53 else None
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def as_id(value: Any) -> int | str | None:
    """Return an id: a whole number, or a text that is none; None for anything else.

    Examples:
        >>> as_id("7"), as_id(7.0), as_id("img_0007"), as_id(True), as_id("")
        (7, 7, 'img_0007', None, None)
    """
    whole = as_whole(value)
    return whole if whole is not None or not isinstance(value, str) else value or None


def as_flag(value: Any) -> bool | None:
    """Return a flag from 0, 1, true, false, null or the text of a digit; None for anything else.

    Examples:
        >>> as_flag("1"), as_flag(0.0), as_flag(None), as_flag("no")
        (True, False, False, None)
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    whole = as_whole(value)
    return bool(whole) if whole in (0, 1) else None


def class_name(value: Any, where: str) -> str:
    """Return the name of a class.

    Args:
        value: value of a file.
        where: file and record, for the message.

    Raises:
        DataError: if it is no text, or empty. YAML turns names such as yes, no and 010 into other values.

    Examples:
        >>> class_name("tree", "data.yaml")
        'tree'
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        raise DataError(f"{where}: name: expected text, got {shown(value)}; write it in quotes")
    return str(value)


def check_distinct(names: Sequence[str], where: str) -> None:
    """Check that no two classes have the same name.

    Args:
        names: names of the classes.
        where: file and record, for the message.

    Raises:
        DataError: if a name occurs twice.

    Examples:
        >>> check_distinct(("tree", "shrub"), "data.yaml: names")
    """
    if len(set(names)) != len(names):
        raise DataError(f"{where}: expected each name once, got {', '.join(names)}; give them different names")


@contextmanager
def needs_supervision(kind: str) -> Iterator[None]:
    """Import supervision, or a package that it brings, in a ``with`` block that says how to install it.

    Args:
        kind: format of the data set, for the message.

    Raises:
        MissingDependencyError: if the import in the block fails.

    Examples:
        >>> with needs_supervision("YOLO"):
        ...     import yaml
    """
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(
            f"a {kind} data set needs supervision ({error}): pip install 'retina-edge[train]'"
        ) from error


def shown(value: Any) -> str:
    """Return a value of a file for a message: its JSON, at most 100 characters, without control characters."""
    try:
        text = json.dumps(value)
    except (ValueError, RecursionError):  # numbers of thousands of digits, deep nesting
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= 100 else f"{text[:100]}..."
