"""RetinaNet here against other detectors: parameters, arithmetic, latency, and the AP that their makers published.

    python -m benchmarks.detectors

Each is complete, from the same frame of 720p in memory to detections in memory, with random weights: the time of a
convolution does not depend on them. That of post-processing does, so every threshold is where nothing passes, which is
checked: each looks through its scores and finds nothing. Torchvision's detectors whose AP was published for a shorter
side of 800 pixels get the frame as it is, and resize it by that rule; RetinaNets stand beside them at 800×800, which is
another input and has no published AP. YOLOX-S is measured where the package libreyolo (MIT) is installed.
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
from benchmarks.building import built
from benchmarks.comparison import Maker, Row, Work, compare, not_run
from benchmarks.forest_frame import forest_frame
from benchmarks.networks import Frame, as_torch, exported, random_retinanet
from retina_edge import Detector
from retina_edge.model.config import ModelConfig

CLASSES, SIDE = 91, 800
# Torchvision's rule, on which its AP was measured: the shorter side 800 pixels, unless the longer got more than 1333.
RULE = {"min_size": 800, "max_size": 1333}
# Of 720p by that rule, and the multiples of 32 around it, to which torchvision pads it and in which ours is exported.
RULED, AROUND = (750, 1333), (768, 1344)
# No score is more than certain. The threshold of ours, which has to be less, is one that no score reaches either.
NOTHING = 1.0
BACKBONES = {"RetinaNet R18": "resnet18", "RetinaNet R50": "resnet50", "RetinaNet R101": "resnet101"}
RETINANET = detection.RetinaNet_ResNet50_FPN_Weights.COCO_V1
EAGER = "torch eager"
BASE = f"RetinaNet R50, {RULED[0]}×{RULED[1]}, {EAGER}"
ROUNDS = {CPU: 5, CUDA: 200}
YOLOX, YOLOX_SIDE = "YOLOX-S", 640
# On COCO val2017 at 640×640, of the table in the repository of the paper's authors.
YOLOX_AP, YOLOX_SOURCE = 40.5, "Ge et al., YOLOX, arXiv 2107.08430"


@dataclass(frozen=True)
class Peer:
    """A detector run by torch.

    Attributes:
        name: its name.
        make: the model, in evaluation mode.
        input: (height, width) of what its network sees of the frame, pixels.
        prepare: the frame as it is given to the model: float32 [3, h, w] in 0 to 1.
        run: model and image to what it finds.
        weights: torchvision's, whose AP holds for this input; None where there is none.
    """

    name: str
    make: Callable[[], nn.Module]
    input: tuple[int, int]
    prepare: Callable[[Frame], torch.Tensor]
    run: Callable[[nn.Module, torch.Tensor], Any]
    weights: Any = None

    @property
    def title(self) -> str:
        return f"{self.name}, {self.input[0]}×{self.input[1]}, {EAGER}"

    @property
    def published(self) -> Row:
        """AP on COCO val2017, points, and who says so."""
        if self.name == YOLOX:
            return {"published_ap": YOLOX_AP, "published_by": YOLOX_SOURCE}
        return published_with(self.weights)


def main(argv: Sequence[str] | None = None) -> int:
    return run("detectors", script_parser(__doc__, ROUNDS).parse_args(argv), partial(measure, peers()), _table)


def measure(
    others: Sequence[Peer], device: str, rounds: int, work: Path, deployed: Sequence[tuple[str, tuple[int, int]]] = ()
) -> Iterator[list[Row]]:
    """Rows of one device, as they come: torch's first, then those of this project.

    Args:
        others: run by torch; the base is one of them.
        device: ``cpu`` or ``cuda``.
        rounds: counted runs of each.
        work: folder for models.
        deployed: backbone and (height, width) of ours.
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
        # The same network on the same pixels but for a hundredth: torchvision's AP stands for ours there.
        weights = RETINANET if (name, size) == ("RetinaNet R50", AROUND) else None
        facts[title] = {"detector": name, "input": list(size), **published_with(weights), "run_by": by}
        makers[title] = partial(_deployed, name, size, device, work, frame, facts[title])
    apart = [title for title in makers if title not in {peer.title for peer in others}] if device == CUDA else []

    def inspect(_: str, found: Any) -> Row:
        if count := _count(found):
            raise ValueError(f"expected thresholds under which nothing is found, got {count} detections")
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
    """As torchvision states it with its weights."""
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
            found = peer.run(model, peer.prepare(frame).to(device))
        if device == CUDA:
            torch.cuda.synchronize()
        return found

    return detect


