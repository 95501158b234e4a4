"""The verb ``serve`` as users run it: as a process, on real streams that fail and come back."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from retina_edge.serve import main
from retina_edge.sinks.clip_sink import MAX_FPS
from tests.media import count_frames, write_patch_image, write_video
from tests.rtsp_server import RtspServer, why_not
from tests.waiting import wait_for

pytestmark = pytest.mark.start_first

needs_rtsp = pytest.mark.skipif(bool(why_not()), reason=f"needs an RTSP server: {why_not()}")


# Seconds from the restart of a server until its stream is online, with a margin because tests share the processor.
BACK_SECONDS = 3.0


@dataclass
class Serving:
    """A running ``retina-edge serve``."""

    process: subprocess.Popen[str]
    url: str
    first_lines: list[str]

    def streams(self) -> dict[str, Any]:
        return {status["name"]: status for status in httpx.get(f"{self.url}/api/streams").json()}

    def end(self, number: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(number)
        printed, errors = self.process.communicate(timeout=30)
        assert "all sources ended" not in printed  # a signal ended the run
        return self.process.returncode, errors


@contextmanager
def serve(*arguments: object, token: bool = False) -> Iterator[Serving]:
    """Run ``retina-edge serve`` on a free port, and yield it once it answers; ``token`` expects a generated token."""
    command = [sys.executable, "-m", "retina_edge.serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline().strip() for _ in range(1 + token)]
        assert lines[0].startswith("http://"), [*lines, process.communicate(timeout=30)[1]]
        url = lines[0].rstrip("/").replace("0.0.0.0", "127.0.0.1")
        until(lambda: answers(url))
        yield Serving(process, url, lines)
    finally:
        process.kill()
        process.communicate()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/healthz").status_code == 200
    except httpx.HTTPError:
        return False


def until(condition: Callable[[], object], seconds: float = 30.0) -> float:
    """Wait until a condition is true, and return the seconds that it took."""
    start = time.monotonic()
    wait_for(condition, seconds)
    return time.monotonic() - start


@pytest.fixture
def model(tiny_onnx: Path) -> Path:
    return tiny_onnx


def test_all_frames_of_files_are_detected_and_the_process_ends(model: Path, tmp_path: Path) -> None:
    videos = [
        write_video(tmp_path / f"{name}.mp4", count=count, size=size)
        for name, count, size in (("a", 7, (64, 96)), ("b", 23, (120, 160)), ("c", 12, (48, 48)))
    ]
    lines, table = tmp_path / "out.jsonl", tmp_path / "out.csv"
    command = [
        sys.executable,
        "-m",
        "retina_edge.serve",
        model,
        *videos,
        "--json",
        lines,
        "--csv",
        table,
        "--port",
        "0",
    ]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "all sources ended"
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    for name, count in (("a", 7), ("b", 23), ("c", 12)):
        assert [record["frame"] for record in records if record["stream"] == name] == list(range(count))
    assert all(record["age_at_output"] >= record["age_at_inference"] >= 0 for record in records)
    count = sum(len(record["detections"]) for record in records)
    with table.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == count > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@needs_rtsp
def test_a_signal_ends_the_process_with_complete_lines(
    model: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    lines = tmp_path / "out.jsonl"
    video = write_video(tmp_path / "v.mp4", count=50)
    with RtspServer({"/a": video}) as server, serve(model, f"cam={server.url('/a')}", "--json", lines) as serving:
        until(lambda: serving.streams()["cam"]["detected"] > 5)
        returned, errors = serving.end(number)
    assert returned == code, errors
    assert "Traceback" not in errors
    assert all(json.loads(line)["stream"] == "cam" for line in lines.read_text().splitlines())


@needs_rtsp
def test_a_camera_is_recorded(model: Path, tmp_path: Path) -> None:
    """The recording lasts as long as the camera delivered frames, although some of them were dropped."""
    video, lines = write_video(tmp_path / "v.mp4", count=50), tmp_path / "out.jsonl"
    clip, saved = write_video(tmp_path / "clip.mp4", count=30), tmp_path / "saved"
    with RtspServer({"/a": video}) as server:
        arguments = [f"cam={server.url('/a')}", clip, "--save", saved, "--json", lines]
        with serve(model, *arguments) as serving:
            until(lambda: serving.streams()["cam"]["detected"] > 40)
            until(lambda: serving.streams()["clip"]["state"] == "ended")
            returned, errors = serving.end(signal.SIGTERM)
    assert returned == 0, errors
    (recording,) = saved.glob("cam-*.mkv")
    assert re.fullmatch(r"cam-\d{8}T\d{6}Z\.mkv", recording.name)
    times = [
        datetime.fromisoformat(record["captured"].replace("Z", "+00:00")).timestamp()
        for record in map(json.loads, lines.read_text().splitlines())
        if record["stream"] == "cam"
    ]
    count, _, fps = count_frames(recording)
    assert count / fps == pytest.approx(times[-1] - times[0], abs=0.3)
    assert count_frames(saved / "clip.mp4")[0] == 30


def interrupt_camera(serving: Serving, shaky: RtspServer) -> None:
    """Kill an RTSP server and restart it later; check that its stream comes back and that the other never stops."""
    before = serving.streams()
    shaky.kill()
    until(lambda: serving.streams()["shaky"]["state"] == "offline")
    until(lambda: serving.streams()["steady"]["detected"] > before["steady"]["detected"] + 20)
    during = serving.streams()
    assert during["shaky"]["error"]
    shaky.start()
    assert until(lambda: serving.streams()["shaky"]["state"] == "online") < BACK_SECONDS
    until(lambda: serving.streams()["shaky"]["detected"] > during["shaky"]["detected"])


@needs_rtsp
def test_a_lost_camera_comes_back_and_does_not_stop_the_other(model: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=50)
    with RtspServer({"/a": video}, user="me", password="geheim") as shaky, RtspServer({"/b": video}) as steady:
        arguments = [f"shaky={shaky.url('/a')}", f"steady={steady.url('/b')}"]
        with serve(model, *arguments) as serving:
            until(lambda: all(status["detected"] > 5 for status in serving.streams().values()))
            interrupt_camera(serving, shaky)
            shown = json.dumps(serving.streams()) + httpx.get(f"{serving.url}/metrics").text
            _, errors = serving.end(signal.SIGTERM)
    assert "geheim" not in shown + errors


@pytest.mark.slow
def test_reconnecting_leaks_no_threads_or_descriptors(model: Path, tmp_path: Path) -> None:
    """A camera disconnects after 20 images, again and again."""
    image = write_patch_image(tmp_path / "a.jpg").read_bytes()
    part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(image), image)

    def resources(process: int) -> tuple[int, int]:
        """Count the threads and the file descriptors of a process."""
        return len(os.listdir(f"/proc/{process}/task")), len(os.listdir(f"/proc/{process}/fd"))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        stop = threading.Event()

        def answer() -> None:
            while not stop.is_set():
                connection, _ = listening.accept()
                with connection:
                    connection.recv(4096)
                    head = b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
                    connection.sendall(head + 20 * part)

        threading.Thread(target=answer, daemon=True).start()
        with serve(model, f"short=http://127.0.0.1:{listening.getsockname()[1]}/v") as serving:
            until(lambda: serving.streams()["short"]["reconnects"] >= 2)
            before = resources(serving.process.pid)
            until(lambda: serving.streams()["short"]["reconnects"] >= 5, 60)
            until(
                lambda: all(now <= then + 2 for now, then in zip(resources(serving.process.pid), before, strict=True))
            )
            stop.set()


def test_a_token_is_generated_and_required_if_the_host_is_not_loopback(model: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=2000)
    with serve(model, video, "--host", "0.0.0.0", token=True) as serving:
        assert httpx.get(f"{serving.url}/api/streams").status_code == 401
        token = serving.first_lines[1].removeprefix("token: ")
        assert len(token) >= 32
        answer = httpx.get(f"{serving.url}/api/streams", headers={"authorization": f"Bearer {token}"})
        assert answer.json()[0]["name"] == "v"
        _, errors = serving.end(signal.SIGTERM)
        assert token not in errors


def test_events_reach_their_receiver(model: Path, tmp_path: Path) -> None:
    """A zone covers the whole frame, so every object enters it."""
    received: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    video = write_video(tmp_path / "v.mp4", count=40)
    url = f"http://127.0.0.1:{server.server_port}/events"
    arguments = [video, "--zone", "all=0,0 1,0 1,1 0,1", "--events", url, "--spool", tmp_path / "spool"]
    command = [sys.executable, "-m", "retina_edge.serve", model, *arguments, "--score", "0.1", "--port", "0"]
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert received
    assert {event["region"] for event in received} == {"all"}
    assert len({event["id"] for event in received}) == len(received)


@needs_rtsp
def test_a_camera_has_clips_and_old_recordings_are_deleted(model: Path, tmp_path: Path) -> None:
    """A zone covers the whole frame, so every object enters it. The event names its clip, which the API has."""
    video, lines = write_video(tmp_path / "v.mp4", count=50), tmp_path / "out.jsonl"
    clips, saved = tmp_path / "clips", tmp_path / "saved"
    saved.mkdir()
    old, other = saved / "cam-20200101T000000Z.mkv", saved / "holiday.mkv"
    old.write_bytes(bytes(1000))
    other.write_bytes(bytes(1000))
    # Nothing is deleted by age for a day after a long pause, so a newer file shows that there was none.
    (saved / f"cam-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-2.mkv").write_bytes(bytes(1000))
    with RtspServer({"/a": video}) as server:
        arguments = [f"cam={server.url('/a')}", "--zone", "all=0,0 1,0 1,1 0,1", "--score", "0.1", "--json", lines]
        arguments += ["--clips", clips, "--before", "1", "--after", "0.1", "--save", saved, "--keep-days", "7"]
        with serve(model, *arguments) as serving:
            assert serving.process.stdout is not None
            assert "1 s before and 0.1 s after each event" in serving.process.stdout.readline()
            url = f"{serving.url}/api/streams/cam/clips"
            until(lambda: httpx.get(url).json())
            # The newest result names clips, too, as soon as a frame with an event is the newest one.
            newest = f"{serving.url}/api/streams/cam/detections"
            until(lambda: [event["clip"] for event in httpx.get(newest).json()["events"]])
            (first, *_) = httpx.get(url).json()[::-1]
            content = httpx.get(f"{url}/{first['name']}").content
            shown = [event.get("clip") for event in httpx.get(f"{serving.url}/api/events?limit=100").json()]
            until(lambda: not old.exists())
            returned, errors = serving.end(signal.SIGTERM)
    assert returned == 0, errors
    assert other.exists()
    assert content == (clips / first["name"]).read_bytes()
    assert shown  # the newest events, of which there may be more than the API returns
    assert all((clips / name).exists() for name in shown)
    written = [event for line in lines.read_text().splitlines() for event in json.loads(line)["events"]]
    assert first["events"][0] in written
    assert all((clips / event["clip"]).exists() for event in written)
    assert sorted({path.suffix for path in clips.iterdir()}) == [".json", ".webm"]
    assert count_frames(clips / first["name"])[0] / MAX_FPS == pytest.approx(first["duration"], abs=0.2)


needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
FULL_DISK_ERROR = r"outputs failed: /dev/full: \d+ results lost \(.*No space left on device: '/dev/full'\)"


@needs_dev_full
def test_a_full_disk_is_reported_when_files_have_ended(model: Path, tmp_path: Path) -> None:
    lines, video = tmp_path / "out.jsonl", write_video(tmp_path / "v.mp4", count=100)
    arguments = [model, video, "--json", lines, "--csv", "/dev/full", "--score", "0.05", "--port", "0"]
    command = [sys.executable, "-m", "retina_edge.serve", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert re.fullmatch(FULL_DISK_ERROR, done.stderr.splitlines()[-1]), done.stderr
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == list(range(100))


@needs_dev_full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_full_disk_does_not_stop_the_run_and_is_reported_at_the_end(
    model: Path, tmp_path: Path, number: signal.Signals
) -> None:
    lines, video = tmp_path / "out.jsonl", write_video(tmp_path / "v.mp4", count=3000)
    with serve(model, video, "--json", lines, "--csv", "/dev/full", "--score", "0.05") as serving:
        until(lambda: states(serving)["/dev/full"] == "failed")
        detected = serving.streams()["v"]["detected"]
        until(lambda: serving.streams()["v"]["detected"] > detected)
        assert states(serving)[str(lines)] != "failed"
        returned, errors = serving.end(number)
    assert returned == 1, errors
    assert re.fullmatch(FULL_DISK_ERROR, errors.splitlines()[-1]), errors
    assert errors.count("next attempt in 10 s") == 1
    written = [json.loads(line)["frame"] for line in lines.read_text().splitlines()]
    assert written == list(range(len(written)))
    assert len(written) > detected


def states(serving: Serving) -> dict[str, str]:
    """Return the state of each output, by name."""
    return {output["name"]: output["state"] for output in httpx.get(f"{serving.url}/api/outputs").json()}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4: no such file or folder"),
        (["0", "--token", "short"], "--token: expected at least 8 ASCII letters"),
        (["0", "--zone", "other:z=0,0 1,0 1,1"], "other"),
        (["a=0", "a=1"], "a: expected each name once"),
        (["a=0", "b=1", "--save", "one.mp4"], "an MP4 takes one video, camera or URL; use a folder instead"),
        (["0", "--save", "one.mp4"], "each start would overwrite it; use a folder for an endless stream"),
        (["0", "--score", "0.001"], "score: expected 0.05 <= score < 1"),
        (["0", "--events", "ftp://x/y"], "ftp"),
        (["0", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
        (["0", "--keep-days", "3"], "--keep-days, --keep-gb: expected --save DIR or --clips DIR, got neither folder"),
        (["0", "--clips", "/dev/null/clips", "--line", "gate=0,0.5 1,0.5"], "/dev/null/clips"),
    ],
)
def test_a_wrong_argument_is_an_error_of_one_line(
    model: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([str(model), *arguments, "--spool", str(tmp_path), "--port", "0"]) == 1
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_a_port_in_use_is_an_error_that_leaves_the_outputs(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "o.jsonl"
    lines.write_text("output of the server that uses the port\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main([str(model), "0", "--port", port, "--json", str(lines)]) == 1
    assert lines.read_text() == "output of the server that uses the port\n"
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use); give another" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--after", "3"], "--before and --after: expected --clips DIR with them"),
        (["--clips", "c"], "--clips: expected --zone, --line or --regions, because clips show their events; got none"),
        (["--clips", "c", "--before", "61"], "argument --before: expected seconds from 0 to 60, got '61'"),
        (["--keep-gb", "0"], "argument --keep-gb: expected a number above 0, got '0'"),
    ],
)
def test_options_of_clips_that_cannot_work_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["m.onnx", "0", *arguments])
    assert message in " ".join(capsys.readouterr().err.split())


def test_an_abbreviated_option_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The search for credentials among the arguments would not recognize an abbreviated --token."""
    with pytest.raises(SystemExit) as stopped:
        main(["/m.engine", "0", "--tok", "hunter2hunter2", "--install-service"])
    assert stopped.value.code == 2
    assert "ExecStart" not in capsys.readouterr().out


