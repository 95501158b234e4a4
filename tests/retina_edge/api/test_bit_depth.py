"""The images of a data set are looked at with the bit depth of the model, before the work begins."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from engines.core.errors import DataError
from retina_edge import api
from retina_edge.api.accuracy import AccuracyOptions, accuracy_budget
from retina_edge.api.progress import no_progress
from retina_edge.data import image_scan
from retina_edge.data.load import load_dataset
from retina_edge.imaging.image_file import read_image
from retina_edge.model.checkpoint import load_checkpoint

SIZE = (96, 128)  # height and width


@pytest.fixture
def twelve(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint of a model for a camera with 12 bits."""
    loaded = load_checkpoint(checkpoint)
    path = tmp_path / "twelve.pt"
    dataclasses.replace(loaded, contract=dataclasses.replace(loaded.contract, bit_depth=12)).save(path)
    return path


def data_set(folder: Path, highest: int) -> Path:
    """Write a data set of one image with 16 bits whose values end at ``highest``."""
    pixels = np.linspace(0, highest, SIZE[0] * SIZE[1]).astype(np.uint16).reshape(SIZE)
    Image.fromarray(pixels).save(folder / "thermal.png")
    content = {
        "images": [{"id": 1, "file_name": "thermal.png", "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 20, 30, 40]}],
        "categories": [{"id": 1, "name": "tree"}],
    }
    path = folder / "val.json"
    path.write_text(json.dumps(content))
    return path


def test_evaluate_refuses_values_beyond_the_bit_depth_before_it_detects(
    twelve: Path, checkpoint: Path, tmp_path: Path
) -> None:
    path = data_set(tmp_path, 5000)
    for models in ((twelve, None), (twelve, checkpoint), (checkpoint, twelve)):
        with pytest.raises(DataError, match=r"thermal.png.*expected values below 4096 for a bit depth of 12, got 5000"):
            api.evaluate(models[0], path, against=models[1], on_image=lambda model, _count: pytest.fail(str(model)))
    assert len(api.evaluate(checkpoint, path).dataset) == 1


def test_the_accuracy_budget_refuses_values_beyond_the_bit_depth(tmp_path: Path) -> None:
    options = AccuracyOptions(points=0.5, annotations=data_set(tmp_path, 5000))
    with pytest.raises(DataError, match=r"cannot use 1 of 1 images: .*expected values below 4096"):
        accuracy_budget(options, precision="fp16", source_precision="fp32", bit_depth=12, progress=no_progress)


def test_images_that_were_looked_at_for_training_are_remembered(
    twelve: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read: list[Path] = []

    def count(path: Path, *arguments: Any, **options: Any) -> Any:
        read.append(path)
        return read_image(path, *arguments, **options)

    monkeypatch.setattr(image_scan, "read_image", count)
    path = data_set(tmp_path, 4095)
    load_dataset(path, bit_depth=12)
    api.evaluate(twelve, path)
    options = AccuracyOptions(points=0.5, annotations=path)
    accuracy_budget(options, precision="fp16", source_precision="fp32", bit_depth=12, progress=no_progress)
    assert read == [path.with_name("thermal.png")]
