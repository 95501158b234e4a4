"""The API over a real server: its answers, and what it refuses."""

from __future__ import annotations

import dataclasses
import re
import time
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect

from retina_edge.pipeline.stream import State
from retina_edge.tracking.events import Event
from retina_edge.web.app import _operations
from tests.retina_edge.web.serving import OUTPUTS, Served, serving
from tests.waiting import wait_for


def decoded(content: bytes) -> np.ndarray:
    """Decode a JPEG; fail if it is not one."""
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


def test_health_reports_the_number_of_online_streams(client: httpx.Client) -> None:
    assert client.get("/healthz").json() == {"status": "ok", "online": 2, "streams": 3}


def test_streams_report_state_rate_and_latency(client: httpx.Client) -> None:
    statuses = {status["name"]: status for status in client.get("/api/streams").json()}
    assert list(statuses) == ["north", "south", "gone"]
    north, gone = statuses["north"], statuses["gone"]
    assert (north["state"], north["height"], north["width"], north["live"]) == ("online", 120, 160, True)
    assert north["objects"] == {"patch": 1}
    assert 0 < north["latency_p50"] <= north["latency_p95"] < 2000
    assert north["fps"] > 1
    assert (gone["state"], gone["error"]) == ("offline", "camera: no route to host")
    assert gone["latency_p50"] is None
    assert client.get("/api/streams/south").json()["name"] == "south"


def test_detections_have_a_time_and_ages(client: httpx.Client) -> None:
    answer = client.get("/api/streams/north/detections").json()
    assert answer["detections"][0]["name"] == "patch"
    assert 0 <= answer["age_at_inference"] <= answer["age_at_output"] < 2
    assert answer["captured"].endswith("Z")
    assert client.get("/api/streams/gone/detections").status_code == 404


def test_the_newest_frame_is_a_jpeg(client: httpx.Client) -> None:
    frame = client.get("/api/streams/north/frame.jpg")
    assert frame.headers["content-type"] == "image/jpeg"
    assert decoded(frame.content).shape == (120, 160, 3)
    assert client.get("/api/streams/gone/frame.jpg").status_code == 404


def test_mjpeg_sends_new_frames(client: httpx.Client) -> None:
    seen: list[bytes] = []
    with client.stream("GET", "/api/streams/north/stream.mjpg") as response:
        assert response.headers["content-type"] == "multipart/x-mixed-replace; boundary=frame"
        buffer = b""
        for chunk in response.iter_bytes():
            buffer += chunk
            while (end := buffer.find(b"\xff\xd9\r\n")) >= 0:
                seen.append(buffer[buffer.index(b"\r\n\r\n") + 4 : end + 2])
                buffer = buffer[end + 4 :]
            if len(seen) >= 3:
                break
    assert len(set(seen)) == 3
    assert all(decoded(content).shape == (120, 160, 3) for content in seen)


def test_one_websocket_carries_all_streams(served: Served) -> None:
    numbers: list[int] = []
    with connect(served.url.replace("http", "ws") + "/api/watch") as socket:
        while numbers.count(0) < 3 or numbers.count(1) < 3:
            message = socket.recv(timeout=5)
            assert isinstance(message, bytes)
            numbers.append(int.from_bytes(message[:2], "big"))
            assert decoded(message[2:]).shape == ((96, 64, 3) if numbers[-1] else (120, 160, 3))
    assert set(numbers) == {0, 1}


def test_prometheus_can_parse_the_metrics(client: httpx.Client) -> None:
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    online = {sample.labels["stream"]: sample.value for sample in families["retina_edge_online"].samples}
    assert online == {"north": 1, "south": 1, "gone": 0}
    captured = families["retina_edge_captured_frames"].samples
    assert {sample.name for sample in captured} == {"retina_edge_captured_frames_total"}
    latency = families["retina_edge_latency_seconds"].samples
    assert {sample.labels["quantile"] for sample in latency} == {"0.5", "0.95"}
    objects = families["retina_edge_objects"].samples
    assert {sample.labels["class"] for sample in objects} == {"patch"}


