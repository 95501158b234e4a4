"""The generated data set, and the comparison of recipes from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import recipe
from benchmarks.shapes import CLASSES, LARGEST, SIDE, SMALLEST, write_shapes
from benchmarks.tables import TABLES
from retina_edge.data.load import load_dataset


def test_shapes_are_where_their_boxes_are(tmp_path: Path) -> None:
    files = write_shapes(tmp_path, train=12, val=3)
    again = write_shapes(tmp_path / "again", train=12, val=3)
    data = [load_dataset(path, path.parent / "images") for path in files]
    assert [len(part) for part in data] == [12, 3]
    assert data[0].class_names == CLASSES
    seen: set[int] = set()
    for image, same in zip(data[0].images, load_dataset(again[0], tmp_path / "again" / "images").images, strict=True):
        np.testing.assert_array_equal(image.boxes, same.boxes)  # the same seed gives the same boxes
        sides = image.boxes[:, 2:] - image.boxes[:, :2]
        assert ((sides >= 0.5 * SMALLEST) & (sides <= LARGEST + 2)).all()
        assert image.read().shape == (SIDE, SIDE, 3)
        seen |= set(image.labels.tolist())
    assert seen == {0, 1, 2}
    contents = {path.read_bytes() for path in (tmp_path / "images").iterdir()}
    assert len(contents) == 15  # no image is in both parts
    # The center of a shape has one color, so its pixels vary less than those of the image.
    image = data[0].images[0]
    x1, y1, x2, y2 = image.boxes[0].astype(int)
    center = cv2.meanStdDev(
        image.read()[(y1 + y2) // 2 - 1 : (y1 + y2) // 2 + 1, (x1 + x2) // 2 - 1 : (x1 + x2) // 2 + 1]
    )
    assert float(center[1].mean()) < float(cv2.meanStdDev(image.read())[1].mean())


@pytest.mark.slow
def test_steps_are_trained_and_measured_with_seeds_and_an_interrupted_run_goes_on(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--epochs", "1", "--samples", "16", "--images", "8", "4", "--seeds", "0", "1", "--steps", "base"]
    assert recipe.main(run) == 0
    figures = json.loads((results / "recipe.json").read_text())["figures"]
    assert [(row["data"], row["step"], row["seed"]) for row in figures] == [
        ("shapes", "base", 0),
        ("shapes", "base", 1),
    ]
    assert all(0 <= row[name] <= 1 for row in figures for name in ("AP", "AP50"))
    capsys.readouterr()
    assert recipe.main([*run, "distillation", "--resume", "--jobs", "2"]) == 0
    assert capsys.readouterr().out.count('"step"') == 2  # the runs of the base are kept
    record = json.loads((results / "recipe.json").read_text())
    assert record["figures"][:2] == figures
    table = TABLES["recipe"](record)
    assert "| shapes | base | " in table
    assert "| shapes | distillation | `--head-norm none --teacher TEACHER` |" in table


def test_tree_crowns_are_measured_on_tiles_that_share_no_pixels_with_those_to_train_on(tmp_path: Path) -> None:
    """But for one column: a tile from 1500 ends at 1899 and another one begins there."""
    lefts = {"yell528": (0, 1499, 1500, 1501, 1899), "yell541": (300, 600, 849)}
    names = [f"{scene}_train_{left:04}_0300.jpg" for scene, some in lefts.items() for left in some]
    images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    boxes = [{"id": n, "image_id": n % len(images)} for n in range(2 * len(images))]
    categories = [{"id": 1, "name": "tree"}]
    paths = recipe.split_tiles({"images": images, "annotations": boxes, "categories": categories}, tmp_path)
    train, val = (json.loads(path.read_text()) for path in paths)
    assert [item["id"] for item in train["images"]] == [0, 1, 2, 5]
    assert [item["id"] for item in val["images"]] == [4, 7]
    assert [item["id"] for item in train["annotations"]] == [0, 1, 2, 5, 8, 9, 10, 13]
    assert [item["id"] for item in val["annotations"]] == [4, 7, 12, 15]
    assert train["categories"] == val["categories"] == categories


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"evaluate: expected it to succeed, got exit code 1: (.|\n)*missing.pt"):
        recipe.call("evaluate", str(tmp_path / "missing.pt"), str(tmp_path))


def test_the_table_tells_gains_from_luck() -> None:
    def rows(step: str, *values: float) -> list[dict[str, object]]:
        common = {"data": "shapes", "step": step, "options": f"--{step}", "epochs": 1, "samples": 800}
        return [{**common, "seed": seed, "AP": ap, "AP50": 2 * ap} for seed, ap in enumerate(values)]

    figures = [*rows("base", 0.2, 0.25, 0.3), *rows("better", 0.5, 0.6, 0.55), *rows("lucky", 0.2, 0.3, 0.4)]
    base, better, lucky = TABLES["recipe"]({"figures": [*figures, *rows("once", 0.4)]}).splitlines()[2:5]
    # The mean, the sample standard deviation, and the gain with the deviation of a difference of two runs.
    assert base == "| shapes | base | `--base` | 0.250 ± 0.050 | 0.500 ± 0.100 |  |"
    assert better == "| shapes | better | `--better` | 0.550 ± 0.050 | 1.100 ± 0.100 | +0.300 |"
    assert lucky == "| shapes | lucky | `--lucky` | 0.300 ± 0.100 | 0.600 ± 0.200 | +0.050, within the spread |"
