"""Picture files as a source of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2

from engines.core.errors import SourceError
from retina_edge.imaging.image_file import IMAGE_SUFFIXES, read_image
from retina_edge.sources.frames import Frame, Source, SourceInfo

# Formats without color: what is drawn on such a picture cannot be saved in its own.
GRAY_SUFFIXES = frozenset({".pbm", ".pgm"})


class ImageSource(Source):
    """Picture files in the order given. One that cannot be read is noted in ``errors`` and skipped.

    Raises:
        SourceError: while iterating, when the only file cannot be read.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self.paths = list(paths)
        self.name = str(paths[0]) if len(paths) == 1 else f"{len(paths)} pictures"
        self.output_names = tuple(output_name(path) for path in paths)
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


def output_name(path: Path) -> str:
    """The file name for the annotated picture: its own, with .png added where its format cannot be written."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES - GRAY_SUFFIXES and cv2.haveImageWriter(f"picture{suffix}"):
        return path.name
    return f"{path.name}.png"
