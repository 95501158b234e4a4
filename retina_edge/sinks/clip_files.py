"""The files of clips: their names, and the descriptions beside them.

A clip is ``STREAM-20261126T070000.000Z-0123abcd.webm``: the stream, the time of the first event in UTC, and random
digits. The file of this name that ends in ``.json`` describes it. The description is written first, so each clip has
one. While a clip is incomplete, its name ends in ``.partial.mkv``.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from engines.core.file_lock import is_left
from retina_edge.sources.stream_names import NAME
from retina_edge.system.timestamps import file_time

SUFFIX, DESCRIPTION_SUFFIX, PARTIAL_SUFFIX = ".webm", ".json", ".partial.mkv"
_STEM = rf"(?P<stream>{NAME.pattern})-(?P<time>\d{{8}}T\d{{6}}\.\d{{3}}Z)-[0-9a-f]{{8}}"
CLIP = re.compile(_STEM + re.escape(SUFFIX), re.ASCII)
PARTIAL = re.compile(_STEM + re.escape(PARTIAL_SUFFIX), re.ASCII)
DESCRIPTION = re.compile(_STEM + r"(\.partial)?" + re.escape(DESCRIPTION_SUFFIX), re.ASCII)


@dataclass(frozen=True)
class ClipFile:
    """A clip on the disk.

    Attributes:
        name: file name.
        stream: name of the stream.
        time: time of the first event, ISO 8601 in UTC.
        before: seconds from the first frame of the clip to the first event.
        duration: seconds from the first frame to the last one.
        lost: frames that are missing because memory was short.
        bytes: size of the file.
        events: the events that the clip shows, as they were delivered.

    Examples:
        >>> name, time = "a-20261126T070000.000Z-0123abcd.webm", "2026-11-26T07:00:00.000Z"
        >>> ClipFile(name, "a", time, before=5.0, duration=10.0, lost=0, bytes=80_000, events=[]).bytes
        80000
    """

    name: str
    stream: str
    time: str
    before: float
    duration: float
    lost: int
    bytes: int
    events: list[dict[str, Any]]


def clip_name(stream: str, moment: datetime) -> str:
    """Return a new name for the clip of a stream whose first event was at ``moment``, in UTC.

    Examples:
        >>> from datetime import timezone
        >>> clip_name("gate", datetime(2026, 11, 26, 7, tzinfo=timezone.utc))[:26]
        'gate-20261126T070000.000Z-'
    """
    return f"{stream}-{file_time(moment)}-{secrets.token_hex(4)}{SUFFIX}"


def write_description(clip: Path, *, time: str, before: float, duration: float, lost: int, events: list[Any]) -> None:
    """Write the description of a clip, whole or not at all.

    Args:
        clip: path of the clip.
        time, before, duration, lost, events: as in ``ClipFile``.

    Raises:
        OSError: if the file cannot be written.
    """
    values = {
        "time": time,
        "before": round(before, 3),
        "duration": round(duration, 3),
        "lost": lost,
        "events": events,
    }
    partial = clip.with_suffix(".partial" + DESCRIPTION_SUFFIX)
    try:
        partial.write_text(json.dumps(values), encoding="utf-8")
        os.replace(partial, clip.with_suffix(DESCRIPTION_SUFFIX))
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise


def newest_clips(folder: Path, stream: str, limit: int) -> list[ClipFile]:
    """Return the newest clips of a stream, newest first. A clip whose description cannot be read is left out.

    Args:
        folder: folder of the clips; it need not exist.
        stream: name of the stream.
        limit: largest number of clips.
    """
    try:
        names = sorted((name for name in os.listdir(folder) if _stream(name) == stream), reverse=True)
    except FileNotFoundError:
        return []
    clips: list[ClipFile] = []
    for name in names:
        if len(clips) == limit:
            break
        if (path := clip_path(folder, stream, name)) is None:
            continue
        with suppress(OSError, ValueError, TypeError):
            values = json.loads(path.with_suffix(DESCRIPTION_SUFFIX).read_text(encoding="utf-8"))
            clips.append(ClipFile(name, stream, **values, bytes=path.stat().st_size))
    return clips


def clip_path(folder: Path, stream: str, name: str) -> Path | None:
    """Return the path of a stream's clip; None if there is no regular file of this name. Links are not followed.

    Examples:
        >>> clip_path(Path("clips"), "gate", "../../etc/passwd") is None
        True
    """
    if _stream(name) != stream:
        return None
    path = folder / name
    return path if path.is_file() and not path.is_symlink() else None


def remove_left(folder: Path, streams: frozenset[str]) -> None:
    """Remove the incomplete clips of these streams that a process has left that was killed."""
    with suppress(OSError):  # the folder may not exist yet
        for file in _partial(folder, streams):
            if is_left(file):
                file.unlink()


def _partial(folder: Path, streams: frozenset[str]) -> Iterator[Path]:
    for file in folder.iterdir():
        match = PARTIAL.fullmatch(file.name)
        if match is not None and match["stream"] in streams:
            yield file


def _stream(name: str) -> str | None:
    match = CLIP.fullmatch(name)
    return None if match is None else match["stream"]
