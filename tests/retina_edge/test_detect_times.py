"""Times, tracks and counts of ``detect`` are those of the file, however fast the machine is."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from engines.core.executor import RawDetections
from retina_edge import detect
from retina_edge.detector import Detector
from tests.media import count_frames, probed, write_timed_video, write_video
from tests.stand_in import StandIn, contract

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg: sudo apt-get install ffmpeg")
# They hold the time at which a frame was read or detected.
CLOCK = ("captured", "time", "age_at_inference", "age_at_output")


class Slow(StandIn):
    """A stand-in that is as slow as the test wants."""

    seconds = 0.0

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        time.sleep(self.seconds)
        return super().infer(images)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> type[Slow]:
    """The class of the executor of the detector that ``Detector.load`` returns for every path."""
    monkeypatch.setattr(Detector, "load", lambda _path, **_options: Detector(Slow(contract())))
    monkeypatch.setattr(Slow, "seconds", 0.0)
    return Slow


def results(tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """Return what ``detect`` writes, without the times of the clock."""
    output = tmp_path / "o.jsonl"
    assert detect.main(["m.onnx", *arguments, "--json", str(output)]) == 0
    records: list[dict[str, Any]] = [json.loads(line) for line in output.read_text().splitlines()]
    for record in records:
        for values in (record, *record["events"]):
            for name in CLOCK:
                values.pop(name, None)
    return records


def write_numbered_images(folder: Path, count: int) -> Path:
    """Write the frames of a moving patch as 1.png, 2.png ... without leading zeros."""
    folder.mkdir()
    for index in range(count):
        image = np.zeros((64, 96, 3), np.uint8)
        image[24:40, 4 * index : 4 * index + 16] = 255
        assert cv2.imwrite(str(folder / f"{index + 1}.png"), image)
    return folder


@pytest.mark.parametrize("fps", [None, "5"])
def test_tracks_through_a_folder_do_not_depend_on_the_speed(tmp_path: Path, slow: type[Slow], fps: str | None) -> None:
    folder = write_numbered_images(tmp_path / "frames", 14)
    options = [str(folder), "--line", "gate=0.5,0 0.5,1", *(["--fps", fps] if fps else [])]
    fast = results(tmp_path, *options)
    slow.seconds = 0.09  # over the whole folder, longer than an object may be lost
    assert results(tmp_path, *options) == fast
    assert [Path(record["source"]).name for record in fast] == [f"{number}.png" for number in range(1, 15)]
    assert [record["timestamp"] for record in fast] == [index / 5 if fps else None for index in range(14)]
    assert {row["track"] for record in fast for row in record["detections"]} == {-1, 1}
    ((event, seen),) = [(event, record["timestamp"]) for record in fast for event in record["events"]]
    assert (event["kind"], event["timestamp"]) == ("crossed", seen)


@needs_ffmpeg
def test_a_video_without_a_duration_has_its_own_times(tmp_path: Path, slow: type[Slow]) -> None:
    """A recording of a browser: neither duration nor, in this case, a constant rate."""
    times = [0.0, 0.1, 0.2, 0.35, 0.4, 0.9, 1.0]
    video = write_timed_video(tmp_path / "a.webm", times, "-c:v", "libvpx", "-live", "1")
    fast = results(tmp_path, str(video), "--track", "--save", str(tmp_path / "out.mp4"))
    slow.seconds = 0.05
    assert results(tmp_path, str(video), "--track", "--save", str(tmp_path / "out.mp4")) == fast
    assert [record["timestamp"] for record in fast] == times
    assert float(probed(tmp_path / "out.mp4", "stream=duration")[0]["duration"]) == pytest.approx(1.04, abs=0.05)


@pytest.mark.usefixtures("slow")
def test_images_with_a_rate_can_be_saved_as_a_video(tmp_path: Path) -> None:
    folder, saved = write_numbered_images(tmp_path / "frames", 6), tmp_path / "out.mp4"
    records = results(tmp_path, str(folder), "--fps", "4", "--save", str(saved))
    assert [record["timestamp"] for record in records] == [0, 0.25, 0.5, 0.75, 1, 1.25]
    (stream,) = probed(saved, "stream=duration,r_frame_rate,nb_frames")
    assert (stream["r_frame_rate"], stream["nb_frames"], float(stream["duration"])) == ("4/1", "6", 1.5)


@pytest.mark.usefixtures("slow")
def test_a_given_rate_replaces_that_of_a_video(tmp_path: Path) -> None:
    video, saved = write_video(tmp_path / "v.mp4", count=6, fps=25), tmp_path / "out.mp4"
    records = results(tmp_path, str(video), "--fps", "10", "--save", str(saved))
    assert [record["timestamp"] for record in records] == [index / 10 for index in range(6)]
    assert float(probed(saved, "stream=duration")[0]["duration"]) == pytest.approx(0.6)


def test_a_limited_video_has_no_more_frames_than_the_limit(tmp_path: Path, slow: type[Slow]) -> None:
    """The source ends while the last frames before the limit are detected."""
    video, saved = write_video(tmp_path / "v.mp4", count=6), tmp_path / "out.mp4"
    slow.seconds = 0.05
    assert len(results(tmp_path, str(video), "--max-frames", "4", "--save", str(saved))) == 4
    assert count_frames(saved)[0] == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["0", "--fps", "25"], "fps: expected image files and video files, got camera 0, which has times of its own"),
        (["{}", "--fps", "0"], "expected frames per second, above 0 and at most 1000, got '0'"),
        (["{}", "--fps", "nan"], "got 'nan'"),
        (["{}", "--fps", "fast"], "got 'fast'"),
        (["{}", "--fps", "1e9"], "got '1e9'"),
        (
            ["{}", "--save", "{}.mp4"],
            "an MP4 takes one video, camera or URL; use a folder instead, or --fps for images",
        ),
    ],
)
@pytest.mark.usefixtures("slow")
def test_a_rate_that_makes_no_sense_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    folder = write_numbered_images(tmp_path / "frames", 1)
    with suppress(SystemExit):
        assert detect.main(["m.onnx", *(argument.format(folder) for argument in arguments)]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("slow")
def test_what_a_folder_passes_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_numbered_images(tmp_path / "frames", 2)
    (folder / "notes.txt").touch()
    assert len(results(tmp_path, str(folder))) == 2
    assert capsys.readouterr().err == f"warning: {folder}: passed over 1 file of another kind (.txt)\n"
