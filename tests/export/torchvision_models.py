"""torchvision's RetinaNets with random weights that return many detections."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.models.detection import retinanet_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.retinanet import RetinaNet as TorchvisionRetinaNet

from retina_edge.detections import Detections

Images = npt.NDArray[np.uint8]

BUILDERS: dict[str, Callable[..., TorchvisionRetinaNet]] = {
    "retinanet_resnet50_fpn": retinanet_resnet50_fpn,
    "retinanet_resnet50_fpn_v2": retinanet_resnet50_fpn_v2,
}


def lively(model: TorchvisionRetinaNet, image: Tensor, seed: int) -> TorchvisionRetinaNet:
    """Set random weights and statistics, and scale the last layers so that many boxes pass the score threshold.

    The logits get a mean of -4.5 and a standard deviation of 1.2, the box deltas a standard deviation of 0.4.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.7, 1.4),
                (module.weight, 0.5, 1.0),
                (module.bias, -0.2, 0.2),
            ):
                nn.init.uniform_(values, low, high, generator=generator)  # type: ignore[arg-type]
    classes, boxes = model.head.classification_head, model.head.regression_head
    for layer in (*classes.conv.modules(), *boxes.conv.modules()):
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
    nn.init.constant_(classes.cls_logits.bias, -4.5)
    model.eval()
    with torch.inference_mode():
        images, _ = model.transform([image])
        outputs = model.head(list(model.backbone(images.tensors).values()))
        classes.cls_logits.weight *= 1.2 / outputs["cls_logits"].std()
        boxes.bbox_reg.weight *= 0.4 / outputs["bbox_regression"].std()
    return model


def as_torchvision(image: Images) -> Tensor:
    """Convert an image from BGR uint8 [h, w, 3] to RGB float [3, h, w], 0 to 1."""
    return torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1).float() / 255


def largest_differences(detections: Detections, reference: dict[str, Tensor]) -> tuple[float, float]:
    """Return the largest difference of boxes and of scores between detections and those of torchvision.

    Each detection is paired with the nearest detection of torchvision with the same label. A comparison row by row
    would fail if two scores differ by less than the rounding of the convolutions: then either may come first.
    """
    boxes, scores, labels = (reference[key].numpy() for key in ("boxes", "scores", "labels"))
    assert len(detections) == len(labels)
    np.testing.assert_array_equal(np.sort(detections.labels), np.sort(labels))
    unpaired = np.ones(len(labels), bool)
    pixels, score = 0.0, 0.0
    for i in range(len(detections)):
        distance = np.abs(boxes - detections.boxes[i]).max(axis=1)
        distance[~unpaired | (labels != detections.labels[i])] = np.inf
        nearest = int(distance.argmin())
        unpaired[nearest] = False
        pixels = max(pixels, float(distance[nearest]))
        score = max(score, abs(float(scores[nearest] - detections.scores[i])))
    return pixels, score
