"""Names of streams: chosen by the user, or derived from the source."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from engines.core.errors import SourceError
from retina_edge.sources.frames import Source
from retina_edge.sources.image_source import ImageSource
from retina_edge.sources.opening import open_sources
from retina_edge.sources.video_source import VideoSource

# A name becomes part of URLs, metrics and file names.
NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


def named_sources(words: Sequence[str]) -> dict[str, Callable[[], Source]]:
    """Return the streams of a command line: for each name, a function that makes a new source.

    Args:
        words: sources as ``open_sources`` takes them, or ``NAME=SOURCE``. A word with an equals sign is still a source
            without a name if the word is the path of a file, or if the text before the equals sign is not a valid name.
            Neighboring images without names become one stream, so that they are batched.

    Raises:
        SourceError: if a word is not a source, or two streams have the same name.

    Examples:
        >>> list(named_sources(["front=rtsp://camera/live", "0"]))
        ['front', 'camera0']
    """
    entries: list[tuple[str | None, str, Source]] = []
    for word in words:
        name, equals, rest = word.partition("=")
        has_name = bool(equals) and bool(NAME.fullmatch(name)) and not os.path.exists(word)
        for source in open_sources([rest if has_name else word]):
            previous = entries[-1][2] if entries and entries[-1][0] is None and not has_name else None
            if isinstance(source, ImageSource) and isinstance(previous, ImageSource):
                entries[-1] = None, word, ImageSource([*previous.paths, *source.paths])
            else:
                entries.append((name if has_name else None, rest if has_name else word, source))
    sources: dict[str, Callable[[], Source]] = {}
    for given_name, word, source in entries:
        chosen = given_name or _unused(_name_of(source), sources)
        if chosen in sources:
            raise SourceError(
                f"{chosen}: expected each name once, got it twice; choose different names, and give no name to a "
                "glob that matches several files"
            )
        sources[chosen] = partial(_make, word, source, given_name)
    return sources


def _make(word: str, source: Source, name: str | None) -> Source:
    """Return a new source like the given one. The new source is not open."""
    if isinstance(source, ImageSource):
        return ImageSource(source.paths)
    # A glob stands for several sources, so a file is opened by its own path instead of by the word.
    is_file = isinstance(source, VideoSource) and not source.live
    new = VideoSource(Path(source.name)) if is_file else open_sources([word])[0]
    if name:
        new.output_names = (f"{name}.mp4",)
    return new


def _name_of(source: Source) -> str:
    if isinstance(source, VideoSource):
        stem = Path(source.output_names[0]).stem
        return re.sub(r"[^A-Za-z0-9_-]+", "-", stem).strip("-")[:32] or "stream"
    return "images"


def _unused(name: str, used: dict[str, Callable[[], Source]]) -> str:
    number, chosen = 2, name
    while chosen in used:
        chosen, number = f"{name[:28]}-{number}", number + 1
    return chosen


def with_bit_depth(named: Mapping[str, Callable[[], Source]], bit_depth: int) -> dict[str, Callable[[], Source]]:
    """Return functions that make the same sources, which read image files of 16 bits with a bit depth.

    Examples:
        >>> from retina_edge.assets import FOREST
        >>> with_bit_depth(named_sources([str(FOREST)]), 12)["forest"]().bit_depth
        12
    """

    def make(source: Callable[[], Source]) -> Source:
        made = source()
        made.bit_depth = bit_depth
        return made

    return {name: partial(make, source) for name, source in named.items()}
