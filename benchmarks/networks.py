"""RetinaNets with random weights, so that nothing has to be downloaded.

python -m benchmarks.networks r50.onnx 800
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.transforms.v2 import functional

from benchmarks.forest_frame import forest_frame
from engines.core.contract import DetectorContract
from engines.core.letterbox import letterbox_batch
from engines.plugins.parameters import logit
from export.torch_export import export_onnx
from retina_edge.model.config import ModelConfig
from retina_edge.model.retinanet import RetinaNet
from retina_edge.model.torchvision_checkpoint import convert

Frame = npt.NDArray[np.uint8]
ARCHITECTURE = "retinanet_resnet50_fpn"
SCORE_THRESHOLD = 0.05
# Scores above the threshold: as many as trained weights give on a photograph, and the limits for another image or
# arithmetic.
CANDIDATES, MIN_CANDIDATES, MAX_CANDIDATES = 1000, 300, 3000
# ImageNet's mean and standard deviation, with which torchvision's detectors normalize.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# For networks that find nothing: standard deviations of the logits (around the prior's logit) and of the box deltas
# (around zero), and a threshold above all scores.
LOGITS_SPREAD, DELTAS_SPREAD, ABOVE_ALL = 1.0, 0.2, 0.9999


def lively_r50(size: int) -> TorchvisionRetinaNet:
    """Make torchvision's RetinaNet-R50 with random weights that find about 1,000 candidates in the forest frame.

    The model is in evaluation mode and takes images of ``size`` x ``size`` pixels without resizing them. Freshly drawn
    random weights give each class nearly the same score all over the image. So each channel of the last layer is scaled
    to a standard deviation of 1 over the image, which makes scores differ from place to place, and one bias for all
    channels moves the best scores above the threshold.
    """
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, min_size=size, max_size=size).eval()
    last = model.head.classification_head.cls_logits
    with torch.no_grad():
        logits = class_logits(model, as_torch(forest_frame(), (size, size)))
        scaled = _scale(last, logits, 1.0)
        least = torch.topk(scaled.flatten(), CANDIDATES + 1).values[-1]
        last.bias.fill_(float(logit(SCORE_THRESHOLD)) - float(least))
    return model


def _scale(last: nn.Conv2d, raw: Sequence[Tensor], spread: float) -> Tensor:
    """Scale the weights of a last layer so that each channel has a given standard deviation; keep the bias.

    Args:
        last: the layer.
        raw: outputs of the layer for one image, one for each level: [1, channels, h, w].
        spread: the standard deviation over all positions.

    Returns:
        The outputs of the scaled layer without the bias: [channels, positions].
    """
    assert last.bias is not None
    values = torch.cat([level[0].flatten(1) for level in raw], dim=1) - last.bias[:, None]
    factor = spread / values.std(dim=1, keepdim=True)
    last.weight.mul_(factor[:, :, None, None])
    return values * factor


def class_logits(model: TorchvisionRetinaNet, image: Tensor) -> list[Tensor]:
    """Return the raw class logits of one image, float32 [3, size, size], 0 to 1: for each level [1, A * C, h, w]."""
    images, _ = model.transform([image])
    head = model.head.classification_head
    return [head.cls_logits(head.conv(level)) for level in model.backbone(images.tensors).values()]


def as_torch(frame: Frame, size: tuple[int, int]) -> Tensor:
    """Letterbox a frame to (height, width), as torchvision's detectors take it: float32 [3, h, w], RGB, 0 to 1."""
    images, _ = letterbox_batch([frame], size)
    return torch.from_numpy(cv2.cvtColor(images[0], cv2.COLOR_BGR2RGB)).permute(2, 0, 1).float() / 255


def count_candidates(logits: Sequence[npt.NDArray[Any]]) -> int:
    """Count the scores above the threshold, before the top-k of each level.

    Raises:
        ValueError: if the number is unlike that of trained weights, because then the times would be unrealistic.
    """
    count = sum(int(np.count_nonzero(level > logit(SCORE_THRESHOLD))) for level in logits)
    if not MIN_CANDIDATES <= count <= MAX_CANDIDATES:
        raise ValueError(
            f"candidates: expected {MIN_CANDIDATES} to {MAX_CANDIDATES}, got {count}; see lively_r50 in networks.py"
        )
    return count


def export_lively_r50(path: Path, size: int, frame: Frame) -> Path:
    """Export ``lively_r50`` as a deployable FP32 ONNX, unless the file exists, and return its path.

    Args:
        path: path of the ONNX file.
        size: side of the square input, pixels.
        frame: frame to verify the export with.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = convert(lively_r50(size).state_dict(), ARCHITECTURE, input_size=(size, size))
        export_onnx(checkpoint.build_model(), checkpoint.contract, path, batch=1, images=[frame])
    return path


def random_retinanet(config: ModelConfig, size: tuple[int, int], **contract: Any) -> tuple[RetinaNet, DetectorContract]:
    """Make this project's RetinaNet with random weights and a threshold above all scores, so that it finds nothing.

    Scores and boxes vary over the image by more than the rounding of float16, because a network without a signal cannot
    be converted to a lower precision.

    Args:
        config: the architecture.
        size: (height, width) of the input, pixels.
        contract: fields of the contract that differ from the default.
    """
    torch.manual_seed(0)
    model = RetinaNet(config).eval()
    with torch.no_grad():
        logits, deltas = model(functional.normalize(as_torch(forest_frame(), size), MEAN, STD)[None])
        _scale(model.head.classification_head.cls_logits, logits, LOGITS_SPREAD)
        _scale(model.head.regression_head.bbox_reg, deltas, DELTAS_SPREAD)
    default = DetectorContract(
        architecture=f"retinanet_{config.backbone}",
        input_size=size,
        class_names=tuple(f"class {number}" for number in range(config.num_classes)),
        category_ids=tuple(range(config.num_classes)),
        levels=model.pyramid(size),
        mean=MEAN,
        std=STD,
        score_threshold=ABOVE_ALL,
    )
    return model, dataclasses.replace(default, **contract)


def export_once(
    model: RetinaNet, contract: DetectorContract, path: Path, frame: Frame, *, batch: int | None = 1
) -> Path:
    """Export a model as a deployable ONNX, unless the file exists, and return its path."""
    if not path.is_file():
        export_onnx(model, contract, path, batch=batch, images=[frame])
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Write ``lively_r50`` as a deployable ONNX."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("onnx", type=Path)
    parser.add_argument("size", type=int, help="side of the square input, pixels")
    args = parser.parse_args(argv)
    export_lively_r50(args.onnx, args.size, forest_frame())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
