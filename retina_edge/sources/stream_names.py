"""Names of streams: given with them, or made of what they are."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from engines.core.errors import SourceError
from retina_edge.sources.frames import Source
from retina_edge.sources.image_source import ImageSource
from retina_edge.sources.opening import open_sources
from retina_edge.sources.video_source import VideoSource

# Stands in addresses, metrics and file names.
NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


def named_sources(words: Sequence[str]) -> dict[str, Callable[[], Source]]:
    """What makes each source anew, by the name of its stream.

    Args:
        words: each a source as ``open_sources`` takes it, or ``NAME=SOURCE``. A file whose name holds an equals sign is
            taken as it is, and so is what has no such name before it. Neighboring pictures without names are one
            stream, so that they are batched.

    Raises:
        SourceError: not a source; a name twice.
    """
    found: list[tuple[str | None, str, Source]] = []
    for word in words:
        name, equals, rest = word.partition("=")
        given = bool(equals) and bool(NAME.fullmatch(name)) and not os.path.exists(word)
        for source in open_sources([rest if given else word]):
            before = found[-1][2] if found and found[-1][0] is None and not given else None
            if isinstance(source, ImageSource) and isinstance(before, ImageSource):
                found[-1] = None, word, ImageSource([*before.paths, *source.paths])
            else:
                found.append((name if given else None, rest if given else word, source))
    sources: dict[str, Callable[[], Source]] = {}
    for given_name, word, source in found:
        chosen = given_name or _unused(_name_of(source), sources)
        if chosen in sources:
            raise SourceError(f"{chosen}: expected each name once; of several files in one source leave it out")
        sources[chosen] = partial(_make, word, source, given_name)
    return sources


def _make(word: str, source: Source, name: str | None) -> Source:
    """A source like this one, not opened yet."""
    if isinstance(source, ImageSource):
        return ImageSource(source.paths)
    # Of a glob each file is a source.
    file = isinstance(source, VideoSource) and not source.live
    made = VideoSource(Path(source.name)) if file else open_sources([word])[0]
    if name:
        made.output_names = (f"{name}.mp4",)
    return made


def _name_of(source: Source) -> str:
    if isinstance(source, VideoSource):
        stem = Path(source.output_names[0]).stem
        return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:32] or "stream"
    return "pictures"


def _unused(name: str, used: dict[str, Callable[[], Source]]) -> str:
    number, chosen = 2, name
    while chosen in used:
        chosen, number = f"{name[:28]}-{number}", number + 1
    return chosen
