"""Options are checked when they are made; paths may be text, and one path may stand for several."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines.core.errors import ContractError
from retina_edge import api
from retina_edge.api.calibration import load_calibration
from retina_edge.api.verification_images import read_images
from retina_edge.data.load import load_dataset
from retina_edge.detections import Detections
from retina_edge.evaluation.coco_metrics import evaluate_detections


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (api.ExportOptions, {"precision": "fp8"}, "precision: expected one of fp32, fp16, int8, got fp8"),
        (api.ExportOptions, {"precision": "int8", "layout": "gpu"}, "layout: expected one of cpu, tensorrt, got gpu"),
        (api.ExportOptions, {"batch": 0}, "batch: expected at least 1, got 0"),
        (api.ExportOptions, {"batch": "dynamic"}, "batch: expected an integer, got 'dynamic'"),
        (api.ExportOptions, {"input_size": (100, 100)}, "input_size: .* multiples of 32, got 100x100"),
        (api.ExportOptions, {"score_threshold": 2}, "score_threshold: expected 0 <= value < 1, got 2"),
        (api.ExportOptions, {"iou_threshold": math.nan}, "iou_threshold: expected 0 <= value <= 1, got nan"),
        (api.ExportOptions, {"top_k": 0}, "top_k: expected at least 1, got 0"),
        (api.ExportOptions, {"layout": "cpu"}, "layout: expected precision int8, got fp32; leave it out"),
        (api.CalibrationOptions, {"images": "i", "calibrator": "foo"}, "calibrator: expected one of percentile, "),
        (api.CalibrationOptions, {"images": "i", "count": 7}, "count: expected at least 8, got 7"),
        (api.AccuracyOptions, {"points": -1, "annotations": "a"}, "points: expected AP points from 0 to 100, got -1"),
        (api.AccuracyOptions, {"points": "1", "annotations": "a"}, "points: expected AP points from 0 to 100, got '1'"),
        (api.ModelOptions, {"input_size": (100, 100)}, "input_size: .* multiples of 32, got 100x100"),
        (api.ModelOptions, {"input_size": 640}, "input_size: expected two numbers, height and width, got 640"),
        (api.ModelOptions, {"anchor_sizes": ()}, "anchor_sizes: expected sizes for 5 levels .*, got 0"),
        (api.ModelOptions, {"anchor_sizes": (0.5,) * 5}, "anchor_sizes: expected sizes of at least 1 pixel, got 0.5"),
        (api.ModelOptions, {"aspect_ratios": (0,)}, "aspect_ratios: expected numbers above 0, got 0"),
        (api.ModelOptions, {"backbone_levels": "5"}, "backbone_levels: expected an integer, got '5'"),
        (api.ModelOptions, {"head_depth": 2.0}, "head_depth: expected an integer, got 2.0"),
        (api.TrainOptions, {"epochs": 1.5}, "epochs: expected an integer, got 1.5"),
        (api.TrainOptions, {"workers": -1}, "workers: expected 0 to 1024, got -1"),
        (api.TrainOptions, {"weight_decay": math.nan}, "weight_decay: expected 0 or more, got nan"),
        (api.TrainOptions, {"learning_rate": math.inf}, "learning_rate: expected more than 0, got inf"),
        (api.AugmentOptions, {"size": 640}, "size: expected two numbers, height and width, got 640"),
        (
            api.AugmentOptions,
            {"scale": 1.0},
            "scale: expected two numbers, the smallest and the largest factor, got 1.0",
        ),
        (api.AugmentOptions, {"min_visible": 2}, "min_visible: expected 0 <= share <= 1, got 2"),
        (api.TileOptions, {"size": 640}, "size: expected two numbers, height and width, got 640"),
        (api.TileOptions, {"size": (0, 640)}, "size: expected at least 1 pixel, got 0"),
        (api.TileOptions, {"overlap": -1}, "overlap: expected at least 0, got -1"),
        (api.EvaluationOptions, {"tiles": (640, 640)}, r"tiles: expected TileOptions, got \(640, 640\)"),
        (api.EvaluationOptions, {"max_detections": 0}, "max_detections: expected at least 1, got 0"),
        (api.EvaluationOptions, {"batch": 0}, "batch: expected at least 1, got 0"),
        (api.EvaluationOptions, {"score": 2}, "score: expected 0 <= score < 1, got 2"),
        (api.EvaluationOptions, {"score": -1}, "score: expected 0 <= score < 1, got -1"),
        (api.EvaluationOptions, {"score": math.nan}, "score: expected 0 <= score < 1, got nan"),
        (api.RunOptions, {"model": "m.onnx", "sources": ["0"], "batch": 0}, "batch: expected at least 1, got 0"),
        (api.RunOptions, {"model": "m.onnx", "sources": ["0"], "score": 2}, "score: expected 0 <= score < 1, got 2"),
    ],
)
def test_an_option_is_checked_when_it_is_made(make: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make(**options)


def test_ap_is_not_computed_for_no_detections(treecrowns: Path) -> None:
    dataset = load_dataset(treecrowns / "val.json", treecrowns / "images")
    empty = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), ("tree",), (1,))
    for count in (0, -1):
        with pytest.raises(ContractError, match="max_detections: expected at least 1"):
            evaluate_detections([empty] * len(dataset), dataset, max_detections=count)


def test_images_are_one_path_or_several_also_as_text(treecrowns: Path) -> None:
    folder = treecrowns / "images"
    expected = [image.tobytes() for image in read_images([folder])]
    for given in (folder, str(folder), [str(folder)], (folder,)):
        assert [image.tobytes() for image in read_images(given)] == expected


def test_a_path_stands_for_calibration_options(treecrowns: Path) -> None:
    for path in (treecrowns / "images", str(treecrowns / "images")):
        options = api.CalibrationOptions.of(path)
        assert options == api.CalibrationOptions(path)
        calibration = load_calibration(
            options, precision="int8", source_precision="fp32", layout="cpu", progress=lambda _done, _count: None
        )
        assert calibration is not None
        assert len(calibration.images) == 16


def test_text_is_one_source() -> None:
    assert api.RunOptions("m.onnx", "video.mp4").sources == ["video.mp4"]
