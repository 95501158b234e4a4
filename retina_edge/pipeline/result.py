"""The result of one frame, which the pipeline passes to sinks, the page and callbacks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from engines.core.letterbox import BgrImage
from retina_edge.detections import Detections
from retina_edge.pipeline.annotation import annotate
from retina_edge.sources.frames import Frame
from retina_edge.system.timestamps import utc_iso
from retina_edge.tracking.events import Event
from retina_edge.tracking.region_counter import Tally
from retina_edge.tracking.tracker import Tracks


@dataclass(frozen=True, eq=False)
class Result:
    """A frame with its detections, tracks and events.

    Attributes:
        frame: the frame, as read from its source.
        detections: the detections, in frame pixels.
        stream: name of the stream.
        live: True for a live stream, which may drop frames.
        age_at_inference: seconds from capture until the detector started on the frame; None if not measured.
        age_at_output: seconds from capture until the detections were ready; None if not measured.
        tracks: track id of each detection, int64 [N]; None without tracking.
        events: events of zones and lines in this frame.
        tallies: counts of the stream's zones and lines after this frame.

    Examples:
        >>> import numpy as np
        >>> frame = Frame(np.zeros((48, 64, 3), np.uint8), index=7, timestamp=0.28, name="flight.mp4")
        >>> result = Result(frame, Detections.empty((), ()), stream="flight", age_at_output=0.0512)
        >>> values = result.to_dict()
        >>> {name: values[name] for name in ("stream", "frame", "timestamp", "age_at_output", "width", "height")}
        {'stream': 'flight', 'frame': 7, 'timestamp': 0.28, 'age_at_output': 0.0512, 'width': 64, 'height': 48}
    """

    frame: Frame
    detections: Detections
    stream: str = ""
    live: bool = False
    age_at_inference: float | None = None
    age_at_output: float | None = None
    tracks: Tracks | None = None
    events: tuple[Event, ...] = ()
    tallies: tuple[Tally, ...] = ()

    @cached_property
    def annotated(self) -> BgrImage:
        """The annotated frame: uint8 [height, width, 3], BGR.

        The image is drawn on first access. Do not modify it, because all sinks share it. If there is nothing to draw,
        it is the image of the original frame itself.
        """
        if not len(self.detections) and not self.tallies:
            return self.frame.image
        return annotate(self.frame.image, self.detections, tracks=self.tracks, tallies=self.tallies)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: boxes xyxy in frame pixels, ``captured`` in UTC, times and ages in seconds."""
        frame = self.frame
        detections = self.detections.to_dict()["detections"]
        if self.tracks is not None:
            for row, track in zip(detections, self.tracks.tolist(), strict=True):
                row["track"] = track
        return {
            "stream": self.stream,
            "source": frame.name,
            "frame": frame.index,
            "timestamp": None if frame.timestamp is None else round(frame.timestamp, 6),
            "captured": utc_iso(frame.captured_at),
            "age_at_inference": _rounded(self.age_at_inference),
            "age_at_output": _rounded(self.age_at_output),
            "width": frame.image.shape[1],
            "height": frame.image.shape[0],
            "detections": detections,
            "events": [event.to_dict() for event in self.events],
            "regions": {tally.region.name: tally.counts for tally in self.tallies},
            "visits": [
                {"zone": tally.region.name, "track": visit.track, "class": visit.class_name, "seconds": seconds}
                for tally in self.tallies
                for visit in tally.visits
                for seconds in (round(visit.seconds, 3),)
            ],
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 4)
