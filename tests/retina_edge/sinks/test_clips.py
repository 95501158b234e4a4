"""Clips: decoded again, they begin before their event, and show the frames that belong to them."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.core.errors import ContractError
from engines.core.frame_pool import FramePool
from retina_edge.detections import Detections
from retina_edge.pipeline.result import Result
from retina_edge.sinks import clip_options, clip_ring, clip_sink
from retina_edge.sinks.background_sink import BackgroundSink
from retina_edge.sinks.clip_files import CLIP, newest_clips
from retina_edge.sinks.clip_options import ClipOptions
from retina_edge.sinks.clip_sink import ClipSink
from retina_edge.sinks.outputs import open_outputs
from retina_edge.sinks.video_sink import RESERVED_BYTES
from retina_edge.sources.frames import Frame
from retina_edge.tracking.region_counter import Tally
from retina_edge.tracking.zones import Zone
from tests.events import entered
from tests.small_disk import small_disk
from tests.waiting import wait_for

# Binary digits of a painted number, and their width and height in pixels; an even and an odd number differ in the
# lowest digit, so that a wrong frame is seen.
DIGITS, CELL = 10, 16
FPS = 25
# A clip holds ten frames per second: of 25, at least every third one. It begins and ends at one of these.
SPACING = 3
NOON = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)


def painted(number: int, *, size: tuple[int, int] = (96, 192)) -> np.ndarray:
    """Return a gray picture whose upper rows show a number as black and white blocks."""
    image = np.full((*size, 3), 128, np.uint8)
    for digit in range(DIGITS):
        image[:CELL, digit * CELL : (digit + 1) * CELL] = 255 if number >> digit & 1 else 0
    return image


def numbers(path: Path) -> list[int]:
    """Decode a clip and return the numbers in its pictures, without repetitions."""
    video, found = cv2.VideoCapture(str(path)), []
    while True:
        ok, image = video.read()
        if not ok:
            break
        cells = [image[4 : CELL - 4, d * CELL + 4 : (d + 1) * CELL - 4].mean() for d in range(DIGITS)]
        assert all(abs(cell - 128) > 60 for cell in cells), cells
        found.append(sum(1 << digit for digit, cell in enumerate(cells) if cell > 128))
    video.release()
    return [number for i, number in enumerate(found) if i == 0 or number != found[i - 1]]


def at(number: int, *, stream: str = "gate", event: bool = False, live: bool = False, began: float = 0.0) -> Result:
    """Return frame ``number`` of a stream of 25 frames per second, with an event or without."""
    seconds = number / FPS
    frame = Frame(painted(number), number, seconds, "gate.mp4", began + seconds if live else time.monotonic())
    events = (replace(entered(number), captured=NOON + timedelta(seconds=seconds)),) if event else ()
    return Result(frame, Detections.empty((), ()), stream, live, events=events)


def play(sink: ClipSink, results: list[Result]) -> list[str]:
    """Pass results as the pipeline does, and return the names that the events got."""
    names = []
    for result in results:
        named = sink.name_clips(result)
        names += [event.clip or "" for event in named.events]
        sink.write(named)
    return names


def clips(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if CLIP.fullmatch(path.name))


@pytest.mark.parametrize(("memory", "kept"), [(256 << 20, np.ndarray), (1 << 20, bytes)])
def test_a_clip_begins_before_its_event_and_ends_after_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, memory: int, kept: type
) -> None:
    """Frames wait as pixels if the memory holds enough of them, else as JPEG."""
    monkeypatch.setattr(clip_options, "MEMORY_BYTES", memory)
    with ClipSink(ClipOptions(tmp_path, before=2, after=1), ["gate"]) as sink:
        (name,) = play(sink, [at(number, event=number == 100) for number in range(200)])
        assert {type(frame.picture) for frame in sink._rings["gate"]._frames} == {kept}
    assert clips(tmp_path) == [tmp_path / name]
    shown = numbers(tmp_path / name)
    # From 2 s before frame 100 (frame 50) to 1 s after it (frame 125).
    assert 50 <= shown[0] < 50 + SPACING
    assert 125 - SPACING < shown[-1] <= 125
    assert 100 in shown
    assert all(0 < after - before <= SPACING for before, after in pairwise(shown))
    (clip,) = newest_clips(tmp_path, "gate", 9)
    assert (clip.name, clip.lost, clip.bytes) == (name, 0, (tmp_path / name).stat().st_size)
    assert clip.time == "2026-01-02T12:00:04.000Z"
    assert clip.before == pytest.approx((100 - shown[0]) / FPS)
    assert clip.duration == pytest.approx((shown[-1] - shown[0]) / FPS)
    assert [event["clip"] for event in clip.events] == [name]
    assert sink.written == (tmp_path,)
    assert capfd.readouterr().err == ""


def test_a_clip_plays_as_long_as_the_scene(tmp_path: Path) -> None:
    with ClipSink(ClipOptions(tmp_path, before=2, after=2), ["gate"]) as sink:
        play(sink, [at(number, event=number == 100) for number in range(200)])
    video = cv2.VideoCapture(str(clips(tmp_path)[0]))
    rate, fourcc = video.get(cv2.CAP_PROP_FPS), int(video.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")
    count = 0
    while video.read()[0]:
        count += 1
    assert fourcc == b"VP80"
    assert count / rate == pytest.approx(4, abs=0.15)


@pytest.mark.parametrize(("event", "first", "last"), [(0, 0, 25), (3, 0, 28), (99, 74, 99)])
def test_events_at_the_start_and_the_end_of_a_stream(tmp_path: Path, event: int, first: int, last: int) -> None:
    with ClipSink(ClipOptions(tmp_path, before=1, after=1), ["gate"]) as sink:
        play(sink, [at(number, event=number == event) for number in range(100)])
        sink.end("gate")
        wait_for(lambda: clips(tmp_path))
    shown = numbers(clips(tmp_path)[0])
    assert abs(shown[0] - first) <= 1
    assert abs(shown[-1] - last) <= 1
    assert sink.lost == 0


def test_overlapping_events_share_a_clip_and_later_ones_do_not(tmp_path: Path) -> None:
    with ClipSink(ClipOptions(tmp_path, before=1, after=1), ["gate"]) as sink:
        names = play(sink, [at(number, event=number in (50, 70, 120)) for number in range(200)])
    assert names[0] == names[1] != names[2]
    first, second = (numbers(tmp_path / name) for name in (names[0], names[2]))
    assert (25 <= first[0] < 25 + SPACING, 95 - SPACING < first[-1] <= 95) == (True, True)
    # The second clip shows frame 95 again: it begins a second before its event, although the first clip ends there.
    assert (95 <= second[0] < 95 + SPACING, 145 - SPACING < second[-1] <= 145) == (True, True)
    assert {len(clip.events) for clip in newest_clips(tmp_path, "gate", 9)} == {1, 2}


def test_a_clip_is_at_most_so_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_ring, "MAX_CLIP_SECONDS", 4.0)
    with ClipSink(ClipOptions(tmp_path, before=1, after=1), ["gate"]) as sink:
        names = play(sink, [at(number, event=number % 20 == 0) for number in range(200)])
    # Events at 0, 0.8, 1.6, ... s: the first clip begins at -1 s and may end at 3 s, so it holds events up to 2 s.
    assert [names.index(name) for name in dict.fromkeys(names)] == [0, 3, 6, 9]
    for clip in newest_clips(tmp_path, "gate", 9):
        assert clip.duration <= 4
        assert clip.before >= min(0.9, float(clip.events[0]["track"]) / FPS - 0.1)


def test_two_streams_have_their_own_clips(tmp_path: Path) -> None:
    with ClipSink(ClipOptions(tmp_path, before=1, after=1), ["gate", "yard"]) as sink:
        results = [
            at(number + offset, stream=stream, event=number == 50)
            for number in range(100)
            for stream, offset in (("gate", 0), ("yard", 500))
        ]
        play(sink, results)
    (gate,), (yard,) = (newest_clips(tmp_path, stream, 9) for stream in ("gate", "yard"))
    assert 25 <= numbers(tmp_path / gate.name)[0] < 25 + SPACING
    assert 525 <= numbers(tmp_path / yard.name)[0] < 525 + SPACING
    assert newest_clips(tmp_path, "other", 9) == []


def test_frames_of_another_size_are_fitted_into_the_clip(tmp_path: Path) -> None:
    """A picture of half the width and height has its blocks where they were."""
    results = [at(number, event=number == 50) for number in range(100)]
    for number in range(50, 100):
        small = cv2.resize(painted(number), (96, 48), interpolation=cv2.INTER_AREA).astype(np.uint8)
        results[number] = replace(results[number], frame=replace(results[number].frame, image=small))
    with ClipSink(ClipOptions(tmp_path, before=1, after=1), ["gate"]) as sink:
        (name,) = play(sink, results)
    shown = numbers(tmp_path / name)
    assert (25 <= shown[0] < 25 + SPACING, 75 - SPACING < shown[-1] <= 75) == (True, True)
    assert sink.error is None


def test_boxes_and_zones_are_drawn_into_a_clip(tmp_path: Path) -> None:
    zone = Zone("lawn", ((400, 400), (1000, 400), (1000, 800), (400, 800)), "px")
    frame = Frame(np.zeros((1080, 1920, 3), np.uint8), 0, 0.0, "gate.mp4")
    box = np.array([[1200, 200, 1600, 900]], np.float32)
    found = Detections(box, np.array([0.9], np.float32), np.zeros(1, np.int32), ("car",), (1,))
    tally = Tally(zone, {"inside": {}, "entered": {}, "left": {}})
    with ClipSink(ClipOptions(tmp_path), ["gate"]) as sink:
        play(sink, [Result(frame, found, "gate", events=(entered(1),), tallies=(tally,))])
    ok, image = cv2.VideoCapture(str(clips(tmp_path)[0])).read()
    assert ok
    assert image.shape == (540, 960, 3)
    assert image[300, 598:603].max() > 60  # the left side of the box, at half the size
    assert image[300, 350].mean() > 25  # the tint of the zone, inside of it
    assert image[300, 550].mean() < 10  # between the two


@pytest.mark.parametrize(("rate", "kept"), [(5, 5), (10, 10), (12.5, 10), (15, 10), (25, 10), (30, 10), (60, 10)])
def test_ten_frames_per_second_are_kept_at_most(tmp_path: Path, rate: float, kept: float) -> None:
    """Also if the frames of a camera arrive up to a tenth of their distance early or late."""
    uneven = np.random.default_rng(0).uniform(-0.1, 0.1, int(20 * rate))
    sink = ClipSink(ClipOptions(tmp_path, before=60), ["gate"])
    with sink:
        for number, shift in enumerate(uneven):
            result = at(number)
            frame = replace(result.frame, timestamp=(number + 0.5 + float(shift)) / rate)
            sink.write(replace(result, frame=frame))
        assert len(sink._rings["gate"]) == pytest.approx(20 * kept, abs=2)


def test_a_lost_camera_ends_the_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_sink, "LATE_SECONDS", 0.2)
    began = time.monotonic() - 2
    with ClipSink(ClipOptions(tmp_path, before=1, after=0.2), ["gate"]) as sink:
        play(sink, [at(number, event=number == 50, live=True, began=began) for number in range(52)])
        wait_for(lambda: clips(tmp_path))  # no further frame comes
    shown = numbers(clips(tmp_path)[0])
    assert 25 <= shown[0] < 25 + SPACING
    assert shown[-1] in (50, 51)


def test_memory_is_bounded_and_the_clip_begins_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    size = len(cv2.imencode(".jpg", painted(0), [cv2.IMWRITE_JPEG_QUALITY, clip_sink.JPEG_QUALITY])[1])
    monkeypatch.setattr(clip_options, "MEMORY_BYTES", 10 * size)
    sink = ClipSink(ClipOptions(tmp_path, before=4, after=1), ["gate"])
    ring = sink._rings["gate"]
    most = 0
    with sink:
        for number in range(200):
            play(sink, [at(number, event=number == 150)])
            with sink._changed:
                most = max(most, ring.bytes)
                assert ring.bytes == sum(frame.bytes for frame in ring._frames)
    assert 5 * size < most <= 10 * size
    shown = numbers(clips(tmp_path)[0])
    # Without the bound, it would begin at frame 50.
    assert 120 < shown[0] < 150
    assert shown[-1] >= 174
    (clip,) = newest_clips(tmp_path, "gate", 1)
    assert clip.lost > 0
    assert re.search(r"begins [01]\.\d s before the event", caplog.text)


def test_a_slow_writer_makes_neither_the_detector_nor_the_frames_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Live frames are dropped and counted. ``name_clips`` and ``write`` return while the writer hangs."""
    gate = threading.Event()
    monkeypatch.setattr(clip_options, "MEMORY_BYTES", 40_000)
    sink = ClipSink(ClipOptions(tmp_path, before=1, after=30), ["gate"])
    write = sink._writer.write

    def slow(clip: clip_ring.Clip, frames: list[clip_ring.ClipFrame]) -> None:
        assert gate.wait(20)
        write(clip, frames)

    monkeypatch.setattr(sink._writer, "write", slow)
    began = time.monotonic()
    with sink:
        (name,) = play(sink, [at(number, event=number == 50, live=True, began=began) for number in range(400)])
        assert sink._rings["gate"].bytes <= 40_000
        gate.set()
    (clip,) = newest_clips(tmp_path, "gate", 1)
    assert clip.name == name
    assert clip.lost > 50
    assert sink.lost == clip.lost
    assert numbers(tmp_path / name)[-1] >= 400 - SPACING


