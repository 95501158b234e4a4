"""Which sink saves what a source shows."""

from __future__ import annotations

from pathlib import Path

from retina_edge.sinks.base import Sink
from retina_edge.sinks.pictures import ImageSink
from retina_edge.sinks.video import VideoSink
from retina_edge.sources.frames import Source
from retina_edge.sources.pictures import ImageSource


def saving_sink(save: Path, source: Source) -> Sink:
    """The sink that saves an open source's pictures: at ``save`` itself when it ends in .mp4, else inside that
    folder."""
    if isinstance(source, ImageSource):
        return ImageSink(save)
    path = save if save.suffix.lower() == ".mp4" else save / source.output_names[0]
    return VideoSink(path, fps=source.info.fps)
