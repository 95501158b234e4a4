"""The demo: the flight covers the whole forest, and the verb writes three files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from retina_edge import assets, demo
from retina_edge.detector import Detector
from retina_edge.imaging.image_file import read_image
from retina_edge.pipeline.result import Result
from retina_edge.sources import flight as sample
from retina_edge.sources.frames import Frame
from tests.media import count_frames
from tests.stand_in import StandIn, contract

GROUND = (622, 2299)


def flight(frames: int) -> sample.Flight:
    return sample.Flight(np.zeros((*GROUND, 3), np.uint8), frames=frames)


@pytest.mark.parametrize("frames", [240, 480])
def test_the_flight_covers_the_whole_image(frames: int) -> None:
    seen = np.zeros(GROUND, bool)
    for index in range(frames):
        x, y = (round(side) for side in flight(frames).corner(index))
        seen[y : y + sample.WINDOW[0], x : x + sample.WINDOW[1]] = True
    # A few pixels are missing where two windows meet between whole pixels.
    assert (~seen).sum() < 20


def test_the_window_stays_inside_and_moves_smoothly_by_fractions_of_a_pixel() -> None:
    corners = np.array([flight(240).corner(index) for index in range(240)])
    limits = np.array([GROUND[1] - sample.WINDOW[1], GROUND[0] - sample.WINDOW[0]])
    assert (corners >= 0).all()
    assert (corners <= limits).all()
    assert corners[0].tolist() == [0, 0]
    assert corners[-1][0] == limits[0]
    steps = np.diff(corners, axis=0)
    assert np.abs(steps).max() < 15
    assert np.abs(np.diff(steps, axis=0)).max() < 2  # the speed changes slowly
    assert (corners % 1 != 0).mean() > 0.5


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_a_short_flight_has_the_requested_frames(frames: int) -> None:
    images = list(flight(frames))
    assert [frame.index for frame in images] == list(range(frames))
    assert all(frame.image.shape == (*sample.WINDOW, 3) for frame in images)


def test_frames_are_parts_of_the_image() -> None:
    rows, columns = np.mgrid[: GROUND[0], : GROUND[1]]
    ground = np.stack([columns % 256, columns // 256, rows // 4], axis=2).astype(np.uint8)
    whole_flight = sample.Flight(ground, frames=240)
    first = next(iter(whole_flight)).image
    assert np.array_equal(first, ground[: sample.WINDOW[0], : sample.WINDOW[1]])
    frame = list(whole_flight)[-1]
    x, y = whole_flight.corner(frame.index)
    part = ground[math.floor(y) : math.floor(y) + sample.WINDOW[0], math.floor(x) : math.floor(x) + sample.WINDOW[1]]
    assert np.abs(frame.image.astype(int) - part)[:, :, 2].max() <= 1


def test_the_sample_image_has_the_expected_size() -> None:
    assert read_image(assets.FOREST).shape == (*GROUND, 3)


def test_the_demo_writes_a_video_lines_and_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = StandIn(contract(input_size=sample.WINDOW, classes=("tree",)))
    monkeypatch.setattr(demo, "MODEL", assets.FOREST)  # any existing file
    monkeypatch.setattr(Detector, "load", lambda _path, **_options: Detector(stand_in))
    out = tmp_path / "out"
    assert demo.main(["-o", str(out), "--frames", "9"]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["demo.jsonl", "demo.mp4", "demo.png"]
    count, size, fps = count_frames(out / "demo.mp4")
    assert (count, size, fps) == (9, sample.WINDOW, sample.FPS)
    records = [json.loads(line) for line in (out / "demo.jsonl").read_text().splitlines()]
    assert [record["timestamp"] for record in records] == pytest.approx([i / 25 for i in range(9)])
    assert read_image(out / "demo.png").shape == (*sample.WINDOW, 3)
    assert stand_in.closed


def test_the_image_shows_the_requested_frame(tmp_path: Path) -> None:
    detections = Detector(StandIn(contract()))(np.zeros((64, 96, 3), np.uint8))
    with demo.DemoSink(tmp_path / "a.mp4", tmp_path / "a.png", index=2) as sink:
        for index in range(4):
            image = np.full((64, 96, 3), 10 * index, np.uint8)
            sink.write(Result(Frame(image, index, None, "v"), detections))
    assert (read_image(tmp_path / "a.png") == 20).all()
    assert count_frames(tmp_path / "a.mp4")[0] == 4


def test_a_missing_sample_model_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "MODEL", tmp_path / "treecrowns.onnx")
    assert demo.main(["-o", str(tmp_path / "out")]) == 1
    assert "treecrowns.onnx: the sample model is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