def _deployed(
    name: str, size: tuple[int, int], device: str, work: Path, frame: Frame, facts: Row, stack: ExitStack
) -> Work:
    model, contract = random_retinanet(ModelConfig(CLASSES, backbone=BACKBONES[name]), size)
    facts |= _arithmetic(model, lambda: model(torch.zeros(1, 3, *size)))
    onnx = exported(model, contract, work / f"random_{BACKBONES[name]}_{size[0]}x{size[1]}.onnx", frame)
    detector = stack.enter_context(Detector.load(onnx if device == CPU else built(onnx, "fp16")))
    return partial(detector, frame)


def _arithmetic(model: nn.Module, run: Callable[[], object]) -> Row:
    """Parameters, and GFLOP of one image as torch counts them, two for each multiply-add."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        run()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "gflop": round(float(counter.get_total_flops()) / 1e9, 2),
    }


DEPLOYED = (
    ("RetinaNet R50", (SIDE, SIDE)),
    ("RetinaNet R50", AROUND),
    ("RetinaNet R18", (SIDE, SIDE)),
    ("RetinaNet R101", (SIDE, SIDE)),
)


def peers() -> list[Peer]:
    """All that torch can run here."""
    score, box_score = {"score_thresh": NOTHING}, {"box_score_thresh": NOTHING}
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
            Peer(name, partial(_made, retinanet_of, backbone), (SIDE, SIDE), _squared(SIDE), _detector)
            for name, backbone in BACKBONES.items()
        ),
        *(
            Peer(name, partial(_random, partial(make, **score)), (side, side), _squared(side), _detector, weights)
            for name, make, weights, side in small
        ),
        *_yolox(),
    ]


def _by_rule(name: str, make: Callable[..., nn.Module], weights: Any) -> Peer:
    return Peer(name, partial(_random, partial(make, **RULE)), RULED, _as_it_is, _detector, weights)


def retinanet_of(backbone: str) -> nn.Module:
    """Torchvision's RetinaNet at 800×800 on any of its ResNets, put together as its own builder does that of R50."""
    body = resnet_fpn_backbone(
        backbone_name=backbone,
        weights=None,
        norm_layer=nn.BatchNorm2d,
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    model: nn.Module = detection.RetinaNet(body, CLASSES, score_thresh=NOTHING, min_size=SIDE, max_size=SIDE)
    return model


def _random(make: Callable[..., nn.Module]) -> nn.Module:
    return _made(partial(make, weights=None, weights_backbone=None))


def _made(make: Callable[..., nn.Module], *arguments: Any) -> nn.Module:
    torch.manual_seed(0)
    return make(*arguments).eval()


def _yolox() -> list[Peer]:
    try:
        from libreyolo.models.yolox.nn import LibreYOLOXModel
        from libreyolo.postprocess.yolox import postprocess
    except ImportError:
        return []

    def run(model: nn.Module, image: torch.Tensor) -> object:
        # Trained on values to 255.
        return postprocess(model(image[None] * 255), NOTHING, 0.45, YOLOX_SIDE)

    make = partial(_made, LibreYOLOXModel, "s", 80)
    return [Peer(YOLOX, make, (YOLOX_SIDE, YOLOX_SIDE), _squared(YOLOX_SIDE), run)]


def _detector(model: nn.Module, image: torch.Tensor) -> object:
    return model([image])


def _as_it_is(frame: Frame) -> torch.Tensor:
    return torch.from_numpy(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)).permute(2, 0, 1).float() / 255


def _squared(side: int) -> Callable[[Frame], torch.Tensor]:
    return lambda frame: as_torch(frame, (side, side))


def _count(found: Any) -> int:
    """Of torchvision's lists of dicts, libreyolo's dicts, and our detections."""
    if isinstance(found, list):
        (found,) = found
    return len(found["scores"]) if isinstance(found, dict) else len(found)


def _table(figures: Sequence[Row]) -> Table:
    table = Table("", "input", "run by", "parameters, M", "GFLOP", "AP published", "ms", "times as fast")
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
