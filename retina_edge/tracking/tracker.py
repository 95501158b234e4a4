"""A tracker, which gives the objects of one stream an identity from frame to frame.

``ByteTrack`` uses the trackers package. The method (Zhang et al., ECCV 2022, https://arxiv.org/abs/2110.06864) predicts
the position of each object with a Kalman filter, and matches high-scoring boxes first, then low-scoring ones. The
package measures time in seconds, so dropped frames do not break a track.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.errors import MissingDependencyError
from engines.core.letterbox import BgrImage
from retina_edge.detections import DEFAULT_SCORE, Detections

Tracks = npt.NDArray[np.int64]

UNTRACKED = -1
# ByteTrack's own minimum. A box with a lower score is noise, even at the predicted position of an object.
MIN_TRACKED_SCORE = 0.1
# Number of time units per second in which the package measures how long an object may be lost.
BUFFER_RATE = 30.0
# Smallest time between two frames, in seconds: for equal times, the package warns and does not advance its clock.
MIN_TIME_STEP = 1e-3


class ByteTrack:
    """The tracker ByteTrack for one stream. Instances are independent: they share neither objects nor ids.

    A track keeps its class, because each class is tracked separately: if the class of a box changes, another track
    begins. An object gets its id in its second consecutive frame; before that it may be a false positive.

    ``update`` needs all detections of the model, including those with scores too low to be shown: such boxes keep
    tracks alive through shadow and occlusion.

    Args:
        score: detections that score at least this begin and continue tracks; others only continue tracks.
        fps: approximate frame rate, which limits how far an object may move between two frames. The rate need not be
            exact, because the times given to ``update`` are used.
        lost_seconds: time that an object may be unseen and keep its id, in seconds.
        away_seconds: time without a frame after which all objects are forgotten, in seconds.

    Raises:
        MissingDependencyError: if the trackers package is not installed.
        ValueError: if a number is out of range.
    """

    def __init__(
        self, *, score: float = DEFAULT_SCORE, fps: float = 30.0, lost_seconds: float = 1.0, away_seconds: float = 3.0
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
        """Change the score that begins tracks, from the next frame on; existing tracks continue.

        Raises:
            ValueError: if the score is not between 0 and 1.
        """
        _check_score(score)
        self._score = score
        for per_class in self._classes.values():
            per_class.tracker.track_activation_threshold = per_class.tracker.high_conf_det_threshold = score

    def reset(self) -> None:
        """Forget all objects; later detections begin new tracks."""
        self._classes.clear()

    def update(
        self,
        detections: Detections,
        timestamp: float,
        *,
        size: tuple[int, int] | None = None,
        image: BgrImage | None = None,
    ) -> Tracks:
        """Return the track of each detection. Call this method with every frame, in order, and never concurrently.

        A time that is more than ``away_seconds`` before or after the last one resets the tracker. A smaller step back,
        such as a clock adjustment, counts as the next moment. Boxes that are empty or not finite get no track.

        Args:
            detections: detections of one frame, in any order.
            timestamp: time of capture, in seconds of any monotonic clock.
            size: (height, width) of the frame, pixels; a change of size resets the tracker. None skips this check.
            image: the frame, uint8 [height, width, 3], BGR, for trackers that look at it. ByteTrack does not. It is not
                kept.

        Returns:
            Track ids, int64 [N], in the order of ``detections``. Ids begin at 1, are unique in this stream and never
            reused, even after a reset. A detection that has no track, or none yet, gets ``UNTRACKED`` (-1).

        Raises:
            ValueError: if the timestamp is not finite.
        """
        if not math.isfinite(timestamp):
            raise ValueError(f"timestamp: expected finite seconds, got {timestamp}")
        self._advance(timestamp)
        if size is not None:
            if self._size not in (None, size):
                self.reset()
            self._size = size
        tracks = np.full(len(detections), UNTRACKED, np.int64)
        boxes = detections.boxes
        usable = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        usable &= detections.scores >= min(MIN_TRACKED_SCORE, self._score)
        self._move_tracks(image, detections, usable)
        # Classes without a detection in this frame need an update too, so that their objects expire.
        for label in sorted({*self._classes, *detections.labels[usable].tolist()}):
            rows = np.flatnonzero(usable & (detections.labels == label))
            if label not in self._classes:
                self._classes[label] = _ClassTracker(self._new_tracker(), self._new_ids)
            per_class = self._classes[label]
            frame = self._supervision.Detections(
                xyxy=boxes[rows].astype(np.float64),
                confidence=detections.scores[rows],
                data={"row": rows},
            )
            per_class.update(frame, self._clock, tracks)
            if not per_class.tracker.tracks:
                del self._classes[label]
        return tracks

    def _advance(self, timestamp: float) -> None:
        step = 0.0 if self._timestamp is None else timestamp - self._timestamp
        if abs(step) > self._away_seconds:
            self.reset()
        self._clock += max(step, MIN_TIME_STEP)
        self._timestamp = timestamp

    def _move_tracks(self, image: BgrImage | None, detections: Detections, usable: npt.NDArray[np.bool_]) -> None:
        """Move the tracks with the camera, before they are matched. ByteTrack assumes that the camera stands still."""

    def _new_tracker(self) -> Any:
        return self._package.ByteTrackTracker(
            # Round up: with a buffer of 0 the package would end a track at the first missed frame.
            lost_track_buffer=math.ceil(self._lost_seconds * BUFFER_RATE),
            frame_rate=self._fps,
            track_activation_threshold=self._score,
            high_conf_det_threshold=self._score,
        )


def _check_score(score: float) -> None:
    if not 0 < score < 1:
        raise ValueError(f"score: expected more than 0 and less than 1, got {score:g}")


class _ClassTracker:
    """The package's tracker of one class, and the mapping from its ids to the ids of the stream.

    The package's ids begin at 0 for each class. The mapping holds only existing tracks.
    """

    def __init__(self, tracker: Any, new_ids: itertools.count[int]) -> None:
        self.tracker = tracker
        self._new_ids = new_ids
        self._ids: dict[int, int] = {}

    def update(self, frame: Any, clock: float, tracks: Tracks) -> None:
        """Write the ids of ``frame``, a supervision.Detections, into ``tracks`` at the rows in its ``data``."""
        # The package returns the detections in another order, and without ``data`` if there are none.
        tracked = self.tracker.update(frame, timestamp=clock)
        if len(tracked):
            for row, package_id in zip(tracked.data["row"].tolist(), tracked.tracker_id.tolist(), strict=True):
                if package_id >= 0:
                    if package_id not in self._ids:
                        self._ids[package_id] = next(self._new_ids)
                    tracks[row] = self._ids[package_id]
        existing = {track.tracker_id for track in self.tracker.tracks}
        self._ids = {package_id: track for package_id, track in self._ids.items() if package_id in existing}
