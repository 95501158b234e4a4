"""The whole way against torchvision: convert, export and ONNX Runtime give its own detections."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from engines.core.letterbox import Letterbox
from retina_edge import convert, export
from retina_edge.detections import Detections
from retina_edge.detector import Detector
from tests.export.torchvision_models import BUILDERS, Images, as_torchvision, lively

pytestmark = pytest.mark.long

INPUT_SIZE = (256, 320)
# What the project promises. Convolutions summed in another order move logits by some 1e-5.
PIXELS = 0.05
SCORE = 1e-4
# A batch may be summed in another order than its images.
BATCH_PIXELS = 1e-3
BATCH_SCORE = 1e-6


def match(ours: Detections, theirs: dict[str, Tensor]) -> tuple[float, float]:
    """Greatest difference of boxes and of scores, each detection paired with one of torchvision's of its label.

    In pairs, not row by row: where two scores differ by less than the convolutions' rounding, either may come
    first.
    """
    boxes, scores, labels = (theirs[key].numpy() for key in ("boxes", "scores", "labels"))
    assert len(ours) == len(labels)
    np.testing.assert_array_equal(np.sort(ours.labels), np.sort(labels))
    free = np.ones(len(labels), bool)
    pixels, score = 0.0, 0.0
    for i in range(len(ours)):
        distance = np.abs(boxes - ours.boxes[i]).max(axis=1)
        distance[~free | (labels != ours.labels[i])] = np.inf
        nearest = int(distance.argmin())
        free[nearest] = False
        pixels = max(pixels, float(distance[nearest]))
        score = max(score, abs(float(scores[nearest] - ours.scores[i])))
    return pixels, score


@pytest.fixture(scope="module")
def images(frames: list[Images]) -> list[Images]:
    """As large as the input, so that nobody resizes them: a real image, one letterboxed with padding, and noise."""
    height, width = INPUT_SIZE
    noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    padded = np.empty_like(noise[0])
    Letterbox.fit((400, 400), INPUT_SIZE).apply(frames[1], padded)
    return [frames[0][:height, :width].copy(), padded, *noise]


# Three classes give fewer detections than the 300 allowed; with 91, top_k cuts on most levels.
@pytest.mark.parametrize(
    ("arch", "num_classes", "seed"), [("retinanet_resnet50_fpn", 3, 2), ("retinanet_resnet50_fpn_v2", 91, 0)]
)
def test_torchvisions_detections(arch: str, num_classes: int, seed: int, images: list[Images], tmp_path: Path) -> None:
    torch.manual_seed(seed)
    height, width = INPUT_SIZE
    model = BUILDERS[arch](
        weights=None, weights_backbone=None, num_classes=num_classes, min_size=height, max_size=width
    )
    lively(model, as_torchvision(images[0]), seed)
    source, checkpoint, onnx = (tmp_path / name for name in ("source.pth", "model.pt", "model.onnx"))
    torch.save(model.state_dict(), source)
    assert convert.main([str(source), "--arch", arch, "--input", "256x320", "-o", str(checkpoint)]) == 0
    picture = tmp_path / "real.png"
    assert cv2.imwrite(str(picture), images[0])
    arguments = [str(checkpoint), "-o", str(onnx), "--batch", "dynamic", "--images", str(picture)]
    assert export.main(arguments) == 0

    with torch.inference_mode():
        expected = model([as_torchvision(image) for image in images])
    with Detector.load(onnx) as detector:
        together = detector(images)
        alone = [detector(image) for image in images]
    for ours, theirs in zip(together, expected, strict=True):
        assert len(ours) > 200
        pixels, score = match(ours, theirs)
        assert pixels <= PIXELS
        assert score <= SCORE
    for ours, one in zip(together, alone, strict=True):
        np.testing.assert_array_equal(ours.labels, one.labels)
        np.testing.assert_allclose(ours.boxes, one.boxes, rtol=0, atol=BATCH_PIXELS)
        np.testing.assert_allclose(ours.scores, one.scores, rtol=0, atol=BATCH_SCORE)
