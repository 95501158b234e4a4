"""The verb ``serve`` as users run it: in a process of its own, on real streams that die and come back."""

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
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from retina_edge.serve import main
from tests.media import count_frames, write_picture, write_video
from tests.rtsp_server import RtspServer, why_not
from tests.waiting import wait_for

pytestmark = pytest.mark.long

needs_rtsp = pytest.mark.skipif(bool(why_not()), reason=f"needs an RTSP server: {why_not()}")


# After the server is back; one more than is promised, because the tests share a processor.
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
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


@contextmanager
def serve(*words: object, token: bool = False) -> Iterator[Serving]:
    command = [sys.executable, "-m", "retina_edge.serve", *map(str, words), "--port", "0"]
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
    """Seconds until it held."""
    start = time.monotonic()
    wait_for(condition, seconds)
    return time.monotonic() - start


@pytest.fixture
def model(tiny_onnx: Path) -> Path:
    return tiny_onnx


def test_files_are_detected_to_their_end_and_it_ends(model: Path, tmp_path: Path) -> None:
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
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    for name, count in (("a", 7), ("b", 23), ("c", 12)):
        assert [record["frame"] for record in records if record["stream"] == name] == list(range(count))
    assert all(record["age_at_output"] >= record["age_at_inference"] >= 0 for record in records)
    found = sum(len(record["detections"]) for record in records)
    with table.open(newline="") as file:
        assert len(list(csv.DictReader(file))) == found > 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@needs_rtsp
def test_signals_end_it_in_order(model: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
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
    """As it was seen: the recording lasts as long as the camera was watched, whatever the detector left out."""
    video, lines = write_video(tmp_path / "v.mp4", count=50), tmp_path / "out.jsonl"
    film, saved = write_video(tmp_path / "film.mp4", count=30), tmp_path / "saved"
    with RtspServer({"/a": video}) as server:
        words = [f"cam={server.url('/a')}", film, "--save", saved, "--json", lines]
        with serve(model, *words) as serving:
            until(lambda: serving.streams()["cam"]["detected"] > 40)
            until(lambda: serving.streams()["film"]["state"] == "ended")
            returned, errors = serving.end(signal.SIGTERM)
    assert returned == 0, errors
    (recording,) = saved.glob("cam-*.mp4")
    assert re.fullmatch(r"cam-\d{8}T\d{6}Z\.mp4", recording.name)
    moments = [
        datetime.fromisoformat(record["captured"].replace("Z", "+00:00")).timestamp()
        for record in map(json.loads, lines.read_text().splitlines())
        if record["stream"] == "cam"
    ]
    count, _, fps = count_frames(recording)
    assert count / fps == pytest.approx(moments[-1] - moments[0], abs=0.3)
    assert count_frames(saved / "film.mp4")[0] == 30


def drop_out(serving: Serving, shaky: RtspServer) -> None:
    """Kills a server for some seconds; its stream is back soon after it, and the other has not stopped."""
    before = serving.streams()
    shaky.kill()
    until(lambda: serving.streams()["shaky"]["state"] == "offline")
    time.sleep(3)
    during = serving.streams()
    assert during["steady"]["detected"] > before["steady"]["detected"] + 20
    assert during["shaky"]["error"]
    shaky.start()
    assert until(lambda: serving.streams()["shaky"]["state"] == "online") < BACK_SECONDS
    until(lambda: serving.streams()["shaky"]["detected"] > during["shaky"]["detected"])


@needs_rtsp
def test_a_camera_that_drops_out_comes_back_and_stops_no_other(model: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=50)
    with RtspServer({"/a": video}, user="me", password="geheim") as shaky, RtspServer({"/b": video}) as steady:
        words = [f"shaky={shaky.url('/a')}", f"steady={steady.url('/b')}"]
        with serve(model, *words) as serving:
            until(lambda: all(status["detected"] > 5 for status in serving.streams().values()))
            drop_out(serving, shaky)
            drop_out(serving, shaky)
            told = json.dumps(serving.streams()) + httpx.get(f"{serving.url}/metrics").text
            _, errors = serving.end(signal.SIGTERM)
    assert "geheim" not in told + errors


def test_reconnecting_leaks_nothing(model: Path, tmp_path: Path) -> None:
    """A camera that is gone after some pictures; threads and descriptors of the process stay what they were."""
    picture = write_picture(tmp_path / "a.jpg").read_bytes()
    part = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(picture), picture)

    def held(process: int) -> tuple[int, int]:
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
            before = held(serving.process.pid)
            until(lambda: serving.streams()["short"]["reconnects"] >= 5, 60)
            until(lambda: all(now <= then + 2 for now, then in zip(held(serving.process.pid), before, strict=True)))
            stop.set()


def test_elsewhere_a_token_is_made_and_asked_for(model: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "v.mp4", count=2000)
    with serve(model, video, "--host", "0.0.0.0", token=True) as serving:
        assert httpx.get(f"{serving.url}/api/streams").status_code == 401
        token = serving.first_lines[1].removeprefix("token: ")
        assert len(token) >= 32
        found = httpx.get(f"{serving.url}/api/streams", headers={"authorization": f"Bearer {token}"})
        assert found.json()[0]["name"] == "v"
        _, errors = serving.end(signal.SIGTERM)
        assert token not in errors


