"""This project's RetinaNet against other detectors: parameters, arithmetic, latency, and published AP.

    python -m benchmarks.detectors

Each detector is complete: it starts from the same 720p frame in memory and ends with detections in memory. The weights
are random, because the time of a convolution does not depend on them. The time of post-processing depends on the
scores, so every threshold is so high that no score passes: each detector scans its scores and finds nothing, which is
checked. Some of torchvision's detectors have an AP that was published for a shorter side of 800 pixels; they get the
whole frame and resize it by that rule. RetinaNets at 800×800 are measured, too; for that input, no AP was published.
YOLOX-S is measured if the package libreyolo (MIT) is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import torch
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from benchmarks.arguments import CPU, CUDA, run, script_parser
from benchmarks.building import build_once
from benchmarks.comparison import Maker, Row, Work, compare, not_run
from benchmarks.forest_frame import forest_frame
from benchmarks.networks import Frame, as_torch, export_once, random_retinanet
from retina_edge import Detector
from retina_edge.model.config import ModelConfig

CLASSES, SIDE = 91, 800
# The resize with which torchvision's AP was measured: the shorter side is 800 pixels, unless the longer exceeds 1333.
RESIZE_RULE = {"min_size": 800, "max_size": 1333}
# A 720p frame resized by that rule, and padded to multiples of 32. Torchvision pads the frame to that size, and this
# project's RetinaNet is exported for it.
RESIZED, PADDED = (750, 1333), (768, 1344)
# A threshold that no score exceeds. This project's contract requires less than 1; its threshold is set in networks.py.
UNREACHABLE_SCORE = 1.0
BACKBONES = {"RetinaNet R18": "resnet18", "RetinaNet R50": "resnet50", "RetinaNet R101": "resnet101"}
RETINANET = detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1
EAGER = "torch eager"
BASE = f"RetinaNet R50, {RESIZED[0]}×{RESIZED[1]}, {EAGER}"
ROUNDS = {CPU: 5, CUDA: 200}
YOLOX, YOLOX_SIDE = "YOLOX-S", 640
# AP on COCO val2017 at 640×640, from the table in the repository of the paper's authors.
YOLOX_AP, YOLOX_SOURCE = 40.5, "Ge et al., YOLOX, arXiv 2107.08430"


@dataclass(frozen=True)
class Peer:
    """A detector that torch runs.

    Attributes:
        name: name of the detector.
        make: function that makes the model, in evaluation mode.
        input: (height, width) of the network's input without padding, pixels.
        prepare: function that turns a frame into the model's image, float32 [3, h, w], 0 to 1.
        run: function that runs the model on an image and returns its detections.
        weights: torchvision's weights with an AP that was published for this input; None if there are none.
    """

    name: str
    make: Callable[[], nn.Module]
    input: tuple[int, int]
    prepare: Callable[[Frame], torch.Tensor]
    run: Callable[[nn.Module, torch.Tensor], Any]
    weights: Any = None

    @property
    def title(self) -> str:
        """The detector with its input size and what runs it, for instance ``FCOS R50 FPN, 750×1333, torch eager``."""
        return f"{self.name}, {self.input[0]}×{self.input[1]}, {EAGER}"

    @property
    def published(self) -> Row:
        """The published AP on COCO val2017, in points, and its source."""
        if self.name == YOLOX:
            return {"published_ap": YOLOX_AP, "published_by": YOLOX_SOURCE}
        return published_with(self.weights)


def main(argv: Sequence[str] | None = None) -> int:
    return run("detectors", script_parser(__doc__, ROUNDS).parse_args(argv), partial(measure, peers()), _table)


def measure(
    others: Sequence[Peer], device: str, rounds: int, work: Path, deployed: Sequence[tuple[str, tuple[int, int]]] = ()
) -> Iterator[list[Row]]:
    """Measure one device and yield rows as they are measured: torch's detectors first, then this project's.

    Args:
        others: detectors that torch runs; the base is one of them.
        device: ``cpu`` or ``cuda``.
        rounds: counted runs of each detector.
        work: folder for models.
        deployed: names and (height, width) of this project's detectors; by default all of ``DEPLOYED``.
    """
    frame = forest_frame()
    facts: dict[str, Row] = {}
    makers: dict[str, Maker] = {}
    for peer in others:
        facts[peer.title] = {"detector": peer.name, "input": list(peer.input), **peer.published, "run_by": EAGER}
        makers[peer.title] = partial(_eager, peer, frame, device, facts[peer.title])
    ours = deployed or DEPLOYED
    by = "ONNX Runtime" if device == CPU else "engine, FP16"
    for name, size in ours:
        title = f"{name}, {size[0]}×{size[1]}, {by}"
        # The same network as torchvision's, at a scale that differs by less than 1 %, so torchvision's AP holds, too.
        weights = RETINANET if (name, size) == ("RetinaNet R50", PADDED) else None
        facts[title] = {"detector": name, "input": list(size), **published_with(weights), "run_by": by}
        makers[title] = partial(_deployed, name, size, device, work, frame, facts[title])
    apart = [title for title in makers if title not in {peer.title for peer in others}] if device == CUDA else []

    def inspect(_: str, detections: Any) -> Row:
        if count := _count(detections):
            raise ValueError(f"expected no detections above the threshold, got {count}")
        return {}

    for rows in compare(makers, BASE, rounds=rounds, inspect=inspect, apart=apart):
        for row in rows:
            title = row.pop("candidate")
            row.update({"device": device, **facts[title]})
        yield rows
    if YOLOX not in {peer.name for peer in others}:
        missing = not_run(YOLOX, "expected the package libreyolo; install it with pip install libreyolo")
        yield [{"detector": missing.pop("candidate"), "device": device, "run_by": EAGER, **missing}]


def published_with(weights: Any) -> Row:
    """Return the AP on COCO val2017 that torchvision states for its weights, and the source; None if not published."""
    if weights is None:
        return {"published_ap": None, "published_by": None}
    points = weights.meta["_metrics"]["COCO-val2017"]["box_map"]
    return {"published_ap": points, "published_by": f"torchvision, {weights}"}


def _eager(peer: Peer, frame: Frame, device: str, facts: Row, _: ExitStack) -> Work:
    model = peer.make().to(device)
    facts |= _arithmetic(model, lambda: peer.run(model, peer.prepare(frame).to(device)))
    if device == CUDA:
        facts["cudnn_allow_tf32"] = torch.backends.cudnn.allow_tf32

    def detect() -> object:
        with torch.inference_mode():
            detections = peer.run(model, peer.prepare(frame).to(device))
        if device == CUDA:
            torch.cuda.synchronize()
        return detections

    return detect


def _deployed(
    name: str, size: tuple[int, int], device: str, work: Path, frame: Frame, facts: Row, stack: ExitStack
) -> Work:
    model, contract = random_retinanet(ModelConfig(CLASSES, backbone=BACKBONES[name]), size)
    facts |= _arithmetic(model, lambda: model(torch.zeros(1, 3, *size)))
    path = work / f"random_{BACKBONES[name]}_{size[0]}x{size[1]}.onnx"
    export = partial(export_once, model, contract, path, frame)
    detector = stack.enter_context(Detector.load(export() if device == CPU else build_once(export, "fp16")))
    return partial(detector, frame)


def _arithmetic(model: nn.Module, run: Callable[[], object]) -> Row:
    """Count the parameters, and the GFLOP of one image as torch counts them, two for each multiply-add."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        run()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gflop": round(float(counter.get_total_flops()) / 1e9, 2),
    }


