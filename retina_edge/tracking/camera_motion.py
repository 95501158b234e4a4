"""The motion of a camera between two frames, from the background: a step of trackers that know a moving camera.

The method is that of BoT-SORT (Aharon et al., 2022, https://arxiv.org/abs/2206.14651, section 3.1): sparse optical flow
follows corners of a frame into the next one, and RANSAC fits a rotation, scale and translation to them. Here, corners
on detected objects do not count, and a motion that the background does not clearly show is no motion.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

# float64 [2, 3]: takes a point (x, y, 1) of the frame before to its place in this frame, pixels.
Affine = npt.NDArray[np.float64]
GrayImage = npt.NDArray[np.uint8]

# Longest side of the picture in which motion is measured, pixels. It bounds the cost of large frames.
MAX_SIDE = 640
MAX_CORNERS = 300
# Quality of the weakest corner as a share of the best one, and least distance between two corners, pixels.
CORNER_QUALITY, CORNER_DISTANCE = 0.01, 8.0
# Least number of corners that agree on a motion, and their least share of all corners that were followed.
MIN_INLIERS, MIN_INLIER_SHARE = 20, 0.5
# Least part of the width and of the height of the frame that these corners span. A smaller patch may be an object.
MIN_SPAN = 0.25
# Distance from the fitted motion within which a corner agrees with it, pixels of the measured picture.
INLIER_DISTANCE = 1.5
# Largest change of scale between two frames. A larger one is a failed fit.
MAX_SCALE = 1.25
# Pixels of the measured picture around an object where corners do not count, because its outline moves with it.
BOX_MARGIN = 8.0
# Share of the frame that objects may cover and be left out. Above it, they are the background, as trees from above.
MAX_COVERED = 0.5


class CameraMotion:
    """An estimator of the camera's motion from frame to frame, for one stream.

    It keeps a small gray copy of the last frame, never the frame itself.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> scene = cv2.resize(rng.integers(0, 256, (60, 80, 3), np.uint8), (640, 480))
        >>> motion, no_boxes = CameraMotion(), np.empty((0, 4), np.float32)
        >>> motion.estimate(scene[:240, :320], no_boxes).tolist()
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
        >>> motion.estimate(scene[5:245, 12:332], no_boxes)[:, 2].round().tolist()
        [-12.0, -5.0]
    """

    def __init__(self) -> None:
        self._size: tuple[int, int] | None = None
        self._gray: GrayImage | None = None
        self._corners: npt.NDArray[np.float32] | None = None

    def estimate(self, image: npt.NDArray[np.uint8], boxes: npt.NDArray[np.floating]) -> Affine:
        """Return the motion since the frame of the last call, whether or not there were frames between.

        Args:
            image: the frame, uint8 [height, width, 3] BGR, or [height, width] gray. It is neither changed nor kept.
            boxes: objects in the frame, float [N, 4], xyxy, frame pixels, finite.

        Returns:
            float64 [2, 3], which takes points of the last frame to this one, in frame pixels. It is the identity for
            the first frame, after a change of size, and if the frames do not show the motion clearly: too few corners,
            a cut, or corners that do not agree.
        """
        size = image.shape[0], image.shape[1]
        scale = min(1.0, MAX_SIDE / max(size))
        gray = _small_gray(image, scale)
        motion: Affine | None = None
        if size == self._size and self._gray is not None and self._corners is not None:
            motion = _fit(self._gray, gray, self._corners)
        self._size, self._gray = size, gray
        self._corners = _background_corners(gray, boxes * scale)
        if motion is None:
            return np.eye(2, 3)
        motion[:, 2] /= scale
        return motion


def _small_gray(image: npt.NDArray[np.uint8], scale: float) -> GrayImage:
    small = image
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in image.shape[:2])
        small = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
    if small.ndim == 3 and small.shape[2] == 3:
        return np.asarray(cv2.cvtColor(small, cv2.COLOR_BGR2GRAY), np.uint8)
    return small.reshape(small.shape[:2]).copy()  # a frame belongs to a pool: never keep a view of it


def _background_corners(gray: GrayImage, boxes: npt.NDArray[np.floating]) -> npt.NDArray[np.float32] | None:
    """Return corners outside of the boxes, float32 [N, 1, 2], or None if there are none."""
    height, width = gray.shape
    mask = np.full(gray.shape, 255, np.uint8)
    outer = np.rint(boxes + np.array([-1, -1, 1, 1]) * BOX_MARGIN)
    for left, top, right, bottom in np.clip(outer, 0, [width, height, width, height]).astype(int).tolist():
        mask[top:bottom, left:right] = 0
    if np.count_nonzero(mask) < (1 - MAX_COVERED) * mask.size:
        mask[:] = 255
    corners = cv2.goodFeaturesToTrack(gray, MAX_CORNERS, CORNER_QUALITY, CORNER_DISTANCE, mask=mask)
    return None if corners is None else np.asarray(corners, np.float32)


def _fit(before: GrayImage, after: GrayImage, corners: npt.NDArray[np.float32]) -> Affine | None:
    """Return the motion of the corners between two pictures, in their pixels; None if it is not clear."""
    followed, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, np.empty_like(corners))
    good = found.ravel() != 0
    start, end = corners[good], followed[good]
    if len(start) < MIN_INLIERS:
        return None
    motion, agrees = cv2.estimateAffinePartial2D(start, end, method=cv2.RANSAC, ransacReprojThreshold=INLIER_DISTANCE)
    if motion is None or not np.isfinite(motion).all():
        return None
    inliers = start[agrees.ravel() != 0, 0]
    if len(inliers) < max(MIN_INLIERS, MIN_INLIER_SHARE * len(start)):
        return None
    height, width = before.shape
    spanned = np.ptp(inliers, axis=0) / (width, height)
    scale = float(np.hypot(motion[0, 0], motion[1, 0]))
    if spanned.min() < MIN_SPAN or not 1 / MAX_SCALE <= scale <= MAX_SCALE:
        return None
    return np.asarray(motion, np.float64)
