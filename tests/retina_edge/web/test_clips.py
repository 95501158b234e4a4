"""Clips over a real server: their list, the files and ranges of them, and what is refused."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import urlsplit

import cv2
import httpx
import numpy as np
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from retina_edge.detections import Detections
from retina_edge.pipeline.result import Result
from retina_edge.sinks.clip_options import ClipOptions
from retina_edge.sinks.clip_sink import ClipSink
from retina_edge.sources.frames import Frame
from tests.events import entered
from tests.retina_edge.web.browser import DESKTOP, NEEDS_BROWSER
from tests.retina_edge.web.serving import TOKEN, Served, serving
from tests.waiting import wait_for

BEGAN = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three clips of north and one of south, each of 4 s around an event 2 s after its beginning."""
    path = tmp_path_factory.mktemp("clips")
    with ClipSink(ClipOptions(path, before=2, after=2), ["north", "south"]) as sink:
        for stream, events in (("north", 3), ("south", 1)):
            for number in range(100 * events):
                image = np.full((96, 128, 3), number % 200, np.uint8)
                moment = BEGAN + timedelta(seconds=number / 10)
                happened = (replace(entered(number), stream=stream, captured=moment),) if number % 100 == 50 else ()
                frame = Frame(image, number, number / 10, "a.mp4")
                named = sink.name_clips(Result(frame, Detections.empty((), ()), stream, events=happened))
                sink.write(named)
    return path


@pytest.fixture(scope="module")
def with_clips(folder: Path) -> Iterator[Served]:
    with serving(clips=folder) as server:
        yield server


@pytest.fixture
def http(with_clips: Served) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=with_clips.url, timeout=10) as client:
        yield client


def test_clips_are_listed_newest_first(http: httpx.Client, folder: Path) -> None:
    listed = http.get("/api/streams/north/clips").json()
    # Events at 5, 15 and 25 s after the beginning; a frame each 0.1 s.
    assert [clip["time"][11:] for clip in listed] == ["12:00:25.000Z", "12:00:15.000Z", "12:00:05.000Z"]
    for clip in listed:
        assert clip["before"] == pytest.approx(2, abs=0.11)
        assert clip["duration"] == pytest.approx(4, abs=0.11)
        assert clip["bytes"] == (folder / clip["name"]).stat().st_size
        assert clip["lost"] == 0
        (event,) = clip["events"]
        assert (event["stream"], event["clip"]) == ("north", clip["name"])
    assert http.get("/api/streams/north/clips?limit=1").json() == listed[:1]
    assert [clip["stream"] for clip in http.get("/api/streams/south/clips").json()] == ["south"]
    assert http.get("/api/streams/gone/clips").json() == []


def test_a_clip_is_sent_whole_or_in_ranges(http: httpx.Client, folder: Path) -> None:
    (clip,) = http.get("/api/streams/south/clips").json()
    path, content = f"/api/streams/south/clips/{clip['name']}", (folder / clip["name"]).read_bytes()
    whole = http.get(path)
    assert (whole.status_code, whole.content) == (200, content)
    assert whole.headers["content-type"] == "video/webm"
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-disposition"].startswith("inline")
    part = http.get(path, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(content)}"
    assert http.get(path, headers={"range": "bytes=-5"}).content == content[-5:]
    assert http.get(path, headers={"range": f"bytes={len(content)}-"}).status_code == 416
    assert content[:4] == bytes.fromhex("1a45dfa3")  # EBML


def test_no_other_file_can_be_read(http: httpx.Client, with_clips: Served, folder: Path) -> None:
    (clip,) = http.get("/api/streams/south/clips").json()
    secret = folder.parent / "south-20260101T000000.000Z-00000000.webm"
    secret.write_text("secret")
    link = folder / "south-20260101T000000.000Z-00000001.webm"
    link.symlink_to(secret)
    try:
        for name in (
            *(f"../{secret.name}", f"..%2F{secret.name}", f"%2e%2e/{secret.name}", str(secret), "..", "%00"),
            *(link.name, clip["name"].replace(".webm", ".json"), clip["name"] + "%00", clip["name"] + "%0A"),
            f"{secret.name}",
        ):
            # A raw request, because a client would resolve the dots.
            assert status_of(with_clips.url, f"/api/streams/south/clips/{name}") in (404, 422), name
        assert status_of(with_clips.url, f"/api/streams/north/clips/{clip['name']}") == 404
        assert status_of(with_clips.url, f"/api/streams/south/clips/{clip['name']}") == 200
        assert len(http.get("/api/streams/south/clips").json()) == 1
    finally:
        link.unlink()
        secret.unlink()


