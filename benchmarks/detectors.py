"""RetinaNet here against other detectors: parameters, arithmetic, latency, and the AP that their makers published.

    python -m benchmarks.detectors

Random weights: the time of a convolution does not depend on them. Every score lies under the threshold, which spares
the others' post-processing, too. Each detector has the input that its AP was published for, and starts from the same
frame of 720p in memory. YOLOX-S is measured where the package libreyolo (MIT) is installed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import detection

from benchmarks.networks import exported, random_retinanet
from benchmarks.record import interleaved, save
from engines.build_options import BuildOptions
from engines.builder import build_engine
from engines.letterbox import letterbox_batch
from retina_edge import Detector
from retina_edge.image_file import read_image
from retina_edge.model.config import ModelConfig
from retina_edge.sample import FOREST

Frame = npt.NDArray[np.uint8]
FRAME_SIZE = (1280, 720)
CLASSES, SIDE = 91, 800
# Under it lies every score of random weights, and over it what counts.
THRESHOLD = 0.05
BASE = "RetinaNet R50"
YOLOX_SIDE = 640
# Of YOLOX-S on COCO val2017 at 640×640: Ge et al., "YOLOX", arXiv 2107.08430, and its repository's table.
YOLOX_AP = 40.5


@dataclass(frozen=True)
class Peer:
    """Another detector.

    Attributes:
        name: its name.
        model: in evaluation mode.
        side: of its square input, pixels.
        average_precision: published, COCO val2017, points; None where there is none.
        run: image float32 [3, side, side] in 0 to 1 to whatever it finds.
    """

    name: str
    model: nn.Module
    side: int
    average_precision: float | None
    run: Callable[[torch.Tensor], Any]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="counted runs of each (default: 5)")
    rounds = parser.parse_args(argv).rounds
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    figures = [row for device in devices for row in _measure(device, rounds)]
    table = Table("", "input", "run by", "parameters, M", "GMAC", "AP published", "ms", "times as fast")
    for row in figures:
        shape = f"{row['input']}x{row['input']}"
        cells = (f"{row['parameters'] / 1e6:.1f}", f"{row['gmac']:.1f}", str(row["published_ap"] or ""))
        table.add_row(row["detector"], shape, row["run_by"], *cells, f"{row['ms']:.1f}", f"{row['ratio']:.2f}")
    Console().print(table)
    Console().print(f"written to {save('detectors', figures).name}")
    return 0


def _measure(device: str, rounds: int) -> list[dict[str, Any]]:
    frame = _frame()
    rows: dict[str, dict[str, Any]] = {}
    candidates: dict[str, Callable[[], object]] = {}
    peers = [*_ours(), *_torchvisions(), *_yolox()]
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        for peer in peers:
            facts = {
                "detector": peer.name,
                "input": peer.side,
                "parameters": sum(parameter.numel() for parameter in peer.model.parameters()),
                "gmac": _gmac(peer),
                "published_ap": peer.average_precision,
                "device": device,
            }
            peer.model.to(device)
            title = f"{peer.name}, torch eager"
            candidates[title] = partial(_eager, peer, frame, device)
            rows[title] = {**facts, "run_by": "torch eager"}
            if peer.name in BACKBONES:
                runner, detector = _deployed(peer.name, device, Path(name), frame)
                title = f"{peer.name}, {runner}"
                candidates[title] = partial(stack.enter_context(detector), frame)
                rows[title] = {**facts, "run_by": runner}
        times = interleaved(candidates, rounds=rounds)
    base = times[f"{BASE}, torch eager"]
    return [
        {**row, "ms": round(times[title], 3), "ratio": round(base / times[title], 3), "rounds": rounds}
        for title, row in rows.items()
    ]


def _eager(peer: Peer, frame: Frame, device: str) -> object:
    images, _ = letterbox_batch([frame], (peer.side, peer.side))
    image = torch.from_numpy(cv2.cvtColor(images[0], cv2.COLOR_BGR2RGB)).to(device).permute(2, 0, 1).float() / 255
    with torch.inference_mode():
        found = peer.run(image)
    if device == "cuda":
        torch.cuda.synchronize()
    return found


BACKBONES = {"RetinaNet R18": "resnet18", BASE: "resnet50", "RetinaNet R101": "resnet101"}


def _ours() -> list[Peer]:
    peers = []
    for name, backbone in BACKBONES.items():
        model, contract = random_retinanet(ModelConfig(CLASSES, backbone=backbone), SIDE)
        # Torch runs the network alone here, without decode and NMS: a head start.
        weights = detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1
        ap = _published(weights) if name == BASE else None
        peers.append(Peer(name, model, contract.input_size[0], ap, partial(_network, model)))
    return peers


def _deployed(name: str, device: str, folder: Path, frame: Frame) -> tuple[str, Detector]:
    model, contract = random_retinanet(ModelConfig(CLASSES, backbone=BACKBONES[name]), SIDE)
    onnx = exported(model, contract, folder / f"{BACKBONES[name]}.onnx", frame)
    if device == "cpu":
        return "ONNX Runtime", Detector.load(onnx)
    engine = onnx.with_suffix(".engine")
    build_engine(onnx, engine, BuildOptions(precision="fp16"))
    return "engine, FP16", Detector.load(engine)


def _torchvisions() -> list[Peer]:
    large = {"min_size": SIDE, "max_size": SIDE}
    small = {"score_thresh": THRESHOLD}
    choices: list[tuple[str, Callable[..., nn.Module], Any, int, dict[str, Any]]] = [
        (
            "Faster R-CNN R50 FPN",
            detection.fasterrcnn_resnet50_fpn,
            detection.FasterRCNN_ResNet50_FPN_Weights,
            SIDE,
            large,
        ),
        ("FCOS R50 FPN", detection.fcos_resnet50_fpn, detection.FCOS_ResNet50_FPN_Weights, SIDE, large),
        ("SSD300 VGG16", detection.ssd300_vgg16, detection.SSD300_VGG16_Weights, 300, small),
        (
            "SSDLite320 MobileNetV3-L",
            detection.ssdlite320_mobilenet_v3_large,
            detection.SSDLite320_MobileNet_V3_Large_Weights,
            320,
            small,
        ),
    ]
    peers = []
    for name, make, weights, side, options in choices:
        torch.manual_seed(0)
        model = make(weights=None, weights_backbone=None, **options).eval()
        ap = _published(weights.COCO_V1)
        peers.append(Peer(name, model, side, ap, partial(_detector, model)))
    return peers


def _yolox() -> list[Peer]:
    try:
        from libreyolo.models.yolox.nn import LibreYOLOXModel
        from libreyolo.postprocess.yolox import postprocess
    except ImportError:
        return []
    torch.manual_seed(0)
    model = LibreYOLOXModel("s", 80).eval()

    def run(image: torch.Tensor) -> object:
        # Random weights give every position 0.27.
        return postprocess(model(image[None] * 255), 0.5, 0.45, YOLOX_SIDE)

    return [Peer("YOLOX-S", model, YOLOX_SIDE, YOLOX_AP, run)]


def _network(model: nn.Module, image: torch.Tensor) -> object:
    return model(image[None])


def _detector(model: nn.Module, image: torch.Tensor) -> object:
    return model([image])


def _published(weights: Any) -> float:
    """As torchvision states it with the weights."""
    points: float = weights.meta["_metrics"]["COCO-val2017"]["box_map"]
    return points


def _gmac(peer: Peer) -> float:
    """10⁹ multiply-adds of one image, counted by torch."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        peer.run(torch.rand(3, peer.side, peer.side))
    return round(float(counter.get_total_flops()) / 2e9, 2)


def _frame() -> Frame:
    forest = read_image(FOREST)
    return np.asarray(cv2.resize(forest[:, : forest.shape[0] * 16 // 9], FRAME_SIZE), np.uint8)


if __name__ == "__main__":
    raise SystemExit(main())
