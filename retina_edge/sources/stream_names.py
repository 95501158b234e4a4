"""Names of streams: chosen by the user, or derived from the source."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from engines.core.errors import SourceError
from retina_edge.sources.frames import Source
from retina_edge.sources.gstreamer_source import GStreamerSource
from retina_edge.sources.image_source import ImageSource
from retina_edge.sources.opening import open_sources
from retina_edge.sources.video_source import VideoSource

# A name becomes part of URLs, metrics and file names.
NAME = re.compile(r"[A-Za-z0-9_-]{1,32}")


def named_sources(words: Sequence[str], *, fps: float | None = None) -> dict[str, Callable[[], Source]]:
    """Return the streams of a command line: for each name, a function that makes a new source.

    Args:
        words: sources as ``open_sources`` takes them, or ``NAME=SOURCE``. A word with an equals sign is still a source
            without a name if the word is the path of a file, or if the text before the equals sign is not a valid name.
            Neighboring images without names become one stream, so that they are batched.
        fps: frames per second of image files and video files, instead of the times in them; None to use these times.

    Raises:
        ContractError: if ``fps`` is out of range.
        SourceError: if a word is not a source, a name is not valid, two streams have the same name, or ``fps`` is given
            for a source that is not a file.

    Examples:
        >>> list(named_sources(["front=rtsp://camera/live", "0"]))
        ['front', 'camera0']
    """
    # Name, word, and one source or several ones of images.
    entries: list[tuple[str | None, str, list[Source]]] = []
    for word in words:
        name, equals, rest = word.partition("=")
        has_name = bool(equals) and bool(NAME.fullmatch(name)) and not os.path.exists(word)
        if equals and not has_name:
            _check_nameless(word, name)
        for source in open_sources([rest if has_name else word], fps=fps):
            previous = entries[-1][2] if entries and entries[-1][0] is None and not has_name else []
            if isinstance(source, ImageSource) and previous and isinstance(previous[0], ImageSource):
                previous.append(source)
            else:
                entries.append((name if has_name else None, rest if has_name else word, [source]))
    sources: dict[str, Callable[[], Source]] = {}
    for given_name, word, found in entries:
        images = [source for source in found if isinstance(source, ImageSource)]
        source = ImageSource.joined(images) if images else found[0]
        chosen = given_name or _unused(_name_of(source), sources)
        if chosen in sources:
            raise SourceError(
                f"{chosen}: expected each name once, got it twice; choose different names, and give no name to a "
                "glob that matches several files"
            )
        sources[chosen] = partial(_make, word, source, given_name, fps)
    return sources


def _check_nameless(word: str, name: str) -> None:
    """Raise an error if a word with an equals sign is no source, so that the text before the sign must be a name."""
    if (
        os.path.exists(word)
        or glob.glob(word, recursive=True)
        or GStreamerSource.recognizes(word)
        or re.search(r"://|/", name)
    ):
        return
    raise SourceError(
        f"{name!r}: expected a stream name of 1 to 32 letters (a-z, A-Z), digits, _ and - before the =, got something "
        "else; choose another name, or give the source without one"
    )


def _make(word: str, source: Source, name: str | None, fps: float | None) -> Source:
    """Return a new source like the given one. The new source is not open."""
    if isinstance(source, ImageSource):
        return ImageSource(source.paths, fps=fps, passed_over=source.warnings)
    # A glob stands for several sources, so a file is opened by its own path instead of by the word.
    is_file = isinstance(source, VideoSource) and not source.live
    new = VideoSource(Path(source.name), fps=fps) if is_file else open_sources([word])[0]
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
        >>> with_bit_depth(named_sources([str(FOREST)]), 12)["images"]().bit_depth
        12
    """

    def make(source: Callable[[], Source]) -> Source:
        made = source()
        made.bit_depth = bit_depth
        return made

    return {name: partial(make, source) for name, source in named.items()}
