"""``detect`` as a user runs it: sources in, output files and exit codes out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from engines.core.executor import RawDetections
from retina_edge import detect
from retina_edge.detector import Detector
from retina_edge.sinks.window_sink import WindowSink
from tests.media import count_frames, write_patch_image, write_video
from tests.stand_in import StandIn, contract

ROOT = Path(__file__).parents[2]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """The executor of the detector that ``Detector.load`` returns for every path."""
    executor = StandIn(contract())
    monkeypatch.setattr(Detector, "load", lambda _path, **_options: Detector(executor))
    return executor


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "fps", "size"), [("v.mp4", 25.0, (64, 96)), ("v.avi", 12.5, (62, 94)), ("v.mkv", 29.97, (48, 64))]
)
@pytest.mark.parametrize("batch", ["1", "4"])
@pytest.mark.usefixtures("stand_in")
def test_every_frame_of_a_video_is_written(
    tmp_path: Path, name: str, fps: float, size: tuple[int, int], batch: str
) -> None:
    source = write_video(tmp_path / name, count=21, fps=fps, size=size)
    saved, output = tmp_path / "out" / "a.mp4", tmp_path / "out" / "a.jsonl"
    assert detect.main(["m.onnx", str(source), "--save", str(saved), "--json", str(output), "--batch", batch]) == 0
    count, saved_size, rate = count_frames(saved)
    assert (count, saved_size) == (21, size)
    assert rate == pytest.approx(fps, abs=0.01)
    records = lines(output)
    assert [record["frame"] for record in records] == list(range(21))
    assert [record["timestamp"] for record in records] == pytest.approx([i / fps for i in range(21)], abs=2e-3)
    assert {record["source"] for record in records} == {str(source)}
    for index, record in enumerate(records):
        (detection,) = record["detections"]
        assert (detection["name"], detection["label"]) == ("patch", 0)
        assert detection["box"] == pytest.approx([2 * index, 24, 2 * index + 16, 40], abs=4)


@pytest.mark.usefixtures("stand_in")
def test_unreadable_images_of_a_folder_are_skipped_and_the_exit_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.jpg", "c.jpg", "d.webp"):
        write_patch_image(folder / name)
    (folder / "b.jpg").write_bytes(b"this is not an image")
    (folder / "c.jpg").write_bytes((folder / "c.jpg").read_bytes()[:-99])
    out = tmp_path / "out"
    assert detect.main(["m.onnx", str(folder), "--save", str(out), "--json", str(tmp_path / "o.jsonl")]) == 1
    assert sorted(path.name for path in out.iterdir()) == ["a.png", "d.webp"]
    assert [record["frame"] for record in lines(tmp_path / "o.jsonl")] == [0, 3]
    errors = capsys.readouterr().err.splitlines()
    assert [line.partition(": the image")[0].partition(": expected")[0] for line in errors] == [
        f"error: {folder / name}" for name in ("b.jpg", "c.jpg")
    ]


@pytest.mark.usefixtures("stand_in")
def test_the_exit_code_is_0_if_all_images_are_readable(treecrowns: Path, tmp_path: Path) -> None:
    assert detect.main(["m.onnx", str(treecrowns / "images" / "*.jpg"), "--json", str(tmp_path / "o.jsonl")]) == 0
    assert len(lines(tmp_path / "o.jsonl")) == 16


@pytest.mark.usefixtures("stand_in")
def test_a_single_unreadable_image_is_an_error_of_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.jpg").write_bytes(b"text")
    assert detect.main(["m.onnx", str(tmp_path / "b.jpg")]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert "b.jpg" in captured.err


@pytest.mark.usefixtures("stand_in")
def test_several_sources_run_although_one_is_broken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = write_patch_image(tmp_path / "p.png")
    video = write_video(tmp_path / "v.avi", count=5)
    (tmp_path / "broken.mp4").write_bytes(b"text")
    out = tmp_path / "out"
    names = [str(image), str(tmp_path / "broken.mp4"), str(video)]
    assert detect.main(["m.onnx", *names, "--save", str(out), "--json", str(tmp_path / "o.jsonl")]) == 1
    assert sorted(path.name for path in out.iterdir()) == ["p.png", "v.mp4"]
    assert count_frames(out / "v.mp4")[0] == 5
    sources = sorted(Path(record["source"]).name for record in lines(tmp_path / "o.jsonl"))
    assert sources == ["p.png"] + ["v.avi"] * 5
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'broken.mp4'}: ")


@pytest.mark.usefixtures("stand_in")
def test_max_frames_ends_a_video(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=30)
    saved = tmp_path / "o.mp4"
    assert detect.main(["m.onnx", str(video), "--save", str(saved), "--max-frames", "7"]) == 0
    assert count_frames(saved)[0] == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{}/none.mp4"], "no such file"),
        (["{}/v.mp4", "--score", "0.01"], "the model drops scores of 0.05 and less"),
        (["{}/v.mp4", "--save", "{}/o.avi"], "ending in .mp4"),
        (["{}/v.mp4", "--save", "{}/v.mp4"], "would overwrite the source"),
        (["{}/v.mp4", "--json", "{}/v.mp4/x.jsonl"], "v.mp4"),
        (["{}/v.mp4", "--json", "{}/v.mp4"], "would overwrite the source"),
    ],
)
@pytest.mark.usefixtures("stand_in")
def test_a_wrong_argument_is_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    write_video(tmp_path / "v.mp4", count=3)
    assert detect.main(["m.onnx", *(argument.format(tmp_path) for argument in arguments)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.usefixtures("stand_in")
def test_file_names_may_be_invalid_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = write_patch_image(tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"a\xff.png"))
    out, output = tmp_path / os.fsdecode(b"o\xff"), tmp_path / os.fsdecode(b"\xff.jsonl")
    assert detect.main(["m.onnx", str(image), "--save", str(out), "--json", str(output)]) == 0
    assert [path.name for path in out.iterdir()] == [image.name]
    assert [record["source"] for record in lines(output)] == [str(image)]
    assert f"written: {tmp_path}/o\\udcff\n" in capsys.readouterr().out


@pytest.mark.usefixtures("stand_in")
def test_the_model_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, image = tmp_path / "m.onnx", write_patch_image(tmp_path / "a.png")
    model.write_bytes(b"weights")
    assert detect.main([str(model), str(image), "--json", str(model)]) == 1
    assert f"would overwrite the model {model}" in capsys.readouterr().err
    assert model.read_bytes() == b"weights"


@pytest.mark.usefixtures("stand_in")
def test_a_grayscale_image_is_saved_under_a_name_that_must_be_free(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    color = write_patch_image(tmp_path / "in" / "b.png")
    gray = cv2.imread(str(color), cv2.IMREAD_GRAYSCALE)
    assert gray is not None
    assert cv2.imwrite(str(tmp_path / "in" / "a.pgm"), gray)
    out = tmp_path / "out"
    assert detect.main(["m.onnx", str(tmp_path / "in"), "--save", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["a.pgm.png", "b.png"]
    # The conflict of an image that already has the new name is found before any work.
    write_patch_image(tmp_path / "in" / "a.pgm.png")
    assert detect.main(["m.onnx", str(tmp_path / "in"), "--save", str(out)]) == 1
    assert "two sources would write" in capsys.readouterr().err


def test_a_failed_run_does_not_list_an_old_video_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    executor = StandIn(contract(), fail_at=3, error=OSError("the device is gone"))
    monkeypatch.setattr(Detector, "load", lambda _path, **_options: Detector(executor))
    video, old, output = write_video(tmp_path / "v.mp4", count=9), tmp_path / "o.mp4", tmp_path / "o.jsonl"
    old.write_bytes(b"old video")
    assert detect.main(["m.onnx", str(video), "--save", str(old), "--json", str(output)]) == 1
    written = [line for line in capsys.readouterr().out.splitlines() if line.startswith("written: ")]
    assert written == [f"written: {output}"]


class FakeWindow(WindowSink):
    """A window that records what it shows; the user closes it at the ``stop_at``-th call of ``show``."""

    def __init__(self, stop_at: int) -> None:
        super().__init__()
        self.shown: list[list[str]] = []
        self.stop_at = stop_at

    def __enter__(self) -> WindowSink:
        return self

    def __exit__(self, *_error: object) -> None:
        return None

    def show(self) -> bool:
        self.shown.append(sorted(self._results))
        return len(self.shown) < self.stop_at


def use_slow_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make ``Detector.load`` return a detector that takes 20 ms for each batch."""

    class Slow(StandIn):
        def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
            time.sleep(0.02)
            return super().infer(images)

    monkeypatch.setattr(Detector, "load", lambda _path, **_options: Detector(Slow(contract())))