def test_outputs_are_reported_and_described_in_openapi(client: httpx.Client, guarded: Served) -> None:
    assert client.get("/api/outputs").json() == [dataclasses.asdict(status) for status in OUTPUTS]
    schema = client.get("/openapi.json").json()
    answer = schema["paths"]["/api/outputs"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["items"] == {"$ref": "#/components/schemas/OutputStatus"}
    states = schema["components"]["schemas"]["OutputStatus"]["properties"]["state"]["enum"]
    assert states == ["ok", "waiting", "lost", "failed"]
    assert httpx.get(f"{guarded.url}/api/outputs").status_code == 401
    # A failed output must not make a supervisor restart the pipeline.
    assert client.get("/healthz").json()["status"] == "ok"


def test_metrics_of_outputs(client: httpx.Client) -> None:
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}

    def values(name: str) -> list[float]:
        samples = families[f"retina_edge_output_{name}"].samples
        assert [sample.labels for sample in samples] == [{"output": s.name, "kind": s.kind} for s in OUTPUTS]
        return [sample.value for sample in samples]

    assert values("up") == [1, 0, 0, 1]
    assert values("waiting") == [3, 0, 27, 0]
    assert values("done") == [1204, 871, 4, 9]
    assert values("lost") == [0, 336, 0, 1]
    assert values("dropped") == [0, 0, 0, 0]


def test_the_score_can_be_changed_within_bounds(client: httpx.Client, served: Served) -> None:
    assert client.get("/api/score").json() == {"score": 0.4}
    try:
        assert client.put("/api/score", json={"score": 0.95}).json() == {"score": 0.95}
        end = time.monotonic() + 5
        while client.get("/api/streams/north/detections").json()["detections"]:
            assert time.monotonic() < end
            time.sleep(0.02)
        # The model's own threshold is 0.05.
        assert client.put("/api/score", json={"score": 0.01}).status_code == 400
        values: list[Any] = [{"score": 1}, {"score": "0.5"}, {"score": -1}, {"score": None}, {}, []]
        for wrong in values:
            assert client.put("/api/score", json=wrong).status_code == 422, wrong
        assert served.pipeline.score == 0.95
    finally:
        served.pipeline.set_score(0.4)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"score": NaN}', "body.score: Input should be a finite number, got nan"),
        (b'{"score": -Infinity}', "body.score: Input should be a finite number, got -inf"),
        (b'{"score": 1e999}', "body.score: Input should be a finite number, got inf"),
        (b'{"score": "\\ud800\\n"}', "body.score: Input should be a valid number, got '\\ud800\\n'"),
        (b'{"score": {"\\udfff": NaN}}', "body.score: Input should be a valid number, got {'\\udfff': nan}"),
        (b'{"score": %s}' % (b"9" * 4000), "body.score: Input should be a valid number, got 99"),
        (b'{"score": 0.5', "body: expected JSON; Expecting ',' delimiter at character 13"),
        (b"\xff\xfe", "body: expected JSON"),
        (b"", "body: Field required, got None"),
    ],
    ids=["NaN", "infinity", "overflow", "surrogate", "surrogate key", "digits", "cut", "encoding", "empty"],
)
def test_invalid_values_are_refused_in_one_line(client: httpx.Client, served: Served, body: bytes, reason: str) -> None:
    answer = client.put("/api/score", content=body, headers={"content-type": "application/json"})
    detail = answer.json()["detail"]
    assert (answer.status_code, detail[: len(reason)]) == (422, reason)
    assert "\n" not in detail
    assert len(detail) < 200
    assert served.pipeline.score == 0.4