def status_of(url: str, path: str) -> int:
    """Return the status of a request for a path as it is."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n\r\n".encode())
        return int(connection.recv(64).split()[1])


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/streams/west/clips", 404),
        ("/api/streams/north/clips?limit=0", 422),
        ("/api/streams/north/clips?limit=101", 422),
        ("/api/streams/north/clips?limit=many", 422),
        ("/api/streams/north/clips/none.webm", 404),
        (f"/api/streams/north/clips/{'a' * 200}", 422),
    ],
)
def test_wrong_requests_are_refused(http: httpx.Client, path: str, status: int) -> None:
    answer = http.get(path)
    assert answer.status_code == status
    assert isinstance(answer.json()["detail"], str)


def test_damaged_descriptions_and_clips_without_one_are_left_out(tmp_path: Path, folder: Path) -> None:
    (clip,) = [path for path in folder.iterdir() if path.name.startswith("south") and path.suffix == ".webm"]
    values = json.loads(clip.with_suffix(".json").read_text())
    for digit, text in enumerate(("", "{", "[]", "{}", json.dumps({**values, "more": 1}), json.dumps(values), None)):
        name = tmp_path / f"north-2026010{digit + 1}T000000.000Z-00000000.webm"
        name.write_bytes(bytes(10))
        if text is not None:
            name.with_suffix(".json").write_text(text)
    with serving(clips=tmp_path) as server:
        listed = httpx.get(f"{server.url}/api/streams/north/clips").json()
    assert [item["name"] for item in listed] == ["north-20260106T000000.000Z-00000000.webm"]


def test_the_token_is_required(folder: Path) -> None:
    name = next(name for name in os.listdir(folder) if name.endswith(".webm"))
    with serving(TOKEN, clips=folder) as server:
        for path in ("/api/streams/north/clips", f"/api/streams/{name.split('-')[0]}/clips/{name}"):
            assert httpx.get(f"{server.url}{path}").status_code == 401
            answer = httpx.get(f"{server.url}{path}", headers={"authorization": f"Bearer {TOKEN}"})
            assert answer.status_code == 200


def test_without_clips_there_are_no_routes(client: httpx.Client) -> None:
    assert client.get("/api/streams/north/clips").status_code == 404
    assert not any("clips" in path for path in client.get("/openapi.json").json()["paths"])


@NEEDS_BROWSER
def test_the_page_plays_the_clip_of_an_event_as_soon_as_it_is_complete(
    open_browser: Callable[[tuple[int, int]], Chrome], with_clips: Served, http: httpx.Client, folder: Path
) -> None:
    """The video begins before the event: its gray is the number of the frame, and frame 50 is the event."""
    (clip,) = http.get("/api/streams/south/clips").json()
    path, hidden = folder / clip["name"], folder / "hidden"
    path.rename(hidden)
    try:
        image = np.full((96, 128, 3), 50, np.uint8)
        moment = datetime.now(timezone.utc)
        event = replace(entered(50), stream="south", captured=moment, clip=clip["name"])
        with_clips.events.add(event, image)
        browser = open_browser(DESKTOP)
        browser.get(f"{with_clips.url}/")
        wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "#events .play"))
        play = browser.find_element(By.CSS_SELECTOR, "#events .play")
        assert (play.get_attribute("aria-label") or "").startswith("Play the clip: south: ")
        play.click()
        dialog = browser.find_element(By.ID, "clip")
        wait_for(lambda: "it is still being written" in dialog.text)
    finally:
        hidden.rename(path)
    script = (
        "const video = document.querySelector('#clip video'); if (video.readyState < 2) return null;"
        "const canvas = document.createElement('canvas'); const context = canvas.getContext('2d');"
        "context.drawImage(video, 0, 0); return [video.currentTime, context.getImageData(9, 9, 1, 1).data[0]];"
    )
    wait_for(lambda: browser.execute_script(script))
    time, gray = browser.execute_script(script)
    assert time < 1.5  # it has just begun to play
    assert gray < 50
    wait_for(lambda: browser.execute_script(script)[0] > 2)  # it plays on to the event
    assert browser.execute_script(script)[1] >= 46
    dialog.find_element(By.TAG_NAME, "button").click()
    wait_for(lambda: not dialog.is_displayed())
    wait_for(lambda: browser.switch_to.active_element.get_attribute("class") == "play")


@NEEDS_BROWSER
def test_a_browser_plays_a_clip(
    open_browser: Callable[[tuple[int, int]], Chrome], with_clips: Served, http: httpx.Client
) -> None:
    """The page may show it, and it can be moved to a time: the picture there has the gray of its frame."""
    (clip,) = http.get("/api/streams/south/clips").json()
    browser = open_browser(DESKTOP)
    browser.get(f"{with_clips.url}/")
    browser.execute_script(
        "const video = document.createElement('video'); video.id = 'played'; video.muted = true;"
        "video.src = arguments[0]; document.body.append(video); video.currentTime = 2;",
        f"api/streams/south/clips/{clip['name']}",
    )
    script = (
        "const video = document.getElementById('played'); if (video.readyState < 2 || video.seeking) return null;"
        "const canvas = document.createElement('canvas'); canvas.width = video.videoWidth;"
        "canvas.height = video.videoHeight; const context = canvas.getContext('2d'); context.drawImage(video, 0, 0);"
        "return [video.duration, video.videoWidth, video.videoHeight, context.getImageData(9, 9, 1, 1).data[0]];"
    )
    wait_for(lambda: browser.execute_script(script))
    duration, width, height, gray = browser.execute_script(script)
    assert duration == pytest.approx(4, abs=0.3)
    assert (width, height) == (128, 96)
    # Frame 50, the event, is 2 s after the beginning.
    assert gray == pytest.approx(50, abs=4)
    assert cv2.VideoCapture(f"{with_clips.url}/api/streams/south/clips/{clip['name']}").read()[0]
