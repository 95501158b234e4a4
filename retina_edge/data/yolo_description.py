"""The description of a YOLO data set: ``data.yaml`` of Ultralytics, or ``obj.data`` of darknet and CVAT."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.errors import DataError
from retina_edge.data.records import as_whole, check_distinct, class_name, needs_supervision, shown

# Suffixes of descriptions: that of Ultralytics, and that of darknet.
YAML, DARKNET = (".yaml", ".yml"), ".data"
# Names of descriptions, in the folder of the data set.
DESCRIPTIONS = ("data.yaml", "data.yml", "dataset.yaml", "obj.data")
# Names of the parts in a description.
PARTS = {"train": ("train",), "val": ("val", "valid", "validation", "test")}


@dataclass(frozen=True)
class YoloDescription:
    """What is known of a part of a YOLO data set before its images and labels are read.

    Attributes:
        path: the description, or the file of class names if there is none.
        names: names of the classes, in the order of their numbers.
        entries: folders and lists of the images, as they are written; empty if there is no such part.
        roots: folders that the entries are relative to.
        files: the files that were read.
        keypoint_values: number of values that follow a box; 0 without key points.
        labels: a folder that may hold the labels of all images, whatever the folder of the image; None if there is
            none.
    """

    path: Path
    names: tuple[str, ...]
    entries: Sequence[Any]
    roots: tuple[Path, ...]
    files: tuple[Path, ...]
    keypoint_values: int = 0
    labels: Path | None = None


def find_description(folder: Path) -> Path | None:
    """Return the description in a folder; None if there is none."""
    return next((folder / name for name in DESCRIPTIONS if (folder / name).is_file()), None)


def read_description(path: Path, part: str) -> YoloDescription:
    """Read the description of a part of a YOLO data set.

    Args:
        path: path of ``data.yaml`` or ``obj.data``.
        part: ``train`` or ``val``.

    Raises:
        DataError: if a file is missing or damaged; the message names the file.
        MissingDependencyError: if PyYAML, which supervision brings, is not installed.
    """
    darknet = path.suffix.lower() == DARKNET
    content = _read_darknet(path) if darknet else _read_yaml(path)
    root = content.get("path")
    roots = [path.parent / root] if isinstance(root, str) else []
    roots.append(path.parent)
    files = [path]
    if darknet:
        roots.append(path.parent.parent)  # darknet runs in the folder above data/ or cfg/
        files.append(_existing(path, "names", content.get("names"), roots))
        names = names_in(files[1])
    else:
        names = _class_names(path, content.get("names"))
    entries: Any = next((content[key] for key in PARTS[part] if content.get(key)), [])
    return YoloDescription(
        path,
        names,
        entries if isinstance(entries, list) else [entries],
        tuple(roots),
        tuple(files),
        _keypoint_values(path, content.get("kpt_shape")),
    )


def names_in(path: Path) -> tuple[str, ...]:
    """Return the class names of a file that has one in each line.

    Raises:
        DataError: if the file cannot be read, or has no names, an empty line between them, or a name twice.
    """
    lines = list(read_lines(path, keep_empty=True))
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{path}: expected the names of the classes, one a line, got an empty file")
    names = tuple(class_name(line, f"{path}: line {number}") for number, line in enumerate(lines, 1))
    check_distinct(names, str(path))
    return names


def read_lines(path: Path, *, keep_empty: bool = False) -> Sequence[str]:
    """Return the lines of a text file, without the space around them.

    Raises:
        DataError: if the file cannot be read, or is not text in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise DataError(f"{path}: expected text in UTF-8, got something else ({error})") from error
    return [stripped for line in text.splitlines() if (stripped := line.strip()) or keep_empty]


def meant_paths(entry: str, roots: Iterable[Path]) -> list[Path]:
    """Return the paths that an entry of a description or of a list may mean.

    Roboflow writes ``../train/images``, darknet and CVAT write ``data/train.txt``, for what is in the folder of the
    description itself.

    Examples:
        >>> [str(path) for path in meant_paths("data/train.txt", [Path("set")])]
        ['set/data/train.txt', 'set/train.txt']
    """
    slashed = entry.replace("\\", "/")
    # A backslash separates folders on Windows only; elsewhere it may be part of a name.
    names = dict.fromkeys((slashed, slashed.removeprefix("../"), slashed.removeprefix("data/"), entry))
    return [root / name for root in roots for name in names]


def _existing(description: Path, key: str, value: Any, roots: Iterable[Path]) -> Path:
    paths = meant_paths(value, roots) if isinstance(value, str) else []
    path = next((path for path in paths if os.path.isfile(path)), None)
    if path is None:
        raise DataError(
            f"{description}: {key}: expected the path of a file, got {shown(value)}; looked for "
            f"{' and '.join(map(str, paths)) or 'none'}"
        )
    return path


def _read_darknet(path: Path) -> Mapping[str, Any]:
    """Return the values of lines such as ``train = data/train.txt``."""
    content = {}
    for number, line in enumerate(read_lines(path, keep_empty=True), 1):
        key, equals, value = line.partition("=")
        if equals:
            content[key.strip().lower()] = value.strip()
        elif line and line[0] not in "#;":
            raise DataError(f"{path}: line {number}: expected a line such as train = data/train.txt, got {shown(line)}")
    return content


def _read_yaml(path: Path) -> Mapping[str, Any]:
    with needs_supervision("YOLO"):
        import yaml
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: expected the YAML of a YOLO data set, cannot parse it: {reason}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected the YAML of a YOLO data set with names, train and val, got something else")
    return content


def _class_names(path: Path, names: Any) -> tuple[str, ...]:
    """Return the class names in the order of their numbers, from a list or from a mapping of numbers to names."""
    if isinstance(names, dict):
        numbers = [as_whole(key) for key in names]
        if sorted(number for number in numbers if number is not None) == list(range(len(names))):
            names = [
                name for _, name in sorted(zip(numbers, names.values(), strict=True), key=lambda item: item[0] or 0)
            ]
    if not isinstance(names, list) or not names:
        raise DataError(f"{path}: names: expected a list of class names, or names for 0, 1, ..., got {shown(names)}")
    result = tuple(class_name(name, f"{path}: names") for name in names)
    check_distinct(result, f"{path}: names")
    return result


def _keypoint_values(path: Path, shape: Any) -> int:
    """Return the number of values that follow the box in a line with key points; 0 without key points."""
    if shape is None:
        return 0
    if not isinstance(shape, list) or len(shape) != 2 or not all(as_whole(value) for value in shape):
        raise DataError(f"{path}: kpt_shape: expected [number of key points, 2 or 3], got {shown(shape)}")
    return int(shape[0]) * int(shape[1])
