"""``evaluate`` says why a model found nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retina_edge.detector import Detector
from retina_edge.evaluate import main
from retina_edge.imaging.image_file import write_image
from tests.stand_in import StandIn, contract, patch_frame

HERE, ELSEWHERE = [8, 8, 16, 16], [60, 40, 16, 16]


def evaluate(folder: Path, monkeypatch: pytest.MonkeyPatch, *, patch: bool, score: float, bbox: list[int]) -> None:
    """Evaluate a stand-in on one image, with a patch or without, and one labeled box [x, y, width, height]."""
    frame = patch_frame((64, 96), (8, 8))
    write_image(folder / "a.png", frame if patch else np.zeros_like(frame))
    data = {
        "images": [{"id": 1, "file_name": "a.png", "width": 96, "height": 64}],
        "categories": [{"id": 1, "name": "patch"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": bbox}],
    }
    (folder / "labels.json").write_text(json.dumps(data))
    monkeypatch.setattr(Detector, "load", lambda _path, **_options: Detector(StandIn(contract(), score=score)))
    assert main(["m.onnx", str(folder / "labels.json"), "--images", str(folder)]) == 0


@pytest.mark.parametrize(
    ("patch", "score", "bbox", "reason"),
    [
        (True, 0.9, HERE, ""),
        (True, 0.2, HERE, "nothing found: the best score was 0.2, the threshold is 0.4; lower it with --score"),
        (True, 0.06, HERE, "nothing found: the best score was 0.06, the threshold is 0.4. If there are objects"),
        (False, 0.9, HERE, "nothing found: no box scored more than 0.05, the model's own threshold. If there are"),
        (True, 0.9, ELSEWHERE, "AP50 is 0, although the best score is 0.90: no box lies on an object of its class"),
    ],
)
def test_the_report_says_why_nothing_was_found(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    patch: bool,
    score: float,
    bbox: list[int],
    reason: str,
) -> None:
    evaluate(tmp_path, monkeypatch, patch=patch, score=score, bbox=bbox)
    printed = capsys.readouterr().out
    assert reason in printed
    assert bool(reason) == ("nothing found" in printed or "AP50 is 0" in printed)


@pytest.mark.parametrize("score", [0.06, 0.9])
def test_average_precision_counts_weak_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], score: float
) -> None:
    evaluate(tmp_path, monkeypatch, patch=True, score=score, bbox=HERE)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "AP50 " in line]
    assert "1.0000" in row
