"""BoT-SORT, a tracker for cameras that move: the tracks are moved with the camera before they are matched.

``BotSort`` uses the trackers package. The method (Aharon et al., 2022, https://arxiv.org/abs/2206.14651) adds to
ByteTrack a Kalman filter of center and size, scores that count in the matching, and camera motion. The appearance of
objects, its third part, is left out: it needs a second network.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.core.letterbox import BgrImage
from retina_edge.detections import Detections
from retina_edge.tracking.camera_motion import CameraMotion
from retina_edge.tracking.tracker import BUFFER_RATE, ByteTrack


class BotSort(ByteTrack):
    """The tracker BoT-SORT for one stream, without appearance. It needs the ``image`` in ``update``.

    Without an image, it assumes that the camera did not move. Arguments, ids and errors are those of ``ByteTrack``.
    """

    def __init__(self, **options: float) -> None:
        super().__init__(**options)
        self._motion = CameraMotion()

    def _move_tracks(self, image: BgrImage | None, detections: Detections, usable: npt.NDArray[np.bool_]) -> None:
        if image is None:
            return
        # Weak boxes are often background, which shows the motion.
        objects = detections.boxes[usable & (detections.scores >= self._score)]
        motion = self._motion.estimate(image, objects)
        # The package predicts the tracks after this, not before. That order gives the same positions, because a
        # prediction at constant speed and a linear motion can be exchanged.
        for per_class in self._classes.values():
            self._package.CMC.apply_batch(motion, per_class.tracker.tracks)

    def _new_tracker(self) -> Any:
        return self._package.BoTSORTTracker(
            lost_track_buffer=math.ceil(self._lost_seconds * BUFFER_RATE),
            frame_rate=self._fps,
            track_activation_threshold=self._score,
            high_conf_det_threshold=self._score,
            # One estimate serves the trackers of all classes. The package's own one also follows corners on objects.
            enable_cmc=False,
            # As in ByteTrack, an object gets its id in its second frame.
            instant_first_frame_activation=False,
        )
