"""The fit of anchors agrees with torchvision's anchors and overlaps; the verb ``anchors`` reports it."""

from __future__ import annotations

import dataclasses
import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from engines.core.errors import DataError
from engines.core.machine import this_machine
from retina_edge.anchors import main
from retina_edge.data.anchor_fit import (
    DEFAULT_RATIOS,
    DEFAULT_SIZES,
    MAX_FITTED_BOXES,
    best_iou,
    fit_anchors,
    input_boxes,
    pyramid,
    suggest_anchors,
    without_idle_ratios,
)
from retina_edge.data.load import load_dataset
from retina_edge.model.config import ModelConfig, octave_sizes
from retina_edge.model.retinanet import RetinaNet
from retina_edge.train import build_parser as build_train_parser

INPUT = (192, 256)


def random_boxes(count: int, size: tuple[float, float], ratio: float = 1.0, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return boxes of (smallest, largest) size and height / width near ``ratio``, anywhere in the input, clipped."""
    random = np.random.default_rng(seed)
    area = random.uniform(*size, count) ** 2
    ratios = ratio * 2 ** random.uniform(-0.3, 0.3, count)
    sides = np.stack([np.sqrt(area / ratios), np.sqrt(area * ratios)], axis=1)
    centers = random.uniform((0, 0), (INPUT[1], INPUT[0]), (count, 2))
    limits = np.array([INPUT[1], INPUT[0]] * 2)
    boxes = np.clip(np.concatenate([centers - sides / 2, centers + sides / 2], axis=1), 0, limits)
    return np.asarray(boxes, np.float32)


@pytest.mark.parametrize("size", [(800, 800), (416, 736), (320, 320), (32, 64)])
@pytest.mark.parametrize("levels", [(3,), (3, 4, 5)])
def test_the_pyramid_equals_that_of_the_network(size: tuple[int, int], levels: tuple[int, ...]) -> None:
    sizes = DEFAULT_SIZES[: len(levels) + 2]
    config = ModelConfig(1, "resnet18", levels, fpn_channels=32, head_depth=1, anchor_sizes=octave_sizes(sizes))
    assert pyramid(size, sizes, DEFAULT_RATIOS) == RetinaNet(config).pyramid(size)


@pytest.mark.parametrize("sizes", [(4, 20), (20, 200)])
def test_the_best_overlap_equals_that_with_all_anchors_of_torchvision(sizes: tuple[int, int]) -> None:
    boxes = random_boxes(300, sizes)
    smallest = (16.0, 32.0, 64.0)
    config = ModelConfig(1, "resnet18", (3,), fpn_channels=32, head_depth=1, anchor_sizes=octave_sizes(smallest))
    features = [torch.zeros(1, 1, *level.feature_size) for level in pyramid(INPUT, smallest, DEFAULT_RATIOS)]
    images = ImageList(torch.zeros(1, 3, *INPUT), [INPUT])
    (anchors,) = RetinaNet(config).anchor_generator(images, features)
    expected = box_iou(torch.from_numpy(boxes), anchors).amax(dim=1).numpy()
    overlap = best_iou(boxes, pyramid(INPUT, smallest, DEFAULT_RATIOS))
    np.testing.assert_allclose(overlap, expected, atol=1e-6)


def test_recall_is_measured_for_each_size_class() -> None:
    # Anchors of 32x32 pixels are centered on every eighth pixel; no anchor matches the box of 4x4 pixels.
    boxes = np.array([[16, 16, 48, 48], [24, 8, 56, 40], [40, 40, 44, 44], [10, 10, 130, 130]], np.float32)
    fit = fit_anchors(boxes, INPUT, (32, 64, 128), (1.0,))
    assert {name: size.boxes for name, size in fit.sizes.items()} == {"all": 4, "small": 1, "medium": 2, "large": 1}
    assert fit.sizes["small"].recall == 0
    assert fit.sizes["small"].mean_iou == pytest.approx(16 / 1024)
    assert (fit.sizes["medium"].recall, fit.sizes["medium"].mean_iou) == (1, 1)
    assert (fit.recall, fit.under_stride) == (0.75, 0.25)


# Objects of 11 pixels can be 4 pixels away from the nearest anchor center on each axis, so no anchors match them all.
@pytest.mark.parametrize(
    ("size", "ratio", "least"), [((9, 14), 1.0, 0.6), ((20, 30), 4.0, 0.85), ((20, 30), 0.25, 0.85)]
)
def test_suggested_anchors_fit_better(size: tuple[int, int], ratio: float, least: float) -> None:
    boxes = random_boxes(400, size, ratio)
    given = fit_anchors(boxes, INPUT, DEFAULT_SIZES, DEFAULT_RATIOS)
    suggested = suggest_anchors(boxes, INPUT, DEFAULT_SIZES, DEFAULT_RATIOS)
    assert suggested.recall > max(least, given.recall + 0.2)
    assert len(suggested.anchor_sizes) == 5
    assert len(suggested.aspect_ratios) == 3
    assert suggested == fit_anchors(boxes, INPUT, suggested.anchor_sizes, suggested.aspect_ratios)
    # A second search finds nothing better.
    assert suggest_anchors(boxes, INPUT, suggested.anchor_sizes, suggested.aspect_ratios) == suggested


def test_anchors_that_fit_are_kept() -> None:
    boxes = random_boxes(400, (40, 90))
    given = fit_anchors(boxes, INPUT, DEFAULT_SIZES, DEFAULT_RATIOS)
    assert given.recall > 0.99
    assert suggest_anchors(boxes, INPUT, DEFAULT_SIZES, DEFAULT_RATIOS) == given


def test_a_search_on_a_sample_of_boxes_measures_all_boxes() -> None:
    boxes = np.tile(random_boxes(1000, (9, 14)), (MAX_FITTED_BOXES // 1000 + 1, 1))
    assert suggest_anchors(boxes, INPUT, DEFAULT_SIZES, DEFAULT_RATIOS).sizes["all"].boxes == len(boxes)


def test_boxes_are_scaled_to_the_input(treecrowns: Path) -> None:
    dataset = load_dataset(treecrowns / "val.json", treecrowns / "images")
    tiles = [image for image in dataset.images if image.size == (400, 400)]
    assert len(tiles) > 3
    boxes = input_boxes(dataclasses.replace(dataset, images=tuple(tiles)), (800, 1600))  # scale 2
    np.testing.assert_array_equal(boxes, np.concatenate([image.boxes for image in tiles]) * 2)


def test_the_verb_needs_no_images(treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "val.json"
    path.write_text((treecrowns / "val.json").read_text())
    arguments = [str(path), "--input", "416x736", "--backbone-levels", "4"]
    assert main([*arguments, "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert report["input"] == [416, 736]
    assert report["given"]["sizes"]["all"]["boxes"] == 296
    assert report["given"]["anchor_sizes"] == [32, 64, 128, 256]
    assert report["suggested"]["sizes"]["small"]["recall"] > report["given"]["sizes"]["small"]["recall"] + 0.15
    assert main(arguments) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "296 objects in an input of 416x736" in output
    assert "An anchor matches an object if they overlap by an IoU of 0.5 or more." in output
    suggested, ratios = (
        [f"{value:g}" for value in report["suggested"][name]] for name in ("anchor_sizes", "aspect_ratios")
    )
    command = f"train with: retina-edge train {path} -o model.pt --input 416x736 --backbone-levels 4 --anchors"
    assert f"{command} {' '.join(suggested)} --aspect-ratios {' '.join(ratios)}" in output
    # The command can be typed, and a second search finds nothing better.
    typed = shlex.split(output[output.index("retina-edge train") :])[2:]
    assert build_train_parser().parse_args(typed).input == (416, 736)
    assert main([*arguments, "--anchors", *suggested, "--aspect-ratios", *ratios]) == 0
    assert "no other anchors fit clearly better" in capsys.readouterr().out


def test_the_verb_takes_the_input_that_training_would_take(
    treecrowns: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(treecrowns / "val.json"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["input"] == [416, 416]  # the images have 400x400 pixels
    assert len(report["given"]["anchor_sizes"]) == (5 if this_machine().gpu else 4)


def test_aspect_ratios_that_no_object_has_are_dropped() -> None:
    boxes = random_boxes(400, (40, 90), ratio=2.0)
    fit = fit_anchors(boxes, INPUT, DEFAULT_SIZES, (0.25, 0.5, 1.0, 2.0))
    fewer = without_idle_ratios(fit, boxes, INPUT)
    assert fewer.aspect_ratios == (1.0, 2.0)  # boxes at the edges of the images are cut
    assert fewer.recall >= fit.recall - 0.01
    needed = without_idle_ratios(fit_anchors(boxes, INPUT, DEFAULT_SIZES, (0.25, 1.0)), boxes, INPUT)
    assert needed.aspect_ratios == (1.0,)


def test_bad_input_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "iscrowd": 1}],
    }
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    assert main([str(path)]) == 1
    assert "expected boxes to learn from, found none" in capsys.readouterr().err
    with pytest.raises(DataError, match="found none"):
        input_boxes(load_dataset(path, None), INPUT)
    for options, message in (
        (["--anchors", "32"], "expected 3 to 5 sizes"),
        (["--anchors", "32", "64", "128", "--backbone-levels", "4"], "expected 4 sizes"),
        (["--anchors", "0"], "expected a number above 0"),
    ):
        with pytest.raises(SystemExit):
            main([str(path), *options])
        assert message in capsys.readouterr().err
