"""Comparison of a runner with a reference by what is continuous: raw heads, and matched boxes.

Detections themselves jump. Noise below the rounding of float16 can exchange two candidates whose boxes overlap, and
then NMS keeps the other one, some pixels away. So raw heads are compared in decibels, and of the detections the share
that has a partner, and their mean distance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from engines.core.executor import RawDetections
from engines.core.letterbox import letterbox_batch
from engines.plugins.specification import detections_of
from engines.runner.gpu_executor import GpuExecutor
from retina_edge.evaluation.partners import Partners, agreement, sure_partners

# Raw heads in FP16 or TF32, whose letterbox may differ by one gray level in a tenth of the pixels, have 42 dB and more
# (the worst head of any picture). A letterbox that is off by one pixel has 15 dB, exchanged colors or pictures below 0.
DECIBELS = 35.0
# Only expected detections that score at least this are matched.
SURE = 0.5
# The least share of sure detections with a partner, and their largest mean displacement in pixels.
SHARE, PIXELS = 0.95, 0.7

Heads = Sequence[npt.NDArray[np.float32]]
# From letterboxed images, uint8 [N, height, width, 3], to the raw heads of a network in FP32.
Reference = Callable[[npt.NDArray[np.uint8]], Heads]


def least_decibels(heads: Heads, expected: Heads) -> float:
    """Return the signal-to-noise ratio of the worst raw head of any picture: 10 log10(variance / mean squared error).

    Args:
        heads, expected: raw heads of each level, [N, channels, h, w].
    """
    worst = np.inf
    for found, wanted in zip(heads, expected, strict=True):
        assert found.shape == wanted.shape
        for image, reference in zip(found, wanted, strict=True):
            noise = float(np.mean((image.astype(np.float64) - reference) ** 2))
            assert np.isfinite(noise)
            if noise:
                worst = min(worst, float(10 * np.log10(np.var(reference, dtype=np.float64) / noise)))
    return worst


def partners_of(found: RawDetections, expected: RawDetections, image: int) -> Partners:
    """Pair the sure expected detections of one image with boxes of the same class that were found."""
    pairs = sure_partners(found, expected, image, sure=SURE)
    assert pairs.sure > 0
    return pairs


def partners(found: RawDetections, expected: RawDetections, image: int) -> tuple[float, float]:
    """Match the sure expected detections of one image with boxes that were found.

    Returns:
        The share that has a partner, and the mean displacement of those, pixels.
    """
    share, distance = agreement([partners_of(found, expected, image)])
    return share or 0.0, np.inf if distance is None else distance


def check_runner(executor: GpuExecutor, frames: Sequence[npt.NDArray[np.uint8]], reference: Reference) -> None:
    """Compare one submission with a network in FP32 and OpenCV's letterbox, stage by stage.

    The raw heads are close. The detections are exactly those that the specification makes of the runner's own heads.
    Nearly all sure detections of the reference have a partner, at about the same position.
    """
    found = executor.result(executor.submit(frames))
    heads = executor.raw_heads(executor.batch or len(frames))
    expected_heads = reference(letterbox_batch(frames, executor.contract.input_size)[0])
    heads = [head[: len(frames)] for head in heads]
    assert least_decibels([head.astype(np.float32) for head in heads], expected_heads) > DECIBELS
    own, expected = detections_of(heads, executor.contract), detections_of(expected_heads, executor.contract)
    np.testing.assert_array_equal(found.num_detections, own.num_detections)
    np.testing.assert_array_equal(found.labels, own.labels)
    # The exponential functions of CUDA and NumPy differ in the last bits.
    np.testing.assert_allclose(found.boxes, own.boxes, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(found.scores, own.scores, rtol=1e-5)
    for image in range(len(frames)):
        share, distance = partners(found, expected, image)
        assert share >= SHARE
        assert distance < PIXELS
