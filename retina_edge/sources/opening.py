"""Sources, made from their names on a command line."""

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
    """Return the sources that a command line names. Neighboring images become one source, so that they are batched.

    Args:
        names: sources, each an image, a folder of images, a video file, a glob of files, a camera index, a URL, a
            GStreamer pipeline (``gst:...`` or ``... ! ...``) or a camera of a Jetson (``csi://0``).

    Raises:
        SourceError: if a file is missing, a folder contains no image, no file matches a glob, or the description of a
            pipeline or CSI camera is invalid; the message names the source.

    Examples:
        >>> from retina_edge.assets import FOREST
        >>> [source.name for source in open_sources(["0", str(FOREST), str(FOREST)])]
        ['camera 0', '2 images']
    """
    sources: list[Source] = []
    for source in (source for name in names for source in _open_name(name)):
        if isinstance(source, ImageSource) and sources and isinstance(sources[-1], ImageSource):
            sources[-1] = ImageSource(sources[-1].paths + source.paths)
        else:
            sources.append(source)
    return sources


def _open_name(name: str) -> list[Source]:
    if not name:  # Path("") would be the current folder
        raise SourceError(
            "expected the name of a source, got an empty text; give a path, the number of a camera or a URL"
        )
    if GStreamerSource.recognizes(name):
        return [GStreamerSource(name)]
    if "://" in name:
        return [VideoSource(name)]
    path = Path(name)
    if path.is_dir():
        images = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
        if not images:
            raise SourceError(
                f"{path}: expected a folder with images ({', '.join(sorted(IMAGE_SUFFIXES))}), got one without images"
            )
        return [ImageSource(images)]
    if path.exists():
        return [_open_file(path)]
    if name.isdecimal():
        return [VideoSource(int(name))]
    if glob.has_magic(name):
        matches = sorted(Path(match) for match in glob.glob(name, recursive=True) if Path(match).is_file())
        if not matches:
            raise SourceError(f"{name}: no file matches; check the pattern, and quote it so that the shell keeps it")
        return [_open_file(match) for match in matches]
    raise SourceError(
        f"{name}: no such file or folder; give the number of a camera, the URL of a stream (rtsp://, rtmp://, "
        "http://), csi://0 for a camera of a Jetson, or gst:... for a GStreamer pipeline"
    )


def _open_file(path: Path) -> Source:
    return ImageSource([path]) if path.suffix.lower() in IMAGE_SUFFIXES else VideoSource(path)
