"""What is made of the detections of one stream, frame by frame: tracks, counts, events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from retina_edge.detections import Detections
from retina_edge.sources.frames import Frame
from retina_edge.tracking.counting import Anchor, Tally, make_counters
from retina_edge.tracking.events import Event
from retina_edge.tracking.tracker import MIN_TRACKED_SCORE, ByteTrack, Tracks
from retina_edge.tracking.zones import Line, Zone, check_regions


@dataclass(frozen=True)
class FrameAnalysis:
    """Of one frame.

    Attributes:
        detections: those that score enough to be shown.
        tracks: int64 [N], their ids.
        events: what happened.
        tallies: of the stream's zones and lines.
    """

    detections: Detections
    tracks: Tracks
    events: tuple[Event, ...]
    tallies: tuple[Tally, ...]


class StreamAnalyzer:
    """Follows one stream; called from one thread, in the order of its frames.

    Args:
        stream: its name, as it stands in events.
        regions: zones and lines; those of other streams are passed over.
        anchor: the point of a box that is in a zone or not.

    Raises:
        MissingDependencyError: the trackers package is not installed.
    """

    def __init__(self, stream: str, regions: Sequence[Zone | Line], *, anchor: Anchor = "bottom") -> None:
        self._tracker = ByteTrack()
        self._counters = make_counters(regions, stream=stream, anchor=anchor)

    def __call__(self, frame: Frame, detections: Detections, score: float, *, seconds: float) -> FrameAnalysis:
        """Everything the model found in a frame; what scores more than ``score`` is kept, and begins tracks.

        The tracker sees the rest, too: poor boxes keep tracks alive. What scores less than ``MIN_TRACKED_SCORE`` it
        never follows. ``seconds`` is when it happened, by the stream's own clock: of a file not that of the reader, or
        what is counted would depend on the machine's speed.
        """
        self._tracker.set_score(max(score, MIN_TRACKED_SCORE))
        size = frame.image.shape[0], frame.image.shape[1]
        tracks = self._tracker.update(detections, seconds, size=size)
        keep = detections.scores > score
        detections, tracks = detections[keep], tracks[keep]
        captured = frame.captured_at
        events: list[Event] = []
        for counter in self._counters:
            events += counter.update(detections, tracks, size=size, timestamp=seconds, captured=captured)
        return FrameAnalysis(detections, tracks, tuple(events), tuple(counter.tally() for counter in self._counters))


@dataclass(frozen=True)
class TrackingOptions:
    """Whether objects are followed from frame to frame, and where they are counted.

    Attributes:
        track: follow objects; regions turn this on, too.
        regions: zones and lines to count in.
        anchor_point: ``bottom`` or ``centre``: the point of a box that decides whether it is inside a region.
    """

    track: bool = False
    regions: Sequence[Zone | Line] = ()
    anchor_point: Anchor = "bottom"

    def analyzers(self, streams: Sequence[str], class_names: Sequence[str]) -> Callable[[str], StreamAnalyzer] | None:
        """Return a function that makes the analyzer of a stream; None without tracking.

        Args:
            streams: names of the streams.
            class_names: classes of the model.

        Raises:
            ZoneError: if a region names an unknown stream or class, or two regions of a stream have one name.
        """
        check_regions(self.regions, streams=streams, class_names=class_names)
        if not self.track and not self.regions:
            return None
        return partial(StreamAnalyzer, regions=self.regions, anchor=self.anchor_point)
