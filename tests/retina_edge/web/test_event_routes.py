"""The list of events with its filters, the last hour of a stream, and snapshots, over a real server."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email import message_from_bytes
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retina_edge.pipeline.stream import STATE_CHANGES, State, Stream
from retina_edge.sources.stream_names import named_sources
from retina_edge.web.event_log import MINUTES, EventLog
from retina_edge.web.timeline import timeline
from tests.events import entered
from tests.retina_edge.web.serving import serving
from tests.waiting import wait_for

NOON = datetime(2026, 1, 2, 12, tzinfo=timezone.utc)
IMAGE = np.full((120, 160, 3), 90, np.uint8)


def test_events_are_filtered_by_stream_class_region_and_time() -> None:
    with serving() as server, httpx.Client(base_url=server.url) as client:
        for number, (stream, name, region) in enumerate(
            [
                ("north", "patch", "gate"),
                ("north", "other", "gate"),
                ("south", "patch", "yard"),
                ("north", "patch", "yard"),
            ]
        ):
            event = entered(number)
            moment = NOON + timedelta(minutes=number)
            server.events.add(replace(event, stream=stream, class_name=name, region=region, captured=moment), IMAGE)

        def tracks(**query: str) -> list[int]:
            return [event["track"] for event in client.get("/api/events", params=query).json()]

        newest = [3, 2, 1, 0]
        offset = entered(0).track
        assert [track - offset for track in tracks()] == newest
        assert [track - offset for track in tracks(stream="north")] == [3, 1, 0]
        assert [track - offset for track in tracks(**{"class": "patch"})] == [3, 2, 0]
        assert [track - offset for track in tracks(region="yard")] == [3, 2]
        assert [track - offset for track in tracks(stream="north", region="gate", limit="1")] == [1]
        # The start belongs to a time, its end does not. Any offset from UTC may be given.
        assert [
            track - offset for track in tracks(since="2026-01-02T13:01:00+01:00", until="2026-01-02T12:03:00Z")
        ] == [2, 1]
        assert tracks(stream="unknown") == []
        assert client.get("/api/events", params={"since": "yesterday"}).status_code == 422
        assert client.get("/api/events", params={"since": "2026-01-02T12:00:00"}).status_code == 422  # of which zone?


def test_events_are_counted_longer_than_they_are_kept() -> None:
    log = EventLog(capacity=2)
    for second in range(0, 7200, 30):
        log.add(replace(entered(1), stream="north", captured=NOON + timedelta(seconds=second)), IMAGE)
    assert len(log.newest(100)) == 2
    counts = log.per_minute("north")
    assert len(counts) == MINUTES + 1
    assert set(counts.values()) == {2}
    assert max(counts) == int(NOON.timestamp()) // 60 + 119
    assert log.per_minute("south") == {}


def test_a_stream_remembers_its_changes_of_state() -> None:
    stream = Stream.of("a", named_sources(["a=rtsp://127.0.0.1:1/x"])["a"], threading.Condition())
    began = time.time()
    for state in (State.CONNECTING, State.ONLINE, State.ONLINE, State.OFFLINE):
        stream.set_state(state)
    assert [state for _, state in stream.changes] == [State.CONNECTING, State.ONLINE, State.OFFLINE]
    assert all(began <= moment <= time.time() for moment, _ in stream.changes)
    for number in range(2 * STATE_CHANGES):
        stream.set_state(State.ONLINE if number % 2 else State.OFFLINE)
    assert len(stream.changes) == STATE_CHANGES
    assert stream.state is State.ONLINE


@given(
    start=st.floats(0, 1e6),
    spans=st.lists(st.tuples(st.floats(0, 4000), st.sampled_from(State)), min_size=1, max_size=20),
)
def test_the_offline_seconds_of_all_minutes_are_those_of_the_last_hour(
    start: float, spans: list[tuple[float, State]]
) -> None:
    """Count seconds one by one: a slow computation of the same."""
    changes, moment = [], float(int(start))
    for length, state in spans:
        changes.append((moment, state))
        moment += int(length)
    minutes = timeline(changes, {}, now=moment)
    first = max(int(changes[0][0] // 60), int(moment // 60) - MINUTES + 1)
    assert len(minutes) == int(moment // 60) - first + 1 <= MINUTES
    ends = [*(when for when, _ in changes[1:]), moment]
    seconds = {
        second
        for (begin, state), end in zip(changes, ends, strict=True)
        for second in range(max(int(begin), 60 * first), int(end))
        if state is not State.ONLINE
    }
    for number, minute in enumerate(minutes):
        whole = range(60 * (first + number), 60 * (first + number) + 60)
        assert minute.offline == len(seconds.intersection(whole))


def test_the_last_hour_of_a_stream(client: httpx.Client) -> None:
    def minutes() -> list[dict[str, Any]]:
        return list(client.get("/api/streams/gone/timeline").json())

    wait_for(lambda: minutes()[-1]["offline"] > 0)  # rounded to 0 just after the start
    assert minutes()[-1]["time"].endswith(":00.000Z")
    assert client.get("/api/streams/nowhere/timeline").status_code == 404


def test_a_snapshot_has_one_frame_with_and_without_boxes(client: httpx.Client) -> None:
    answer = client.get("/api/streams/north/snapshot")
    head = f"Content-Type: {answer.headers['content-type']}\r\n\r\n".encode()
    parts = message_from_bytes(head + answer.content).get_payload()
    assert isinstance(parts, list)
    names = [part.get_param("name", header="content-disposition") for part in parts]  # type: ignore[union-attr]
    assert names == ["annotated", "plain"]
    images = []
    for part in parts:
        content = part.get_payload(decode=True)  # type: ignore[union-attr]
        assert isinstance(content, bytes)
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        images.append(image.astype(int))
    assert [image.shape for image in images] == [(120, 160, 3)] * 2
    colored = [(np.ptp(image, axis=2) > 60).sum() for image in images]
    assert colored[0] > 20
    assert colored[1] == 0
    # The patch is at the same place in both.
    white = [np.argwhere(image.min(axis=2) > 240).mean(axis=0) for image in images]
    assert white[0] == pytest.approx(white[1], abs=3)
    assert client.get("/api/streams/gone/snapshot").status_code == 404
