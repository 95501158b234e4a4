"""Where frames come from: what a command line names, and pictures among it."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2

from engines.errors import SourceError
from retina_edge.image_file import IMAGE_SUFFIXES, read_image
from retina_edge.streams.frames import Frame, Source, SourceInfo
from retina_edge.streams.gstreamer import GStreamerSource
from retina_edge.streams.video import VideoSource, opencv_name, redact

__all__ = [
    "Frame",
    "GStreamerSource",
    "ImageSource",
    "Source",
    "SourceInfo",
    "VideoSource",
    "open_sources",
    "opencv_name",
    "redact",
    "saved_name",
]

# Formats without colour: what is drawn on such a picture cannot be saved in its own.
GREY_SUFFIXES = frozenset({".pbm", ".pgm"})


class ImageSource(Source):
    """Picture files in the order given. One that cannot be read is noted in ``errors`` and skipped.

    Raises:
        SourceError: while iterating, when the only file cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.paths = list(paths)
        self.name = str(paths[0]) if len(paths) == 1 else f"{len(paths)} pictures"
        self.output_names = tuple(saved_name(path) for path in paths)
        self.info = SourceInfo(frames=len(self.paths))

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self.paths):
            if self._interrupted.is_set():
                return
            try:
                image = read_image(path)
            except SourceError as error:
                if len(self.paths) == 1:
                    raise
                self.errors.append(str(error))
            else:
                yield Frame(image, index, None, str(path))


def open_sources(names: Sequence[str]) -> list[Source]:
    """The sources that a command line names; neighbouring pictures become one source, so that they are batched.

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


def saved_name(path: Path) -> str:
    """The file name for the annotated picture: its own, with .png added where its format cannot be written."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES - GREY_SUFFIXES and cv2.haveImageWriter(f"picture{suffix}"):
        return path.name
    return f"{path.name}.png"


def _open_name(name: str) -> list[Source]:
    if GStreamerSource.recognises(name):
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
