"""End-to-end test against torchvision: convert, export and ONNX Runtime return torchvision's own detections."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torchvision.models.detection.retinanet import RetinaNet as TorchvisionRetinaNet

from engines.core.contract import DetectorContract
from engines.core.letterbox import Letterbox
from export.torch_export import ExportReport
from retina_edge import convert, export
from retina_edge.detector import Detector
from retina_edge.model.retinanet import RetinaNet
from tests.export.torchvision_models import BUILDERS, Images, as_torchvision, largest_differences, lively

pytestmark = pytest.mark.start_first

INPUT_SIZE = (256, 320)
# Differences that the project guarantees. Convolutions that sum in another order change logits by about 1e-5. All boxes
# are compared by their largest difference: so little exchanges two boxes in NMS only if their scores are as close, and
# weights and images are seeded. A comparison of two precisions needs partners (``retina_edge.evaluation.partners``).
PIXELS = 0.05
SCORE = 1e-4
# Convolutions may sum in another order for a batch than for a single image.
BATCH_PIXELS = 1e-3
BATCH_SCORE = 1e-6


@pytest.fixture(scope="module")
def images(frames: list[Images]) -> list[Images]:
    """Images of the input size, which no step resizes: a real image, a letterboxed image with padding, and noise."""
    height, width = INPUT_SIZE
    noise = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    padded = np.empty_like(noise[0])
    Letterbox.fit((400, 400), INPUT_SIZE).apply(frames[1], padded)
    return [frames[0][:height, :width].copy(), padded, *noise]


def test_a_small_export_returns_torchvisions_detections(
    model: RetinaNet, contract: DetectorContract, report: ExportReport, frames: list[Images]
) -> None:
    """torchvision's RetinaNet on the same small network: its own preprocessing, anchors, decode and NMS."""
    height, width = contract.input_size
    reference = TorchvisionRetinaNet(
        model.backbone,
        len(contract.class_names),
        min_size=height,
        max_size=width,
        anchor_generator=model.anchor_generator,
        head=model.head,
        score_thresh=contract.score_threshold,
        nms_thresh=contract.iou_threshold,
        topk_candidates=contract.top_k,
        detections_per_img=contract.max_detections,
    ).eval()
    images = [np.ascontiguousarray(frame[:height, :width]) for frame in frames]
    with torch.inference_mode():
        expected = reference([as_torchvision(image) for image in images])
    with Detector.load(report.path) as detector:
        for image, detections in zip(images, expected, strict=True):
            assert len(detections["labels"]) > 20
            pixels, score = largest_differences(detector(image, score=detector.score_threshold), detections)
            assert pixels <= PIXELS
            assert score <= SCORE


@pytest.mark.slow
# With three classes there are fewer detections than the 300 allowed. With 91, top_k takes effect on most levels.
@pytest.mark.parametrize(
    ("arch", "num_classes", "seed"),
    [("retinanet_resnet50_fpn", 3, 2), ("retinanet_resnet50_fpn_v2", 91, 0)],
)
def test_export_returns_torchvisions_detections(
    arch: str, num_classes: int, seed: int, images: list[Images], tmp_path: Path
) -> None:
    torch.manual_seed(seed)
    height, width = INPUT_SIZE
    model = BUILDERS[arch](
        weights=None, weights_backbone=None, num_classes=num_classes, min_size=height, max_size=width
    )
    lively(model, as_torchvision(images[0]), seed)
    source, checkpoint, onnx = (tmp_path / name for name in ("source.pth", "model.pt", "model.onnx"))
    torch.save(model.state_dict(), source)
    assert convert.main([str(source), "--arch", arch, "--input", "256x320", "-o", str(checkpoint)]) == 0
    image_file = tmp_path / "real.png"
    assert cv2.imwrite(str(image_file), images[0])
    arguments = [str(checkpoint), "-o", str(onnx), "--batch", "dynamic", "--images", str(image_file)]
    assert export.main(arguments) == 0

    with torch.inference_mode():
        expected = model([as_torchvision(image) for image in images])
    with Detector.load(onnx) as detector:
        together = detector(images, score=detector.score_threshold)
        alone = [detector(image, score=detector.score_threshold) for image in images]
    for detections, reference in zip(together, expected, strict=True):
        assert len(detections) > 200
        pixels, score = largest_differences(detections, reference)
        assert pixels <= PIXELS
        assert score <= SCORE
    for batched, single in zip(together, alone, strict=True):
        np.testing.assert_array_equal(batched.labels, single.labels)
        np.testing.assert_allclose(batched.boxes, single.boxes, rtol=0, atol=BATCH_PIXELS)
        np.testing.assert_allclose(batched.scores, single.scores, rtol=0, atol=BATCH_SCORE)
