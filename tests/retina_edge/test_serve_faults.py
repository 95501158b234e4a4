"""``serve`` and ``detect`` as users run them, with full disks, damaged files and cameras that hang or change."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest

from retina_edge.api.running import open_run
from retina_edge.cli.stream_options import StreamParser, run_options
from retina_edge.sinks import output_options
from retina_edge.sinks.recording_sink import RecordingSink
from retina_edge.sinks.sink import Sink
from retina_edge.sinks.video_sink import RESERVED_BYTES, partial_files
from tests.cameras import camera, say_nothing, send_images
from tests.media import count_frames, write_video
from tests.retina_edge.test_serve import serve, states, until
from tests.small_disk import small_disk

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg: sudo apt-get install ffmpeg")
needs_gstreamer = pytest.mark.skipif(
    shutil.which("gst-launch-1.0") is None, reason="no GStreamer: sudo apt-get install gstreamer1.0-tools"
)
# Longest end of a run with cameras that hang: their threads get 5 s, and a busy machine needs more.
END_SECONDS = 12.0
KIBIBYTE = 2**10
# Frames of each good file; the damaged files had twice as many.
FRAMES = 12


def detect(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "retina_edge", "detect", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of noise that fills a small disk with its first frames, because noise cannot be compressed."""
    path, generator = tmp_path_factory.mktemp("noise") / "noise.mp4", np.random.default_rng(0)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 25, (320, 240))
    for _ in range(60):
        writer.write(generator.integers(0, 256, (240, 320, 3), np.uint8))
    writer.release()
    return path


def test_serve_continues_when_its_disks_are_full(tiny_onnx: Path, noise: Path, tmp_path: Path) -> None:
    video, table = write_video(tmp_path / "v.mp4", count=4000), tmp_path / "out.csv"
    with (
        small_disk(tmp_path / "small", 256 * KIBIBYTE) as small,
        small_disk(tmp_path / "large", RESERVED_BYTES + 256 * KIBIBYTE) as large,
    ):
        lines = small / "out.jsonl"
        arguments = [video, noise, "--json", lines, "--csv", table, "--save", large, "--score", "0.05"]
        with serve(tiny_onnx, *arguments) as serving:
            until(lambda: states(serving) == {str(lines): "failed", str(table): "ok", str(large): "failed"})
            detected = serving.streams()["v"]["detected"]
            until(lambda: serving.streams()["v"]["detected"] > detected + 5)
            assert httpx.get(f"{serving.url}/healthz").status_code == httpx.get(serving.url).status_code == 200
            shown = {output["name"]: output["error"] for output in httpx.get(f"{serving.url}/api/outputs").json()}
            code, errors = serving.end(signal.SIGTERM)
        assert code == 1
        assert "Traceback" not in errors
        assert re.search(rf"No space left on device: '{re.escape(str(lines))}'", shown[str(lines)])
        assert re.search(
            rf"No space left on device.*: '{re.escape(str(large))}/\w+\.\w+\.partial\.mp4'", shown[str(large)]
        )
        lost = r": [1-9]\d* results lost \(\[Errno 28\] No space left on device"
        message = rf"outputs failed: {re.escape(str(lines))}{lost}.*; {re.escape(str(large))}{lost}.*"
        assert re.fullmatch(message, errors.splitlines()[-1]), errors
        # The results up to the error are there, and every video is marked as partial.
        *complete, _incomplete = lines.read_text().split("\n")
        written = [json.loads(line) for line in complete]
        for stream in ("v", "noise"):
            frames = [record["frame"] for record in written if record["stream"] == stream]
            assert frames == list(range(len(frames)))
        counts = {path.name.split(".")[0]: count_frames(path)[0] for path in large.glob("*.partial.mp4")}
        assert {"noise"} <= set(counts) <= {"v", "noise"}
        assert len(counts) == len(list(large.iterdir()))
        assert all(counts.values())


