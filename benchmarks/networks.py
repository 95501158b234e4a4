"""Networks with random weights, for measurements without a download.

python -m benchmarks.networks r50.onnx 800
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.models.detection import RetinaNet as TorchvisionRetinaNet
from torchvision.models.detection import retinanet_resnet50_fpn

from engines.contract import DetectorContract
from export.deployable import export_onnx
from retina_edge.image_file import read_image
from retina_edge.model.config import ModelConfig
from retina_edge.model.retinanet import RetinaNet
from retina_edge.model.torchvision_checkpoint import convert
from retina_edge.sample import FOREST

# The prior gives every anchor the score 0.01. With this spread of the last layer's weights around it a few hundred
# candidates pass 0.05, as on a photograph with trained weights.
SPREAD = 0.03


def lively_r50(size: int) -> TorchvisionRetinaNet:
    """Torchvision's RetinaNet-R50 that finds something.

    In evaluation mode, for images of ``size`` x ``size`` pixels, which it does not resize.
    """
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, min_size=size, max_size=size)
    torch.nn.init.normal_(model.head.classification_head.cls_logits.weight, std=SPREAD)
    return model.eval()


def random_retinanet(config: ModelConfig, size: int, **contract: Any) -> tuple[RetinaNet, DetectorContract]:
    """One of ours as training begins with it: every score near the prior of 0.01, so that nothing is found.

    Args:
        config: the architecture.
        size: of the square input, pixels.
        contract: what is to differ from the contract's defaults.
    """
    torch.manual_seed(0)
    model = RetinaNet(config).eval()
    made = DetectorContract(
        architecture=f"retinanet_{config.backbone}",
        input_size=(size, size),
        class_names=tuple(f"class {number}" for number in range(config.num_classes)),
        category_ids=tuple(range(config.num_classes)),
        levels=model.pyramid((size, size)),
    )
    return model, dataclasses.replace(made, **contract)


def exported(
    model: RetinaNet,
    contract: DetectorContract,
    path: Path,
    frame: npt.NDArray[np.uint8],
    *,
    batch: int | None = 1,
) -> Path:
    """The deployable ONNX of a model, at ``path``."""
    export_onnx(model, contract, path, batch=batch, images=[frame])
    return path


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the lively R50 as a deployable ONNX."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("onnx", type=Path)
    parser.add_argument("size", type=int, help="of the square input, pixels")
    args = parser.parse_args(argv)
    checkpoint = convert(lively_r50(args.size).state_dict(), "retinanet_resnet50_fpn", input_size=(args.size,) * 2)
    exported(checkpoint.build_model(), checkpoint.contract, args.onnx, read_image(FOREST))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