DEPLOYED = (
    ("RetinaNet R50", (SIDE, SIDE)),
    ("RetinaNet R50", PADDED),
    ("RetinaNet R18", (SIDE, SIDE)),
    ("RetinaNet R101", (SIDE, SIDE)),
)


def peers() -> list[Peer]:
    """Return all detectors that torch can run on this machine."""
    score, box_score = {"score_thresh": UNREACHABLE_SCORE}, {"box_score_thresh": UNREACHABLE_SCORE}
    small = (
        ("SSD300 VGG16", detection.ssd300_vgg16, detection.SSD300_VGG16_Weights.COCO_V1, 300),
        (
            "SSDLite320 MobileNetV3-L",
            detection.ssdlite320_mobilenet_v3_large,
            detection.SSDLite320_MobileNet_V3_Large_Weights.COCO_V1,
            320,
        ),
    )
    return [
        _by_rule("RetinaNet R50", partial(detection.retinanet_resnet50_fpn, **score), RETINANET),
        _by_rule(
            "Faster R-CNN R50 FPN",
            partial(detection.fasterrcnn_resnet50_fpn, **box_score),
            detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1,
        ),
        _by_rule(
            "FCOS R50 FPN",
            partial(detection.fcos_resnet50_fpn, **score),
            detection.FCOS_ResNet50_FPN_Weights.COCO_V1,
        ),
        *(
            Peer(name, partial(_build, retinanet_of, backbone), (SIDE, SIDE), _letterboxed(SIDE), _detect)
            for name, backbone in BACKBONES.items()
        ),
        *(
            Peer(
                name, partial(_build_random, partial(make, **score)), (side, side), _letterboxed(side), _detect, weights
            )
            for name, make, weights, side in small
        ),
        *_yolox(),
    ]


