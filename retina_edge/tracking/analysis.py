"""Tracks, counts and events from the detections of one stream, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from retina_edge.detections import Detections
from retina_edge.sources.frames import Frame
from retina_edge.tracking.counting import Anchor, Tally, make_counters
from retina_edge.tracking.events import Event
from retina_edge.tracking.tracker import MIN_TRACKED_SCORE, Tracks
from retina_edge.tracking.tracker_names import TrackerName, check_tracker, make_tracker
from retina_edge.tracking.zones import Line, Zone, check_regions


@dataclass(frozen=True)
class FrameAnalysis:
    """The analysis of one frame.

    Attributes:
        detections: detections above the score threshold.
        tracks: track id of each detection, int64 [N]; ``UNTRACKED`` (-1) for a detection without a track.
        events: events in this frame.
        tallies: counts of the stream's zones and lines after this frame.
    """

    detections: Detections
    tracks: Tracks
    events: tuple[Event, ...]
    tallies: tuple[Tally, ...]


class StreamAnalyzer:
    """An analyzer that tracks and counts the objects of one stream. Call it from one thread, frame by frame, in order.

    Args:
        stream: name of the stream, for events.
        regions: zones and lines; regions of other streams are ignored.
        anchor: point of a box that decides whether it is inside a region.
        tracker: name of the tracker.

    Raises:
        MissingDependencyError: if the trackers package is not installed.
    """

    def __init__(
        self,
        stream: str,
        regions: Sequence[Zone | Line],
        *,
        anchor: Anchor = "bottom",
        tracker: TrackerName = "bytetrack",
    ) -> None:
        self._tracker = make_tracker(tracker)
        self._counters = make_counters(regions, stream=stream, anchor=anchor)

    def __call__(self, frame: Frame, detections: Detections, score: float, *, seconds: float) -> FrameAnalysis:
        """Analyze a frame: keep the detections that score more than ``score``, track them and count them.

        Args:
            frame: the frame.
            detections: all detections of the model, because low scores keep existing tracks alive.
            score: score threshold of detections that are kept and that begin tracks. The tracker ignores scores below
                ``MIN_TRACKED_SCORE``.
            seconds: time of the frame by the clock of the stream. For a file, this is the position in the file, because
                with the machine's clock, counts would depend on the speed of the machine.
        """
        self._tracker.set_score(max(score, MIN_TRACKED_SCORE))
        size = frame.image.shape[0], frame.image.shape[1]
        tracks = self._tracker.update(detections, seconds, size=size, image=frame.image)
        keep = detections.scores > score
        detections, tracks = detections[keep], tracks[keep]
        captured = frame.captured_at
        events: list[Event] = []
        for counter in self._counters:
            events += counter.update(
                detections, tracks, size=size, timestamp=seconds, captured=captured, position=frame.timestamp
            )
        return FrameAnalysis(detections, tracks, tuple(events), tuple(counter.tally() for counter in self._counters))


@dataclass(frozen=True)
class TrackingOptions:
    """Options for tracking objects and for counting them in regions.

    Attributes:
        track: True to track objects from frame to frame; regions imply tracking.
        regions: zones and lines in which objects are counted.
        anchor_point: ``bottom`` or ``center``, the point of a box that decides whether it is inside a region.
        tracker: ``bytetrack``, or ``botsort`` for cameras that move.

    Raises:
        ContractError: if there is no such tracker.

    Examples:
        >>> from retina_edge.tracking.zones import line
        >>> options = TrackingOptions(regions=[line("door@person=0.1,0.5 0.9,0.5")])
        >>> callable(options.analyzers(["yard"], ["person", "car"]))
        True
    """

    track: bool = False
    regions: Sequence[Zone | Line] = ()
    anchor_point: Anchor = "bottom"
    tracker: TrackerName = "bytetrack"

    def __post_init__(self) -> None:
        check_tracker(self.tracker)

    def analyzers(self, streams: Sequence[str], class_names: Sequence[str]) -> Callable[[str], StreamAnalyzer] | None:
        """Return a function that makes the analyzer of a stream from its name; None without tracking.

        Args:
            streams: names of the streams.
            class_names: names of the model's classes.

        Raises:
            ZoneError: if a region names an unknown stream or class, or two regions of a stream have the same name.
        """
        check_regions(self.regions, streams=streams, class_names=class_names)
        if not self.track and not self.regions:
            return None
        return partial(StreamAnalyzer, regions=self.regions, anchor=self.anchor_point, tracker=self.tracker)