def test_the_printed_unit_contains_no_credentials(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), "cam=rtsp://me:geheim@camera/x", "--install-service", "--host", "0.0.0.0"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count("ExecStart=") == 1
    assert "--host" in printed.out
    assert "--install-service" not in printed.out
    assert "geheim" not in printed.out + printed.err
    assert "systemctl enable" in printed.err


@pytest.mark.parametrize(
    ("arguments", "writable"),
    [
        (["--json", "/var/lib/retina-edge/o.jsonl", "--save", "/var/lib/retina-edge"], []),
        (
            ["--json", "/data/a/o.jsonl", "--csv", "/data/a/o.csv", "--save", "/rec", "--spool", "/s"],
            ["/data/a", "/rec", "/s"],
        ),
        (["--clips", "/clips", "--zone", "lawn=0,0 1,0 1,1"], ["/clips"]),
        (["--save", "/rec/o.mp4"], ["/rec"]),
    ],
)
def test_the_unit_may_write_to_the_folders_of_the_outputs(
    arguments: list[str], writable: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["/m.engine", "0", *arguments, "--install-service"]) == 0
    printed = capsys.readouterr()
    paths = [line.partition("=")[2] for line in printed.out.splitlines() if line.startswith("ReadWritePaths=")]
    assert paths == writable
    assert all(folder in printed.err for folder in writable)