def _by_rule(name: str, make: Callable[..., nn.Module], weights: Any) -> Peer:
    return Peer(name, partial(_build_random, partial(make, **RESIZE_RULE)), RESIZED, _whole_frame, _detect, weights)


def retinanet_of(backbone: str) -> nn.Module:
    """Build torchvision's RetinaNet at 800×800 on any ResNet, as torchvision's own function builds it on R50."""
    body = resnet_fpn_backbone(
        backbone_name=backbone,
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    model: nn.Module = detection.RetinaNet(body, CLASSES, score_thresh=UNREACHABLE_SCORE, min_size=SIDE, max_size=SIDE)
    return model


def _build_random(make: Callable[..., nn.Module]) -> nn.Module:
    return _build(partial(make, weights=None, weights_backbone=None))


def _build(make: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return make(*arguments).eval()


def _yolox() -> list[Peer]:
    try:
        from libreyolo.models.yolox.nn import LibreYOLOXModel
        from libreyolo.postprocess.yolox import postprocess
    except ImportError:
        return []

    def run(model: nn.Module, image: torch.Tensor) -> object:
        # YOLOX takes values from 0 to 255.
        return postprocess(model(image[None] * 255), UNREACHABLE_SCORE, 0.45, YOLOX_SIDE)

    make = partial(_build, LibreYOLOXModel, "s", 80)
    return [Peer(YOLOX, make, (YOLOX_SIDE, YOLOX_SIDE), _letterboxed(YOLOX_SIDE), run)]


def _detect(model: nn.Module, image: torch.Tensor) -> object:
    return model([image])


def _whole_frame(frame: Frame) -> torch.Tensor:
    return torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).permute(2, 0, 1).float() / 255


def _letterboxed(side: int) -> Callable[[Frame], torch.Tensor]:
    return lambda frame: as_torch(frame, (side, side))


def _count(detections: Any) -> int:
    """Count detections: torchvision's list of one dict, libreyolo's dict, or this project's Detections."""
    if isinstance(detections, list):
        (detections,) = detections
    return len(detections["scores"]) if isinstance(detections, dict) else len(detections)


def _table(figures: Sequence[Row]) -> Table:
    table = Table("detector", "input", "run by", "M parameters", "GFLOP", "published AP", "ms", "times as fast")
    for row in figures:
        shape = "×".join(map(str, row.get("input", ())))
        named = (row["detector"], shape, row["run_by"])
        facts = [
            f"{row['parameters'] / 1e6:.1f}" if "parameters" in row else "",
            f"{row['gflop']:.1f}" if "gflop" in row else "",
            str(row.get("published_ap") or ""),
        ]
        times = (f"{row['ms']:.1f}", f"{row.get('ratio', 0):.2f}") if "ms" in row else ("", row["not_run"])
        table.add_row(*named, *facts, *times)
    return table


if __name__ == "__main__":
    raise SystemExit(main())
