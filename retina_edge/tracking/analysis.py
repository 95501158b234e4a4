"""Tracks, counts and events from the detections of one stream, frame by frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from retina_edge.detections import Detections
from retina_edge.sources.frames import Frame
from retina_edge.tracking.counting import LineCounter, make_counters
from retina_edge.tracking.events import Event
from retina_edge.tracking.masking import outside_masks
from retina_edge.tracking.region_counter import Anchor, Tally
from retina_edge.tracking.region_file import StreamRegions
from retina_edge.tracking.region_store import RegionStore
from retina_edge.tracking.tracker import MIN_TRACKED_SCORE, Tracks
from retina_edge.tracking.tracker_names import TrackerName, check_tracker, make_tracker
from retina_edge.tracking.zone_counter import Inertia, ZoneCounter
from retina_edge.tracking.zones import Line, Mask, Zone, check_dwell


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
        dwell: seconds after which an object dwells in a zone without a limit of its own; None for never.
        inertia: rule against flicker at the borders of zones; None for none.
        store: regions that can change between two frames, instead of ``regions``; None for none.

    Raises:
        MissingDependencyError: if the trackers package is not installed.
    """

    def __init__(
        self,
        stream: str,
        regions: Sequence[Zone | Line] = (),
        *,
        anchor: Anchor = "bottom",
        tracker: TrackerName = "bytetrack",
        dwell: float | None = None,
        inertia: Inertia | None = None,
        store: RegionStore | None = None,
    ) -> None:
        self._tracker = make_tracker(tracker)
        self._stream, self._anchor, self._store = stream, anchor, store
        self._make = partial(make_counters, stream=stream, anchor=anchor, dwell=dwell, inertia=inertia)
        self._counters = self._make(regions)
        self._masks: tuple[Mask, ...] = ()
        self._applied: StreamRegions | None = None
        # The counters of the regions of the store, by id.
        self._stored: dict[str, ZoneCounter | LineCounter] = {}

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
        size = frame.image.shape[0], frame.image.shape[1]
        if self._store is not None:
            self._store.note_size(self._stream, size)
            self._apply(self._store.regions(self._stream))
        detections = outside_masks(detections, self._masks, size=size, anchor=self._anchor)
        self._tracker.set_score(max(score, MIN_TRACKED_SCORE))
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

    def _apply(self, regions: StreamRegions) -> None:
        """Use the regions of the store. The counter of a region that still exists keeps its counts."""
        if regions is self._applied:
            return
        self._applied = regions
        kept = {
            stored.id: self._counter(stored.region, self._stored.get(stored.id))
            for stored in regions.regions
            if not isinstance(stored.region, Mask)
        }
        self._stored, self._counters = kept, list(kept.values())
        self._masks = tuple(stored.region for stored in regions.regions if isinstance(stored.region, Mask))

    def _counter(self, region: Zone | Line, counter: ZoneCounter | LineCounter | None) -> ZoneCounter | LineCounter:
        """Return the counter of a region: the one that it had, unless that was of another kind."""
        if isinstance(region, Zone) and isinstance(counter, ZoneCounter):
            counter.replace(region)
            return counter
        if isinstance(region, Line) and isinstance(counter, LineCounter):
            counter.replace(region)
            return counter
        return self._make([region])[0]


@dataclass(frozen=True)
class TrackingOptions:
    """Options for tracking objects and for counting them in regions.

    Attributes:
        track: True to track objects from frame to frame; regions imply tracking.
        regions: zones and lines in which objects are counted.
        anchor_point: ``bottom`` or ``center``, the point of a box that decides whether it is inside a region.
        tracker: ``bytetrack``, or ``botsort`` for cameras that move.
        dwell: seconds after which an object dwells in a zone without a limit of its own; None for never.
        inertia: rule against flicker at the borders of zones; None for none.
        regions_file: file of further regions, which ``serve`` changes and ``detect`` reads; None for none.

    Raises:
        ContractError: if there is no such tracker.
        ValueError: if ``dwell`` is out of range.

    Examples:
        >>> from retina_edge.tracking.zones import line
        >>> options = TrackingOptions(regions=[line("door@person=0.1,0.5 0.9,0.5")])
        >>> callable(options.analyzers(options.store(["yard"], ["person", "car"])))
        True
    """

    track: bool = False
    regions: Sequence[Zone | Line] = ()
    anchor_point: Anchor = "bottom"
    tracker: TrackerName = "bytetrack"
    dwell: float | None = None
    inertia: Inertia | None = None
    regions_file: Path | None = None

    def __post_init__(self) -> None:
        check_tracker(self.tracker)
        if self.dwell is not None:
            check_dwell(self.dwell)

    def store(self, streams: Sequence[str], class_names: Sequence[str], *, editable: bool = False) -> RegionStore:
        """Return the regions of a run.

        Args:
            streams: names of the streams.
            class_names: names of the model's classes.
            editable: True if the regions of ``regions_file`` may be changed.

        Raises:
            ZoneError: if a region names an unknown stream or class, two regions of a stream have the same name, or the
                file is damaged.
            OSError: if the file cannot be read, or not be created.
        """
        return RegionStore(streams, class_names, fixed=self.regions, path=self.regions_file, editable=editable)

    def analyzers(self, store: RegionStore) -> Callable[[str], StreamAnalyzer] | None:
        """Return a function that makes the analyzer of a stream from its name; None without tracking.

        Args:
            store: the regions of the run.
        """
        if not self.track and not self.regions and self.regions_file is None:
            return None
        return partial(
            StreamAnalyzer,
            anchor=self.anchor_point,
            tracker=self.tracker,
            dwell=self.dwell,
            inertia=self.inertia,
            store=store,
        )
