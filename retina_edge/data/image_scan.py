"""A look at all images of a data set before the work begins: a damaged file would end a run after hours.

Images are read in parallel, and good ones are remembered in the user's cache folder by path, size and time, so that the
next run starts at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engines.core.atomic_file import atomic_file
from engines.core.contract import BIT_DEPTH
from engines.core.errors import SourceError
from engines.core.processor import usable_cores
from retina_edge.imaging.image_file import read_image
from retina_edge.system.folders import cache_folder

# Seconds between two reports of the progress.
REPORT_SECONDS = 5.0
# Size in bytes, time of the last change in ns, height and width.
_Known = list[int]


@dataclass(frozen=True)
class ImageLook:
    """What a look at an image file found.

    Attributes:
        size: (height, width) upright, pixels; None if the file cannot be used.
        problem: what is wrong with the file, without its name; empty for a good file.
    """

    size: tuple[int, int] | None
    problem: str = ""


def look_at(
    paths: Sequence[Path],
    *,
    name: Path,
    bit_depth: int | None = None,
    on_message: Callable[[str], None] = lambda _line: None,
) -> list[ImageLook]:
    """Read image files, and return what was found, in the order of the paths.

    Args:
        paths: paths of the images.
        name: path of the annotations, which the memory of good files belongs to.
        bit_depth: bits that image files of 16 bits use; None if it is not known yet.
        on_message: called with a line of text about the progress, every few seconds.

    Examples:
        >>> from retina_edge.assets import FOREST
        >>> look_at([FOREST, Path("gone.jpg")], name=Path("val.json"))
        [ImageLook(size=(622, 2299), problem=''), ImageLook(size=None, problem='the file is missing')]
    """
    memory = _memory_file(name, bit_depth)
    known = _recall(memory)
    states = [_state(path) for path in paths]
    looks: list[ImageLook | None] = [
        _from_memory(known.get(str(path.absolute())), state) for path, state in zip(paths, states, strict=True)
    ]
    unknown = [index for index, look in enumerate(looks) if look is None]
    if unknown:
        with ThreadPoolExecutor(usable_cores()) as pool:  # OpenCV decodes without Python's lock
            found = pool.map(partial(_look, bit_depth), [paths[index] for index in unknown])
            for index, look in zip(unknown, _reported(found, len(unknown), on_message), strict=True):
                looks[index] = look
        _remember(memory, known, paths, states, looks)
    return [look for look in looks if look is not None]


def _look(bit_depth: int | None, path: Path) -> ImageLook:
    if not os.path.isfile(path):  # Path.is_file raises an error for a name that is too long
        return ImageLook(None, "the file is missing")
    try:
        height, width = read_image(path, bit_depth or BIT_DEPTH, warn=False).shape[:2]
    except SourceError as error:
        return ImageLook(None, str(error).removeprefix(f"{path}: "))
    return ImageLook((height, width))


def _reported(looks: Iterable[ImageLook], total: int, on_message: Callable[[str], None]) -> Iterable[ImageLook]:
    last = time.monotonic()
    for done, look in enumerate(looks):
        if time.monotonic() - last > REPORT_SECONDS:
            last = time.monotonic()
            on_message(f"looked at {done} of {total} images")
        yield look


def _state(path: Path) -> tuple[int, int] | None:
    """Return the size and the time of the last change of a file; None if it cannot be found."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def _from_memory(known: _Known | None, state: tuple[int, int] | None) -> ImageLook | None:
    if known is None or state is None or tuple(known[:2]) != state:
        return None
    return ImageLook((known[2], known[3]))


def _memory_file(name: Path, bit_depth: int | None) -> Path | None:
    """Return the file that remembers the images of a data set; None if there is no cache folder."""
    folder = cache_folder("images")
    digest = hashlib.sha256(b"%s %d" % (os.fsencode(name.absolute()), bit_depth or BIT_DEPTH)).hexdigest()[:16]
    return None if folder is None else folder / f"{digest}.json"


def _recall(memory: Path | None) -> dict[str, _Known]:
    """Return what is remembered; nothing if the file is missing or damaged."""
    try:
        content = json.loads(memory.read_bytes()) if memory else {}
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        path: known
        for path, known in content.items()
        if isinstance(known, list) and len(known) == 4 and all(type(value) is int for value in known)
    }


def _remember(
    memory: Path | None,
    known: dict[str, _Known],
    paths: Sequence[Path],
    states: Sequence[tuple[int, int] | None],
    looks: Sequence[ImageLook | None],
) -> None:
    """Remember the good files. The memory only saves time, so an error is ignored."""
    if memory is None:
        return
    for path, state, look in zip(paths, states, looks, strict=True):
        if state and look and look.size:
            known[str(path.absolute())] = [*state, *look.size]
    with suppress(OSError), atomic_file(memory) as file:
        file.write(json.dumps(known).encode())