def test_detect_ends_when_the_disk_of_its_videos_is_full(tiny_onnx: Path, noise: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", RESERVED_BYTES + 256 * KIBIBYTE) as disk:
        done = detect(tiny_onnx, noise, "--save", disk / "o.mp4", "--json", tmp_path / "o.jsonl")
        assert done.returncode == 1
        message = rf"error: \[Errno 28\] No space left on device.*: '{re.escape(str(disk))}/o\.\w+\.partial\.mp4'"
        assert re.fullmatch(message, done.stderr.splitlines()[-1]), done.stderr
        assert f"written: {disk}" not in done.stdout
        (partial,) = disk.iterdir()
        assert partial_files(disk / "o.mp4") == [partial]
        # The other output has all results up to the end of the run.
        assert 0 < count_frames(partial)[0] <= len(records(tmp_path / "o.jsonl")) < 60


def test_detect_ends_when_the_disk_of_its_results_is_full(tiny_onnx: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=400)
    with small_disk(tmp_path / "disk", 64 * KIBIBYTE) as disk:
        arguments = ["--json", disk / "o.jsonl", "--save", tmp_path / "o.mp4", "--score", "0.05"]
        done = detect(tiny_onnx, video, *arguments)
        assert done.returncode == 1
        message = rf"error: \[Errno 28\] No space left on device: '{re.escape(str(disk))}/o\.jsonl'"
        assert re.fullmatch(message, done.stderr.splitlines()[-1]), done.stderr
    assert "written: " not in done.stdout
    assert not (tmp_path / "o.mp4").exists()
    (partial,) = partial_files(tmp_path / "o.mp4")
    assert 0 < count_frames(partial)[0] < 400


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Damaged video files, by name; some of them can be read in part."""
    folder = tmp_path_factory.mktemp("damaged")
    command = ["ffmpeg", "-nostdin", "-loglevel", "error", "-f", "lavfi", "-i", "testsrc=s=128x96:r=25"]
    command += [
        "-frames:v",
        str(2 * FRAMES),
        "-c:v",
        "libx264",
        "-pix_fmt",
        "yuv420p",
        "-preset",
        "ultrafast",
        "-g",
        "3",
    ]
    # The index of the file is at the front, in pieces, or behind the frames.
    for name, flags in (("front", "+faststart"), ("pieces", "frag_keyframe+empty_moov"), ("behind", "0")):
        subprocess.run([*command, "-movflags", flags, str(folder / f"{name}.mp4")], check=True)
    files = {path.stem: path for path in folder.iterdir()}
    for path in files.values():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for name, content in (("noise", np.random.default_rng(0).bytes(20_000)), ("empty", b"")):
        files[name] = folder / f"{name}.mp4"
        files[name].write_bytes(content)
    return files


@needs_ffmpeg
@pytest.mark.parametrize("verb", ["detect", "serve"])
def test_damaged_files_do_not_affect_good_ones(
    tiny_onnx: Path, damaged: dict[str, Path], tmp_path: Path, verb: str
) -> None:
    good = [write_video(tmp_path / f"{name}.mp4", count=FRAMES) for name in ("a", "b")]
    sources = [good[0], *damaged.values(), good[1]]
    lines, saved = tmp_path / "out.jsonl", tmp_path / "saved"
    arguments = [tiny_onnx, *sources, "--json", lines, "--save", saved, *(["--port", "0"] if verb == "serve" else [])]
    command = [sys.executable, "-m", "retina_edge", verb, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    results = records(lines)
    names = ["a", "b", *damaged]
    indices = {name: [record["frame"] for record in results if record["stream"] == name] for name in names}
    for name, frames in indices.items():
        assert frames == list(range(len(frames)))
        # The last frame is shown to the end that the file declares.
        assert not frames or len(frames) <= count_frames(saved / f"{name}.mp4")[0] <= 2 * FRAMES
    assert [len(indices[name]) for name in ("a", "b", "behind", "noise", "empty")] == [FRAMES, FRAMES, 0, 0, 0]
    assert 0 < len(indices["front"]) < 2 * FRAMES
    assert 0 < len(indices["pieces"]) < 2 * FRAMES
    assert sorted(path.name for path in saved.iterdir()) == sorted(f"{name}.mp4" for name in names if indices[name])
    errors = {name: [line for line in done.stderr.splitlines() if str(path) in line] for name, path in damaged.items()}
    for name in ("behind", "noise", "empty"):
        (line,) = errors[name]
        assert line.removeprefix("error: ").startswith(f"{damaged[name]}: OpenCV cannot open it; expected an image")
    if verb == "detect":
        assert f"declares {2 * FRAMES} frames" in errors["front"][0]


@pytest.mark.slow
def test_cameras_that_hang_delay_neither_other_streams_nor_the_end(tiny_onnx: Path, tmp_path: Path) -> None:
    """The process gets SIGTERM while OpenCV is opening one of the cameras."""
    video, lines = write_video(tmp_path / "v.mp4", count=4000), tmp_path / "out.jsonl"
    with (
        camera("rtsp", say_nothing) as silence,
        camera("http", say_nothing) as page,
        serve(tiny_onnx, video, f"silence={silence}", f"page={page}", "--json", lines) as serving,
    ):
        until(lambda: serving.streams()["v"]["detected"] > 20)
        status = serving.streams()
        start = time.monotonic()
        code, errors = serving.end(signal.SIGTERM)
        assert time.monotonic() - start < END_SECONDS
    assert code == 0, errors
    assert "Traceback" not in errors
    assert f"{silence}: hangs" not in errors  # the source is interrupted at once
    assert [status[name]["detected"] for name in ("silence", "page")] == [0, 0]
    frames = [record["frame"] for record in records(lines)]
    assert frames == list(range(len(frames)))
    assert len(frames) > 20


SMALL, LARGE = (120, 160), (240, 320)


def jpeg(size: tuple[int, int]) -> bytes:
    """Return a JPEG image of (height, width)."""
    return cv2.imencode(".jpg", np.full((*size, 3), 100, np.uint8))[1].tobytes()


def sizes_in_order(path: Path, stream: str) -> list[tuple[int, int]]:
    """Return the (height, width) of each result of a stream; check that the frame indices increase."""
    results = [record for record in records(path) if record["stream"] == stream]
    frames = [record["frame"] for record in results]
    assert frames == sorted(set(frames))
    return [(record["height"], record["width"]) for record in results]


@needs_gstreamer
def test_cameras_may_change_their_resolution(tiny_onnx: Path, tmp_path: Path) -> None:
    """OpenCV scales frames to the first size; GStreamer delivers the new size, for which a new recording begins."""
    lines, saved = tmp_path / "out.jsonl", tmp_path / "saved"
    changed = threading.Event()

    def change(connection: socket.socket) -> None:
        send_images(connection, (jpeg(LARGE if changed.is_set() else SMALL) for _ in itertools.count()))

    with camera("http", change) as url:
        pipeline = f"souphttpsrc location={url} is-live=true ! multipartdemux ! jpegdec ! videoconvert"
        with serve(tiny_onnx, f"cv={url}", f"gst=gst:{pipeline}", "--json", lines, "--save", saved) as serving:
            until(lambda: all(status["detected"] > 5 for status in serving.streams().values()))
            changed.set()
            captured = serving.streams()["cv"]["captured"]
            until(lambda: serving.streams()["gst"]["height"] == LARGE[0])
            until(lambda: serving.streams()["cv"]["captured"] > captured + 20)
            status = serving.streams()
            code, errors = serving.end(signal.SIGTERM)
    assert code == 0, errors
    assert [(status[name]["height"], status[name]["width"]) for name in ("cv", "gst")] == [SMALL, LARGE]
    assert set(sizes_in_order(lines, "cv")) == {SMALL}
    sizes = sizes_in_order(lines, "gst")
    assert [size for size, _ in itertools.groupby(sizes)] == [SMALL, LARGE]
    assert [count_frames(path)[1] for path in saved.glob("cv-*.mkv")] == [SMALL]
    assert sorted(count_frames(path)[1] for path in saved.glob("gst-*.mkv")) == [SMALL, LARGE]
    assert not list(saved.glob("*.partial.*"))


@needs_gstreamer
def test_a_file_that_changes_its_resolution_cannot_be_saved(tiny_onnx: Path, tmp_path: Path) -> None:
    video = tmp_path / "video.mjpeg"
    video.write_bytes(FRAMES * jpeg(SMALL) + FRAMES * jpeg(LARGE))
    pipeline = f"gst=gst:filesrc location={video} ! jpegparse ! jpegdec ! videoconvert"
    lines, saved = tmp_path / "out.jsonl", tmp_path / "saved"
    done = detect(tiny_onnx, video, pipeline, "--json", lines)
    assert done.returncode == 0, done.stderr
    assert sizes_in_order(lines, "video") == [SMALL] * 2 * FRAMES
    assert sizes_in_order(lines, "gst") == [SMALL] * FRAMES + [LARGE] * FRAMES
    # A video has a single size: the frames before the change are kept, and the error says what to do.
    done = detect(tiny_onnx, pipeline, "--save", saved)
    assert done.returncode == 1
    assert "videoscale ! video/x-raw,width=160,height=120" in done.stderr.splitlines()[-1]
    (partial,) = saved.iterdir()
    assert partial.name.endswith(".partial.mp4")
    assert count_frames(partial)[:2] == (FRAMES, SMALL)


def test_recordings_and_images_are_resumable_and_videos_are_not(
    tiny_onnx: Path, treecrowns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed video would look complete, although its beginning is missing."""
    video = write_video(tmp_path / "video.mp4", count=3)
    resumable: dict[str, bool] = {}

    def record(name: str, make: Callable[[], Sink]) -> Sink:
        sink = make()
        resumable[name] = sink.resumable
        return sink

    monkeypatch.setattr(output_options, "RetryingSink", record)
    saved = tmp_path / "saved"
    arguments = [tiny_onnx, f"video={video}", f"images={treecrowns / 'images'}", "--save", saved]
    args = StreamParser("serve", "", example="").parse_args(list(map(str, arguments)))
    with open_run(run_options(args), strict=False) as run:
        run.pipeline.run()
    assert resumable == {f"{saved}, video": False, f"{saved}, images": True}
    assert RecordingSink(saved, "camera", fps=25).resumable