def test_windows_show_all_videos_and_closing_them_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    window = FakeWindow(stop_at=5)
    monkeypatch.setattr(detect, "WindowSink", lambda: window)
    use_slow_detector(monkeypatch)
    names = [str(write_video(tmp_path / name, count=40)) for name in ("v.mp4", "w.mp4")]
    assert detect.main(["m.onnx", *names, "--show", "--json", str(tmp_path / "o.jsonl")]) == 0
    records = lines(tmp_path / "o.jsonl")
    assert 2 <= len(records) < 80
    assert {record["source"] for record in records} == set(names)
    assert len(window.shown) == 5
    assert window.shown[-1] == ["v", "w"]


@pytest.mark.usefixtures("stand_in")
def test_images_stay_in_the_window_after_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    window = FakeWindow(stop_at=30)  # long after the end of the run
    monkeypatch.setattr(detect, "WindowSink", lambda: window)
    names = [str(write_patch_image(tmp_path / "a.png")), str(write_video(tmp_path / "v.avi", count=2))]
    assert detect.main(["m.onnx", *names, "--show"]) == 0
    assert len(window.shown) == 30
    assert window.shown[-1] == ["images", "v"]


def test_a_missing_model_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_patch_image(tmp_path / "a.png")
    assert detect.main([str(tmp_path / "none.onnx"), str(tmp_path / "a.png")]) == 1
    assert "none.onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["m.onnx"], ["m.onnx", "a.png", "--batch", "0"], ["m.onnx", "a.png", "--max-frames", "x"]]
)
def test_a_wrong_command_line_exits_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        detect.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[1:] == ["see retina-edge detect --help"]


