"""Sources, made from their names on a command line."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from engines.core.errors import SourceError
from retina_edge.imaging.image_file import IMAGE_SUFFIXES
from retina_edge.sources.frames import Source, check_fps
from retina_edge.sources.gstreamer_source import GStreamerSource
from retina_edge.sources.image_folder import HEIC_SUFFIXES, open_folder
from retina_edge.sources.image_source import ImageSource
from retina_edge.sources.video_source import VideoSource
from retina_edge.system.natural_order import natural_order


def open_sources(names: Sequence[str], *, fps: float | None = None) -> list[Source]:
    """Return the sources that a command line names. Neighboring images become one source, so that they are batched.

    The images of a folder, and the files of a glob, are in the natural order of their names: 2.jpg before 10.jpg.

    Args:
        names: sources, each an image, a folder of images, a video file, a glob of files, a camera index, a URL, a
            GStreamer pipeline (``gst:...`` or ``... ! ...``) or a camera of a Jetson (``csi://0``).
        fps: frames per second of image files and video files, instead of the times in them; None to use these times.

    Raises:
        ContractError: if ``fps`` is out of range.
        SourceError: if a file is missing, a folder contains no image, no file matches a glob, the description of a
            pipeline or CSI camera is invalid, or ``fps`` is given for one of them or for a URL; the message names the
            source.

    Examples:
        >>> from retina_edge.assets import FOREST
        >>> [source.name for source in open_sources(["0", str(FOREST), str(FOREST)])]
        ['camera 0', '2 images']
    """
    if fps is not None:
        check_fps(fps)
    sources: list[Source] = []
    images: list[ImageSource] = []
    for source in (source for name in names for source in _open_name(name, fps)):
        if fps is not None and (source.live or isinstance(source, GStreamerSource)):
            raise SourceError(
                f"fps: expected image files and video files, got {source.name}, which has times of its own; leave fps "
                "out, or detect in this source by itself"
            )
        if isinstance(source, ImageSource):
            images.append(source)
            continue
        sources += [*_joined(images), source]
        images = []
    return [*sources, *_joined(images)]


def _joined(images: Sequence[ImageSource]) -> list[Source]:
    return [ImageSource.joined(images)] if images else []


def _open_name(name: str, fps: float | None) -> list[Source]:
    if not name:  # Path("") would be the current folder
        raise SourceError(
            "expected the name of a source, got an empty text; give a path, the number of a camera or a URL"
        )
    if GStreamerSource.recognizes(name):
        return [GStreamerSource(name)]
    if name.startswith("file://"):
        name = url2pathname(urlsplit(name).path)
    if "://" in name:
        return [VideoSource(name)]
    path = Path(name)
    if path.is_dir():
        return [open_folder(path, fps=fps)]
    if path.exists():
        return [_open_file(path, fps)]
    if name.isdecimal():
        return [VideoSource(int(name))]
    if glob.has_magic(name):
        matches = [Path(match) for match in glob.glob(name, recursive=True) if Path(match).is_file()]
        if not matches:
            raise SourceError(f"{name}: no file matches; check the pattern, and quote it so that the shell keeps it")
        return [_open_file(match, fps) for match in sorted(matches, key=natural_order)]
    raise SourceError(
        f"{name}: no such file or folder; give the number of a camera, the URL of a stream (rtsp://, rtmp://, "
        "http://), csi://0 for a camera of a Jetson, or gst:... for a GStreamer pipeline"
    )


def _open_file(path: Path, fps: float | None) -> Source:
    is_image = path.suffix.lower() in IMAGE_SUFFIXES | HEIC_SUFFIXES
    return ImageSource([path], fps=fps) if is_image else VideoSource(path, fps=fps)
