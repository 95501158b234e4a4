"""The benchmark of detectors, with fake detectors: a detector must find nothing, and AP belongs to its own input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import detectors
from benchmarks.detectors import Peer
from engines.core.errors import MissingDependencyError


class Tiny(nn.Module):
    """A model that returns a given number of detections."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.layer, self.count = nn.Conv2d(3, 2, 3), count

    def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
        self.layer(images[0][None])
        return [{"scores": torch.zeros(self.count)}]


def test_a_detector_that_finds_something_has_no_times_and_each_row_has_its_facts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def peer(name: str, count: int, weights: Any = None) -> Peer:
        small = lambda _: torch.zeros(3, 12, 12)  # noqa: E731
        return Peer(name, lambda: Tiny(count), (12, 12), small, lambda model, image: model([image]), weights)

    peers = [peer("empty", 0, detectors.RETINANET), peer("finds", 7)]
    monkeypatch.setattr(detectors, "BASE", peers[0].title)

    def refused(*_: object) -> None:
        raise MissingDependencyError("expected onnxscript, found none")

    monkeypatch.setattr(detectors, "random_retinanet", refused)
    row_groups = list(detectors.measure(peers, "cpu", 1, tmp_path, [("RetinaNet R50", (64, 64))]))
    empty, finds, ours = row_groups[0]
    assert empty["ratio"] == 1
    assert empty["published_ap"] == 36.4
    assert empty["published_by"] == "torchvision, RetinaNet_ResNet50_FPN_Weights.COCO_V1"
    assert empty["parameters"] == 2 * 3 * 9 + 2
    assert finds["not_run"] == "ValueError: expected no detections above the threshold, got 7"
    assert finds["published_ap"] is None
    assert ours["not_run"] == "expected onnxscript, found none"
    assert ours["run_by"] == "ONNX Runtime"
    assert row_groups[1] == [
        {
            "detector": "YOLOX-S",
            "device": "cpu",
            "run_by": "torch eager",
            "not_run": "expected the package libreyolo; install it with pip install libreyolo",
        }
    ]


def test_a_multiply_add_counts_as_two_operations() -> None:
    layer = nn.Conv2d(3, 8, 1, bias=False)
    counted = detectors._arithmetic(layer, lambda: layer(torch.zeros(1, 3, 1000, 1000)))
    assert counted == {"parameters": 24, "gflop": round(2 * 24 * 1e6 / 1e9, 2)}


def test_only_the_input_for_which_ap_was_published_has_a_published_ap() -> None:
    published = {(peer.name, peer.input): peer.published["published_ap"] for peer in detectors.peers()}
    by_rule = {name: ap for (name, size), ap in published.items() if size == detectors.RESIZED}
    assert by_rule == {"RetinaNet R50": 36.4, "Faster R-CNN R50 FPN": 37.0, "FCOS R50 FPN": 39.2}
    assert {ap for (_, size), ap in published.items() if size == (800, 800)} == {None}
    assert published[("SSD300 VGG16", (300, 300))] == 25.1