def test_the_default_score_is_the_model_s_threshold_if_that_is_higher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = StandIn(contract(score_threshold=0.6))
    monkeypatch.setattr(Detector, "load", lambda _path, **_options: Detector(strict))
    assert detect.main(["m.onnx", str(write_patch_image(tmp_path / "a.png"))]) == 0


def test_an_interrupted_run_exits_130_with_complete_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = StandIn(contract(), fail_at=9, error=KeyboardInterrupt())
    monkeypatch.setattr(Detector, "load", lambda _path, **_options: Detector(executor))
    video = write_video(tmp_path / "v.mp4", count=30)
    arguments = ["m.onnx", str(video), "--save", str(tmp_path / "o.mp4"), "--json", str(tmp_path / "o.jsonl")]
    assert detect.main(arguments) == 130
    # Check names, because rich does not wait for its own thread to end.
    assert not {"detector", "feeder", "capture v"} & {thread.name for thread in threading.enumerate()}
    assert count_frames(tmp_path / "o.mp4")[0] == len(lines(tmp_path / "o.jsonl")) == 9
    assert executor.closed


SLOW_RUN = """
import sys, time
sys.path.insert(0, {root!r})
from tests.stand_in import StandIn, contract
from retina_edge.detector import Detector
from engines.plugins.specification import RawDetections
from retina_edge import detect

class Slow(StandIn):
    def infer(self, images):
        time.sleep(0.02)
        return super().infer(images)

Detector.load = lambda _path, **_options: Detector(Slow(contract()))
sys.exit(detect.main({arguments!r}))
"""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT, which Windows lacks")
def test_ctrl_c_at_any_moment_ends_the_process(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=400)
    for number, delay in enumerate((0.05, 0.5, 1.0)):
        folder = tmp_path / str(number)
        arguments = ["m.onnx", str(video), "--save", str(folder / "o.mp4"), "--json", str(folder / "o.jsonl")]
        code = SLOW_RUN.format(root=str(ROOT), arguments=arguments)
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 30
        while not (folder / "o.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 130, errors.decode()
        assert errors.decode() == "interrupted\n"
        written = lines(folder / "o.jsonl")
        assert 0 <= len(written) < 400
        assert (count_frames(folder / "o.mp4")[0] if written else 0) == len(written)


HANGING_RUN = """
import sys, threading
sys.path.insert(0, {root!r})
from tests.stand_in import StandIn, contract
from retina_edge.detector import Detector
from retina_edge import {verb}

class Hanging(StandIn):
    def infer(self, images):
        if len(self.calls) == 20:
            print("hangs", flush=True)
            threading.Event().wait()
        return super().infer(images)

    def close(self):
        raise SystemExit("closed although it hangs")

Detector.load = lambda _path, **_options: Detector(Hanging(contract()))
{verb}.HANG_TIMEOUT = 1.0
sys.exit({verb}.main({arguments!r}))
"""


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT, which Windows lacks")
def test_the_second_ctrl_c_abandons_a_detector_that_hangs(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=100)
    arguments = ["m.onnx", str(video), "--save", str(tmp_path / "o.mp4"), "--json", str(tmp_path / "o.jsonl")]
    code = HANGING_RUN.format(root=str(ROOT), verb="detect", arguments=[*arguments, "--batch", "1"])
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "hangs\n"
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):  # after the first Ctrl-C, the process waits for the detector
                process.wait(1)
            process.send_signal(signal.SIGINT)
            errors = process.communicate(timeout=20)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
    assert [record["frame"] for record in lines(tmp_path / "o.jsonl")] == list(range(20))
    assert count_frames(tmp_path / "o.mp4")[0] == 20


