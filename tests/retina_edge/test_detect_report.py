"""The report of ``detect``: objects, tracks and counts, or the reason why nothing was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from retina_edge import detect
from retina_edge.cli.no_objects import why_no_objects
from retina_edge.detector import Detector
from tests.media import write_patch_image, write_video
from tests.stand_in import StandIn, contract


def use(monkeypatch: pytest.MonkeyPatch, executor: StandIn) -> None:
    monkeypatch.setattr(Detector, "load", lambda _path, **_options: Detector(executor))


def rows(printed: str) -> dict[str, str]:
    """Return the cells of the table by the name of the row."""
    cells = [[cell.strip() for cell in line.split("│")] for line in printed.splitlines() if "│" in line]
    return {name: value for _, name, value, _ in cells if name}


def test_the_summary_has_classes_tracks_and_the_totals_of_regions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A patch moves from left to right, through the line and into the zone."""
    use(monkeypatch, StandIn(contract()))
    video = write_video(tmp_path / "v.avi", count=30)
    regions = ["--line", "door=0.5,1 0.5,0", "--zone", "right=0.5,0 1,0 1,1 0.5,1", "--line", "floor=0,0.9 1,0.9"]
    assert detect.main(["m.onnx", str(video), *regions, "--anchor", "center"]) == 0
    printed = rows(capsys.readouterr().out)
    assert printed["detections"] == "30: 30 patch"
    assert printed["tracks"] == "1"
    assert printed["line door"] == "1 in, 0 out"
    assert printed["line floor"] == "0 in, 0 out"
    assert printed["zone right"] == "1 inside, 1 entered, 0 left"


def test_counts_of_several_streams_have_the_names_of_the_streams(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, StandIn(contract()))
    video = write_video(tmp_path / "v.avi", count=30)
    arguments = [f"north={video}", f"south={video}", "--line", "door=0.5,1 0.5,0", "--line", "south:back=0.5,0 0.5,1"]
    assert detect.main(["m.onnx", *arguments, "--anchor", "center"]) == 0
    printed = rows(capsys.readouterr().out)
    assert {name: value for name, value in printed.items() if "line" in name} == {
        "line north: door": "1 in, 0 out",
        "line south: door": "1 in, 0 out",
        "line south: back": "0 in, 1 out",
    }
    assert printed["tracks"] == "2"


def test_without_tracking_there_is_no_row_for_tracks(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, StandIn(contract()))
    assert detect.main(["m.onnx", str(write_patch_image(tmp_path / "a.png"))]) == 0
    printed = capsys.readouterr().out
    assert "tracks" not in rows(printed)
    assert "no objects" not in printed


@pytest.mark.parametrize(
    ("executor", "arguments", "reason"),
    [
        (StandIn(contract(), score=0.312), [], "no objects: the best score was 0.312, the threshold is 0.4; lower it"),
        (StandIn(contract()), ["--score", "0.95"], "no objects: the best score was 0.9, the threshold is 0.95; lower"),
        (StandIn(contract(), score=0.0712), [], "the best score was 0.071, the threshold is 0.4. If there are objects"),
        (StandIn(contract(), score=0.3999), [], "the best score was 0.399, the threshold is 0.4;"),
    ],
)
def test_the_report_says_why_nothing_was_found(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    executor: StandIn,
    arguments: list[str],
    reason: str,
) -> None:
    use(monkeypatch, executor)
    for track in ([], ["--track"]):  # with tracking, other code applies the threshold
        assert detect.main(["m.onnx", str(write_video(tmp_path / "v.avi", count=3)), *arguments, *track]) == 0
        assert reason in capsys.readouterr().out


def test_the_reason_names_the_threshold_of_the_model_if_it_reported_nothing() -> None:
    unlearned = why_no_objects(0.0, score=0.4, model_threshold=0.05)
    assert unlearned.startswith("no box scored more than 0.05, the model's own threshold. If there are objects to find")
    assert "not learned" in unlearned
    hidden = why_no_objects(0.0, score=0.6, model_threshold=0.6)
    assert "export it with a lower --score-threshold" in hidden
    assert "not learned" not in hidden
