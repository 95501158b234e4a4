"""Gives the objects of one stream an identity from frame to frame: Tracker, and ByteTrack by the trackers package.

ByteTrack (Zhang et al., ECCV 2022, https://arxiv.org/abs/2110.06864) matches good boxes first and then poor ones to
where a Kalman filter expects each object. The package counts time in seconds, so dropped frames cost no identity.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from engines.core.errors import MissingDependencyError
from retina_edge.detections import Detections

Tracks = npt.NDArray[np.int64]

UNTRACKED = -1
# ByteTrack's own floor: what scores less is noise even where an object is expected.
MIN_TRACKED_SCORE = 0.1
# The package counts how long an object may be lost in thirtieths of a second.
BUFFER_RATE = 30.0
# Two frames never have one time: the package would warn of it, and not move on.
MIN_TIME_STEP = 1e-3


class Tracker(Protocol):
    """Follows the objects of one stream; called for each of its frames, in their order, from one thread at a time."""

    def update(self, detections: Detections, timestamp: float, *, size: tuple[int, int] | None = None) -> Tracks:
        """The track of each detection.

        Args:
            detections: of one frame, in any order.
            timestamp: when it was captured, seconds of any steady clock.
            size: (height, width) of the frame, pixels; another one than before resets. None: not looked at.

        Returns:
            int64 [N], in the order of ``detections``: ids from 1, unique in this stream and never used again, also
            after a reset; ``UNTRACKED`` (-1) where there is no track, or none yet.
        """
        ...

    def reset(self) -> None:
        """Forgets every object; what is seen next is new."""
        ...


class ByteTrack:
    """ByteTrack for one stream. Several share nothing: neither objects nor ids.

    A track keeps its class: every class is followed by itself, so a box whose class changes becomes another track.
    An object has its id from its second frame in a row; until then it may be a false alarm.

    Give it all that the model finds, also what scores too little to be shown: such boxes keep tracks alive through
    shadow and occlusion.

    Args:
        score: detections that score at least this begin tracks and go on with them; less only goes on with them.
        fps: about how many frames a second come, which sets how far an object may move between two. The times given
            to ``update`` are what counts, so it need not be exact.
        lost_seconds: how long an object may be unseen and keep its id.
        away_seconds: after this long without a frame nothing can be recognized, and all is forgotten.

    Raises:
        MissingDependencyError: the trackers package is not installed.
        ValueError: a number that cannot be.
    """

    def __init__(
        self, *, score: float = 0.4, fps: float = 30.0, lost_seconds: float = 1.0, away_seconds: float = 3.0
    ) -> None:
        _check_score(score)
        for name, value in (("fps", fps), ("lost_seconds", lost_seconds), ("away_seconds", away_seconds)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name}: expected a number greater than 0, got {value:g}")
        try:
            import supervision
            import trackers
        except ImportError as error:
            raise MissingDependencyError(
                f"tracking needs the trackers package ({error}): pip install 'retina-edge[track]'"
            ) from error
        self._supervision: Any = supervision
        self._package: Any = trackers
        self._score = score
        self._fps = fps
        self._lost_seconds = lost_seconds
        self._away_seconds = away_seconds
        self._new_ids = itertools.count(1)
        self._classes: dict[int, _ClassTracker] = {}
        self._size: tuple[int, int] | None = None
        self._timestamp: float | None = None
        self._clock = 0.0

    def set_score(self, score: float) -> None:
        """Changes which detections begin tracks, from the next frame on; living tracks go on.

        Raises:
            ValueError: not between 0 and 1.
        """
        _check_score(score)
        self._score = score
        for found in self._classes.values():
            found.tracker.track_activation_threshold = found.tracker.high_conf_det_threshold = score

    def reset(self) -> None:
        """Forgets every object; what is seen next is new."""
        self._classes.clear()

    def update(self, detections: Detections, timestamp: float, *, size: tuple[int, int] | None = None) -> Tracks:
        """See ``Tracker``. A time before the last one by more than ``away_seconds`` resets, as a gap that long does;
        by less, as clocks are set, it counts as the next moment. Boxes without area, or not finite, have no track.

        Raises:
            ValueError: a timestamp that is not finite.
        """
        if not math.isfinite(timestamp):
            raise ValueError(f"timestamp: expected seconds, got {timestamp}")
        self._advance(timestamp)
        if size is not None:
            if self._size not in (None, size):
                self.reset()
            self._size = size
        tracks = np.full(len(detections), UNTRACKED, np.int64)
        boxes = detections.boxes
        usable = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        usable &= detections.scores >= min(MIN_TRACKED_SCORE, self._score)
        # Also the classes that this frame does not show: their objects grow older.
        for label in sorted({*self._classes, *detections.labels[usable].tolist()}):
            rows = np.flatnonzero(usable & (detections.labels == label))
            if label not in self._classes:
                self._classes[label] = _ClassTracker(self._new_tracker(), self._new_ids)
            found = self._classes[label]
            frame = self._supervision.Detections(
                xyxy=boxes[rows].astype(np.float64),
                confidence=detections.scores[rows],
                data={"row": rows},
            )
            found.update(frame, self._clock, tracks)
            if not found.tracker.tracks:
                del self._classes[label]
        return tracks

    def _advance(self, timestamp: float) -> None:
        step = 0.0 if self._timestamp is None else timestamp - self._timestamp
        if abs(step) > self._away_seconds:
            self.reset()
        self._clock += max(step, MIN_TIME_STEP)
        self._timestamp = timestamp

    def _new_tracker(self) -> Any:
        return self._package.ByteTrackTracker(
            # Rounded up, so that not a moment is lost; at 0 the package would forgive no miss at all.
            lost_track_buffer=math.ceil(self._lost_seconds * BUFFER_RATE),
            frame_rate=self._fps,
            track_activation_threshold=self._score,
            high_conf_det_threshold=self._score,
        )


def _check_score(score: float) -> None:
    if not 0 < score < 1:
        raise ValueError(f"score: expected more than 0 and less than 1, got {score:g}")


class _ClassTracker:
    """One class's tracker, and the stream's ids of its living tracks; its own begin at 0 for each class."""

    def __init__(self, tracker: Any, new_ids: itertools.count[int]) -> None:
        self.tracker = tracker
        self._new_ids = new_ids
        self._ids: dict[int, int] = {}

    def update(self, frame: Any, clock: float, tracks: Tracks) -> None:
        """Writes the ids of ``frame``, a supervision.Detections, into the rows of ``tracks`` it names."""
        # It comes back in another order, and without its data where it is empty.
        tracked = self.tracker.update(frame, timestamp=clock)
        if len(tracked):
            for row, own in zip(tracked.data["row"].tolist(), tracked.tracker_id.tolist(), strict=True):
                if own >= 0:
                    if own not in self._ids:
                        self._ids[own] = next(self._new_ids)
                    tracks[row] = self._ids[own]
        living = {track.tracker_id for track in self.tracker.tracks}
        self._ids = {own: name for own, name in self._ids.items() if own in living}
