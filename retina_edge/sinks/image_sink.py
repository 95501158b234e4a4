"""A sink for annotated images in a folder."""

from __future__ import annotations

from pathlib import Path

from retina_edge.imaging.image_file import write_image
from retina_edge.pipeline.result import Result
from retina_edge.sinks.sink import Sink
from retina_edge.sources.image_source import output_name


class ImageSink(Sink):
    """A sink that writes annotated images into a folder, under the names of the original files.

    If OpenCV cannot write the format of a file in color, ``.png`` is appended to its name.

    Args:
        folder: path of the folder; created if it does not exist.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> import numpy as np
        >>> from retina_edge import Detections
        >>> from retina_edge.sources.frames import Frame
        >>> frame = Frame(np.zeros((48, 64, 3), np.uint8), index=0, timestamp=None, name="photos/yard.png")
        >>> with TemporaryDirectory() as folder, ImageSink(Path(folder)) as sink:
        ...     sink.write(Result(frame, Detections.empty(["tree"], [1])))
        ...     [path.name for path in sink.folder.iterdir()]
        ['yard.png']
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, result: Result) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_image(self.folder / output_name(Path(result.frame.name)), result.annotated)
        self.written = (self.folder,)
