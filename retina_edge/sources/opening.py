"""What a command line names as sources."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from engines.core.errors import SourceError
from retina_edge.imaging.image_file import IMAGE_SUFFIXES
from retina_edge.sources.frames import Source
from retina_edge.sources.gstreamer_source import GStreamerSource
from retina_edge.sources.image_source import ImageSource
from retina_edge.sources.video_source import VideoSource


def open_sources(names: Sequence[str]) -> list[Source]:
    """The sources that a command line names; neighboring pictures become one source, so that they are batched.

    Args:
        names: of each a picture, a folder of pictures, a video file, a glob of files, a camera index, a URL, a
            GStreamer pipeline (``gst:...`` or ``... ! ...``) or a Jetson's camera (``csi://0``).

    Raises:
        SourceError: a file is missing, a folder has no picture, no file matches a glob, a pipeline or a CSI camera
            is not named as it should be; names it.
    """
    sources: list[Source] = []
    for found in (found for name in names for found in _open_name(name)):
        if isinstance(found, ImageSource) and sources and isinstance(sources[-1], ImageSource):
            sources[-1] = ImageSource(sources[-1].paths + found.paths)
        else:
            sources.append(found)
    return sources


def _open_name(name: str) -> list[Source]:
    if GStreamerSource.recognizes(name):
        return [GStreamerSource(name)]
    if "://" in name:
        return [VideoSource(name)]
    path = Path(name)
    if path.is_dir():
        pictures = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not pictures:
            raise SourceError(
                f"{path}: expected a folder with pictures ({', '.join(sorted(IMAGE_SUFFIXES))}), found none in it"
            )
        return [ImageSource(pictures)]
    if path.exists():
        return [_open_file(path)]
    if name.isdecimal():
        return [VideoSource(int(name))]
    if glob.has_magic(name):
        matches = sorted(Path(match) for match in glob.glob(name, recursive=True) if Path(match).is_file())
        if not matches:
            raise SourceError(f"{name}: no file matches; check the pattern, and quote it against the shell")
        return [_open_file(match) for match in matches]
    raise SourceError(
        f"{name}: no such file or folder; for a camera give its number, for a stream a URL (rtsp://, rtmp://, "
        "http://), for a Jetson's camera csi://0, for a GStreamer pipeline gst:..."
    )


def _open_file(path: Path) -> Source:
    return ImageSource([path]) if path.suffix.lower() in IMAGE_SUFFIXES else VideoSource(path)