@pytest.mark.slow
def test_serve_ends_with_an_error_if_the_detector_hangs(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=100)
    arguments = ["m.onnx", str(video), "--json", str(tmp_path / "o.jsonl"), "--batch", "1", "--port", "0"]
    code = HANGING_RUN.format(root=str(ROOT), verb="serve", arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "error: detector hangs: expected it to finish within 1 s" in done.stderr.splitlines()
    assert [record["frame"] for record in lines(tmp_path / "o.jsonl")] == list(range(20))


@pytest.mark.usefixtures("stand_in")
def test_arguments_are_read_from_a_file(tmp_path: Path) -> None:
    videos = [write_video(tmp_path / name, count=count) for name, count in (("a b.mp4", 3), ("c.mp4", 4))]
    listed = tmp_path / "cameras.txt"
    listed.write_text(f"# two videos\none={videos[0]}\n\n  {videos[1]}\n--json\n{tmp_path / 'o.jsonl'}\n")
    assert detect.main(["m.onnx", f"@{listed}"]) == 0
    names = [record["stream"] for record in lines(tmp_path / "o.jsonl")]
    assert (names.count("one"), names.count("c")) == (3, 4)


@pytest.mark.usefixtures("stand_in")
def test_objects_in_files_are_tracked_and_counted(tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=40)
    arguments = ["m.onnx", str(video), "--zone", "all=0,0 1,0 1,1 0,1", "--json", str(tmp_path / "o.jsonl")]
    assert detect.main(arguments) == 0
    events = [event for record in lines(tmp_path / "o.jsonl") for event in record["events"]]
    assert [event["kind"] for event in events] == ["entered"]
