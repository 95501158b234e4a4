"""Networks with random weights, for measurements without a download.

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
from torch import Tensor
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection import retinanet_resnet50_fpn

from benchmarks.forest_frame import forest_frame
from engines.contract import DetectorContract
from engines.letterbox import letterbox_batch
from engines.plugins.parameters import logit
from export.deployable import export_onnx
from retina_edge.model.config import ModelConfig
from retina_edge.model.retinanet import RetinaNet
from retina_edge.model.torchvision_checkpoint import convert

Frame = npt.NDArray[np.uint8]
ARCHITECTURE = "retinanet_resnet50_fpn"
SCORE_THRESHOLD = 0.05
# Scores above the threshold, as decode and NMS meet them on a photograph with trained weights, and how far another
# picture or arithmetic may be from that.
CANDIDATES, FEWEST, MOST = 1000, 300, 3000


def lively_r50(size: int) -> TorchvisionRetinaNet:
    """Torchvision's RetinaNet-R50 that finds something: about 1,000 candidates in the forest's frame.

    In evaluation mode, for images of ``size`` x ``size`` pixels, which it does not resize. As they are drawn, random
    weights give each class nearly the same score all over the picture. So each channel of the last layer is scaled to
    a spread of one over the picture, which lets them differ by place, and one bias for all puts the best above the
    threshold.
    """
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, min_size=size, max_size=size).eval()
    last = model.head.classification_head.cls_logits
    with torch.no_grad():
        raw = torch.cat([level[0].flatten(1) for level in class_logits(model, as_torch(forest_frame(), size))], dim=1)
        spread, bias = raw.std(dim=1, keepdim=True), last.bias[:, None]
        scaled = (raw - bias) / spread
        least = torch.topk(scaled.flatten(), CANDIDATES + 1).values[-1]
        last.weight.div_(spread[:, :, None, None])
        last.bias.fill_(float(logit(SCORE_THRESHOLD)) - float(least))
    return model


def class_logits(model: TorchvisionRetinaNet, image: Tensor) -> list[Tensor]:
    """Raw class logits of one image float32 [3, size, size] in 0 to 1: a level each, [1, A * C, h, w]."""
    images, _ = model.transform([image])
    head = model.head.classification_head
    return [head.cls_logits(head.conv(level)) for level in model.backbone(images.tensors).values()]


def as_torch(frame: Frame, size: int) -> Tensor:
    """A frame as torchvision's detectors take it, letterboxed: float32 [3, size, size], RGB, 0 to 1."""
    images, _ = letterbox_batch([frame], (size, size))
    return torch.from_numpy(cv2.cvtColor(images[0], cv2.COLOR_BGR2RGB)).permute(2, 0, 1).float() / 255


def count_candidates(logits: Sequence[npt.NDArray[Any]]) -> int:
    """Scores above the threshold, before the best of each level are chosen.

    Raises:
        ValueError: they are far from what decode and NMS meet in use, and so would be what is measured.
    """
    count = sum(int(np.count_nonzero(level > logit(SCORE_THRESHOLD))) for level in logits)
    if not FEWEST <= count <= MOST:
        raise ValueError(
            f"candidates: expected {FEWEST} to {MOST}, found {count}; networks.py says how the weights come about"
        )
    return count


def export_lively_r50(path: Path, size: int, frame: Frame) -> Path:
    """The lively R50 as a deployable ONNX in FP32; one that is there already is taken as it is.

    Args:
        path: of the file.
        size: of the square input, pixels.
        frame: to verify the export with.
    """
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = convert(lively_r50(size).state_dict(), ARCHITECTURE, input_size=(size, size))
        export_onnx(checkpoint.build_model(), checkpoint.contract, path, batch=1, images=[frame])
    return path


def random_retinanet(config: ModelConfig, size: tuple[int, int], **contract: Any) -> tuple[RetinaNet, DetectorContract]:
    """One of ours as training begins with it: every score near the prior of 0.01, so that nothing is found.

    Args:
        config: the architecture.
        size: (height, width) of the input, pixels.
        contract: what is to differ from the contract's defaults.
    """
    torch.manual_seed(0)
    model = RetinaNet(config).eval()
    made = DetectorContract(
        architecture=f"retinanet_{config.backbone}",
        input_size=size,
        class_names=tuple(f"class {number}" for number in range(config.num_classes)),
        category_ids=tuple(range(config.num_classes)),
        levels=model.pyramid(size),
    )
    return model, dataclasses.replace(made, **contract)


def exported(model: RetinaNet, contract: DetectorContract, path: Path, frame: Frame, *, batch: int | None = 1) -> Path:
    """The deployable ONNX of a model, at ``path``; one that is there already is taken as it is."""
    if not path.is_file():
        export_onnx(model, contract, path, batch=batch, images=[frame])
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the lively R50 as a deployable ONNX."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("onnx", type=Path)
    parser.add_argument("size", type=int, help="of the square input, pixels")
    args = parser.parse_args(argv)
    export_lively_r50(args.onnx, args.size, forest_frame())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
