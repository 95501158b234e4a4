"""Image files as a source of frames."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2

from engines.core.errors import SourceError
from retina_edge.imaging.image_file import IMAGE_SUFFIXES, read_image
from retina_edge.sources.frames import Frame, Source, SourceInfo

# Formats without color: an annotated image cannot be saved in them.
GRAY_SUFFIXES = frozenset({".pbm", ".pgm"})


class ImageSource(Source):
    """Image files, in the given order. A file that cannot be read is recorded in ``errors`` and skipped.

    Args:
        paths: the files.
        fps: images per second, for their timestamps; None for images without timestamps.
        passed_over: a line for each folder of the images that holds other files, for ``warnings``.

    Raises:
        SourceError: while iterating, if the only file cannot be read.

    Examples:
        >>> from retina_edge.assets import FOREST
        >>> with ImageSource([FOREST]) as source:
        ...     print([frame.image.shape for frame in source])
        [(622, 2299, 3)]
    """

    def __init__(self, paths: Sequence[Path], *, fps: float | None = None, passed_over: Sequence[str] = ()) -> None:
        super().__init__()
        self.paths = list(paths)
        self.fps = fps
        self.warnings = list(passed_over)
        self.name = str(paths[0]) if len(paths) == 1 else f"{len(paths)} images"
        self.output_names = tuple(output_name(path) for path in paths)
        self.info = SourceInfo(fps=fps, frames=len(self.paths))

    @classmethod
    def joined(cls, sources: Sequence[ImageSource]) -> ImageSource:
        """Return one source of the images of several ones, which have the same rate."""
        return cls(
            [path for source in sources for path in source.paths],
            fps=sources[0].fps,
            passed_over=[line for source in sources for line in source.warnings],
        )

    def __iter__(self) -> Iterator[Frame]:
        for index, path in enumerate(self.paths):
            if self._interrupted.is_set():
                return
            try:
                image = self.pool.place(read_image(path, self.bit_depth))
            except SourceError as error:
                if len(self.paths) == 1:
                    raise
                self.errors.append(str(error))
            else:
                yield Frame(image, index, index / self.fps if self.fps else None, str(path))
                del image  # a reference here would keep the pool from using the memory again
        if self.fps:
            self.info = replace(self.info, duration=len(self.paths) / self.fps)


def output_name(path: Path) -> str:
    """Return the file name of an annotated image: the name of the original, plus .png if its format cannot be written.

    Examples:
        >>> output_name(Path("images/a.jpg")), output_name(Path("images/b.pgm"))
        ('a.jpg', 'b.pgm.png')
    """
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES - GRAY_SUFFIXES and cv2.haveImageWriter(f"image{suffix}"):
        return path.name
    return f"{path.name}.png"