def test_the_ring_returns_frames_to_their_pool(tmp_path: Path) -> None:
    pool = FramePool()
    image = pool.take(96, 192)
    image[:] = painted(0)
    block = pool.block_of(image)
    assert block is not None
    result = at(0)
    result = replace(result, frame=replace(result.frame, image=image))
    address = image.ctypes.data
    with ClipSink(ClipOptions(tmp_path), ["gate"]) as sink:
        sink.write(result)
        del image, result, block
        assert len(sink._rings["gate"]) == 1
        assert pool.take(96, 192).ctypes.data == address


def test_a_full_disk_fails_the_clip_and_later_clips_work(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", RESERVED_BYTES + 2**20) as disk:
        filler = disk / "filler"
        filler.write_bytes(bytes(2**20 + 2**19))
        with ClipSink(ClipOptions(disk, before=1, after=1), ["gate"]) as sink:
            play(sink, [at(number, event=number == 50) for number in range(100)])
            wait_for(lambda: sink.failing)
            assert os.listdir(disk) == ["filler"]
            assert sink.lost > 0
            filler.unlink()
            play(sink, [at(number, event=number == 150) for number in range(100, 200)])
            wait_for(lambda: clips(disk))
            assert not sink.failing
        assert 124 <= numbers(clips(disk)[0])[0] <= 126
    assert "the clip cannot be written" in caplog.text
    assert "No space left on device" in caplog.text


KILLED = """
import sys, time
from pathlib import Path
from retina_edge.sinks.clip_options import ClipOptions
from retina_edge.sinks.clip_sink import ClipSink
from tests.retina_edge.sinks.test_clips import at, play
with ClipSink(ClipOptions(Path(sys.argv[1]), before=1, after=60), ["gate"]) as sink:
    play(sink, [at(number, event=number == 50) for number in range(100)])
    while not list(Path(sys.argv[1]).glob("*.partial.mkv")):
        time.sleep(0.01)
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_killed_process_leaves_no_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.core.file_lock.LEFT_SECONDS", 0.0)
    with subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (partial,) = tmp_path.iterdir()
        # While it runs, another process leaves its file alone.
        with ClipSink(ClipOptions(tmp_path), ["gate"]):
            assert partial.exists()
        process.send_signal(signal.SIGKILL)
    assert newest_clips(tmp_path, "gate", 9) == []
    with ClipSink(ClipOptions(tmp_path), ["yard"]):
        assert partial.exists()
    with ClipSink(ClipOptions(tmp_path), ["gate"]):
        assert not partial.exists()


def test_the_outputs_name_the_clip_in_results(tmp_path: Path) -> None:
    results = tmp_path / "out.jsonl"
    sink = ClipSink(ClipOptions(tmp_path / "clips", before=1, after=1), ["gate"])
    with open_outputs(jsonl=results, clips=(tmp_path / "clips", sink), strict=True) as outputs:
        for number in range(100):
            outputs.write(outputs.name_clips(at(number, event=number == 50)))
        outputs.end("gate")
    (event,) = [event for line in results.read_text().splitlines() for event in json.loads(line)["events"]]
    assert clips(tmp_path / "clips") == [tmp_path / "clips" / event["clip"]]
    assert tmp_path / "clips" in outputs.written
    assert [(status.state, status.lost) for status in outputs.status()] == [("ok", 0), ("ok", 0)]


def test_without_clips_results_are_unchanged() -> None:
    result = at(0, event=True)
    with open_outputs(strict=True) as outputs:
        assert outputs.name_clips(result) is result
    assert "clip" not in result.events[0].to_dict()


def test_seconds_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="before: expected 0 to 60 seconds, got 61"):
        ClipOptions(tmp_path, before=61)
    with pytest.raises(ContractError, match="after: expected 0 to 60 seconds, got -1"):
        ClipOptions(tmp_path, after=-1)


def test_clips_survive_the_queue_of_a_background_sink(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Frames of a file wait for the writer, so that a clip at the end of the file is whole."""
    sink = ClipSink(ClipOptions(tmp_path, before=2, after=2), ["gate"])
    with caplog.at_level(logging.WARNING), BackgroundSink(sink, capacity=16) as queued:
        for number in range(300):
            queued.write(sink.name_clips(at(number, event=number in (60, 299))))
        queued.end("gate")
    first, last = (numbers(path) for path in clips(tmp_path))
    shown = sorted([first, last])
    assert (10 <= shown[0][0] < 10 + SPACING, shown[1][-1]) == (True, 299)
    assert 249 <= shown[1][0] < 249 + SPACING
    assert caplog.text == ""