def test_events_reach_their_receiver(model: Path, tmp_path: Path) -> None:
    """A zone over everything: what is found enters it."""
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
    words = [video, "--zone", "all=0,0 1,0 1,1 0,1", "--events", url, "--spool", tmp_path / "spool", "--score", "0.1"]
    command = [sys.executable, "-m", "retina_edge.serve", model, *words, "--port", "0"]
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert received
    assert {event["region"] for event in received} == {"all"}
    assert len({event["id"] for event in received}) == len(received)


needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
FULL = r"outputs failed: /dev/full: \d+ results lost \(.*No space left on device: '/dev/full'\)"


@needs_full
def test_a_full_disk_is_said_at_the_end_of_files(model: Path, tmp_path: Path) -> None:
    lines, video = tmp_path / "out.jsonl", write_video(tmp_path / "v.mp4", count=100)
    words = [model, video, "--json", lines, "--csv", "/dev/full", "--score", "0.05", "--port", "0"]
    command = [sys.executable, "-m", "retina_edge.serve", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert re.fullmatch(FULL, done.stderr.splitlines()[-1]), done.stderr
    assert [json.loads(line)["frame"] for line in lines.read_text().splitlines()] == list(range(100))


@needs_full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_full_disk_stops_nothing_and_is_said_at_the_end(model: Path, tmp_path: Path, number: signal.Signals) -> None:
    lines, video = tmp_path / "out.jsonl", write_video(tmp_path / "v.mp4", count=3000)
    with serve(model, video, "--json", lines, "--csv", "/dev/full", "--score", "0.05") as serving:
        until(lambda: states(serving)["/dev/full"] == "failed")
        detected = serving.streams()["v"]["detected"]
        until(lambda: serving.streams()["v"]["detected"] > detected)
        assert states(serving)[str(lines)] != "failed"
        returned, errors = serving.end(number)
    assert returned == 1, errors
    assert re.fullmatch(FULL, errors.splitlines()[-1]), errors
    assert errors.count("next attempt in 10 s") == 1
    written = [json.loads(line)["frame"] for line in lines.read_text().splitlines()]
    assert written == list(range(len(written)))
    assert len(written) > detected


def states(serving: Serving) -> dict[str, str]:
    return {output["name"]: output["state"] for output in httpx.get(f"{serving.url}/api/outputs").json()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.mp4"], "nowhere.mp4: no such file or folder"),
        (["0", "--token", "short"], "--token: expected at least 8 letters"),
        (["0", "--zone", "other:z=0,0 1,0 1,1"], "other"),
        (["a=0", "a=1"], "a: expected each name once"),
        (["a=0", "b=1", "--save", "one.mp4"], "an MP4 takes one video, camera or URL; for this give a folder"),
        (["0", "--save", "one.mp4"], "each start would replace it; of a stream without end give a folder"),
        (["0", "--score", "0.001"], "score: expected 0.05 <= score < 1"),
        (["0", "--events", "ftp://x/y"], "ftp"),
        (["0", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1"),
    ],
)
def test_mistakes_are_one_line(
    model: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([str(model), *words, "--spool", str(tmp_path), "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_port_that_is_taken(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = tmp_path / "o.jsonl"
    lines.write_text("of the one that has the port\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main([str(model), "0", "--port", port, "--json", str(lines)]) == 1
    assert lines.read_text() == "of the one that has the port\n"
    assert f"cannot listen on 127.0.0.1, port {port} (Address already in use); give another" in capsys.readouterr().err


def test_an_option_is_written_out(capsys: pytest.CaptureFixture[str]) -> None:
    """What looks for secrets among the arguments must find --token."""
    with pytest.raises(SystemExit) as stopped:
        main(["/m.engine", "0", "--tok", "hunter2hunter2", "--install-service"])
    assert stopped.value.code == 2
    assert "ExecStart" not in capsys.readouterr().out


def test_a_unit_is_printed_without_what_is_secret(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), "cam=rtsp://me:geheim@camera/x", "--install-service", "--host", "0.0.0.0"]) == 0
    said = capsys.readouterr()
    assert said.out.count("ExecStart=") == 1
    assert "--host" in said.out
    assert "--install-service" not in said.out
    assert "geheim" not in said.out + said.err
    assert "systemctl enable" in said.err


@pytest.mark.parametrize(
    ("words", "writable"),
    [
        (["--json", "/var/lib/retina-edge/o.jsonl", "--save", "/var/lib/retina-edge"], []),
        (
            ["--json", "/data/a/o.jsonl", "--csv", "/data/a/o.csv", "--save", "/rec", "--spool", "/s"],
            ["/data/a", "/rec", "/s"],
        ),
        (["--save", "/rec/o.mp4"], ["/rec"]),
    ],
)
def test_a_unit_can_write_where_outputs_go(
    words: list[str], writable: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["/m.engine", "0", *words, "--install-service"]) == 0
    said = capsys.readouterr()
    found = [line.partition("=")[2] for line in said.out.splitlines() if line.startswith("ReadWritePaths=")]
    assert found == writable
    assert all(folder in said.err for folder in writable)