def test_bodies_that_cannot_be_parsed_are_refused(client: httpx.Client) -> None:
    for body in (b"[" * 4000, b'{"score": "\xff"}'):
        answer = client.put("/api/score", content=body, headers={"content-type": "application/json"})
        assert (answer.status_code, answer.json()) == (400, {"detail": "There was an error parsing the body"})


def test_class_names_that_are_not_unicode_are_escaped() -> None:
    name, escaped = "ca\udce9\ud800", "ca\\udce9\\ud800"
    with serving() as server, httpx.Client(base_url=server.url) as client:
        server.pipeline.stop()
        north = server.pipeline.streams[0]
        wait_for(lambda: north.state is not State.ONLINE)
        latest = north.latest
        assert latest is not None
        names = replace(latest.detections, class_names=(name, "other"))
        north.record(replace(latest, detections=names), 0.1, 0.9)
        north.state = State.ONLINE
        box, when = (10.0, 10.0, 60.0, 60.0), datetime(2026, 1, 1, tzinfo=timezone.utc)
        event = Event("entered", "north", "gate", None, 7, name, 0.9, box, (120, 160), when, {"inside": 1})
        server.events.add(event, latest.frame.image)
        assert client.get("/api/streams").json()[0]["objects"] == {escaped: 1}
        assert client.get("/api/streams/north").json()["objects"] == {escaped: 1}
        assert client.get("/api/streams/north/detections").json()["detections"][0]["name"] == name
        assert client.get("/api/events").json()[0]["class"] == escaped
        assert client.get("/api/events").json()[0]["text"] == f"north: {escaped} 7 entered gate"
        families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
        assert [sample.labels["class"] for sample in families["retina_edge_objects"].samples] == [escaped]


def test_events_have_text_and_thumbnail(client: httpx.Client) -> None:
    (event,) = client.get("/api/events").json()
    assert (event["text"], event["number"]) == ("north: patch 7 entered gate", 0)
    thumbnail = client.get("/api/events/0/thumbnail.jpg")
    assert max(decoded(thumbnail.content).shape) <= 160
    assert client.get("/api/events/1/thumbnail.jpg").status_code == 404
    assert client.get("/api/events", params={"limit": 1000}).status_code == 422


@pytest.mark.parametrize(
    "path",
    [
        "/api/streams/nobody",
        "/api/streams/nobody/frame.jpg",
        "/api/streams/..%2f..%2fetc%2fpasswd",
        "/..%2f..%2fetc/passwd",
        "/page.css/../../serve.py",
        "/static/page.css",
        "/docs",
    ],
)
def test_unknown_paths_answer_404(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert "root:" not in response.text


def test_the_page_needs_no_other_server(client: httpx.Client) -> None:
    page = client.get("/")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        assert f'"{name}"' in page.text
        assert client.get(f"/{name}").headers["content-type"].startswith(kind)
    assert "http://" not in page.text
    assert "https://" not in page.text  # no other server, because the device may have no internet
    operations = client.get("/api")
    assert "/api/streams/{name}/frame.jpg" in operations.text
    schema = client.get("/openapi.json")
    assert schema.json()["info"]["title"] == "retina_edge"
    assert not {"``", ">>>"} & set(re.findall("``|>>>", schema.text)), "expected Markdown, got docstrings"


def test_descriptions_are_escaped_in_the_page_of_the_api() -> None:
    page = _operations({"paths": {"/a/<name>": {"get": {"description": "Return x if x < 1 & y > 2."}, "put": {}}}})
    assert "<code>/a/&lt;name&gt;</code>" in page
    assert "<td>Return x if x &lt; 1 &amp; y &gt; 2.</td>" in page
    assert "<td>PUT</td>" in page


def test_a_pipeline_that_has_ended_is_not_healthy() -> None:
    with serving() as server:
        server.pipeline.stop()
        end = time.monotonic() + 5
        while (response := httpx.get(f"{server.url}/healthz")).status_code == 200:
            assert time.monotonic() < end
        assert response.status_code == 503
        assert response.json()["status"] == "stopped"
