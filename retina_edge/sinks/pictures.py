"""Annotated pictures in a folder."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import cv2

from retina_edge.quiet import quiet_opencv
from retina_edge.sinks.base import Picture, Result, Sink, SinkError
from retina_edge.sources.pictures import saved_name


class ImageSink(Sink):
    """Annotated pictures in a folder, under the names of those they come from; ``.png`` is added where that
    format cannot be written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, result: Result) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_image(self.folder / saved_name(Path(result.frame.name)), result.picture)
        self.written = (self.folder,)


def write_image(path: Path, picture: Picture) -> None:
    """Writes a picture uint8 [height, width, 3] BGR in the format of the path's ending; whole, or not at all.

    Raises:
        OSError: there is no place for it; names the file.
        SinkError: OpenCV cannot write this format or size.
    """
    try:
        with quiet_opencv():
            ok, data = cv2.imencode(path.suffix, picture)
    except cv2.error:
        ok = False
    if not ok:
        raise SinkError(
            f"{path}: OpenCV cannot write {picture.shape[1]}x{picture.shape[0]} pixels in colour as "
            f"{path.suffix or 'a file without ending'}; convert the source to .png or .jpg"
        )
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_bytes(data.tobytes())
        os.replace(partial, path)
    except OSError as error:  # of a full disk it names no file
        with suppress(OSError):
            partial.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
