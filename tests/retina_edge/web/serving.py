"""A pipeline over generated streams, behind a real server on loopback."""

from __future__ import annotations

import gc
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

import numpy as np

from retina_edge.detector import Detector
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.result import Result
from retina_edge.pipeline.stream import Stream
from retina_edge.sinks.outputs import OutputStatus
from retina_edge.sources.frames import Source
from retina_edge.tracking.analysis import TrackingOptions
from retina_edge.tracking.events import Event
from retina_edge.tracking.region_store import RegionStore
from retina_edge.web.app import create_app
from retina_edge.web.event_log import EventLog
from retina_edge.web.server import WebServer
from tests.made_streams import Made, dead
from tests.stand_in import StandIn, contract

TOKEN = "correct horse battery"

# One output of each state, as the page shows them.
OUTPUTS = [
    OutputStatus("out.jsonl", "file", "ok", 3, 1204, 0, 0, ""),
    OutputStatus(
        "/data/night/out.csv", "file", "failed", 0, 871, 0, 336, "[Errno 28] No space left on device: 'out.csv'"
    ),
    OutputStatus(
        *("mqtt://broker/site/a-topic-of-some-length", "events", "waiting", 27, 4, 0, 0),
        "the broker cannot be reached: Connection refused",
    ),
    OutputStatus("https://example.org/***", "events", "lost", 0, 9, 0, 1, "the server refuses the message (400)"),
]


@dataclass
class Served:
    """A running server with its pipeline and its events."""

    url: str
    pipeline: Pipeline
    events: EventLog
    regions: RegionStore


@contextmanager
def serving(
    token: str | None = None,
    sources: dict[str, Callable[[], Source]] | None = None,
    tracking: TrackingOptions | None = None,
    *,
    clips: Path | None = None,
) -> Iterator[Served]:
    """Serve two cameras that work and one that does not, or the given sources; with tracking and clips or without."""
    sources = sources or {
        "north": partial(Made, "north", rate=30, live=True, size=(120, 160)),
        "south": partial(Made, "south", rate=30, live=True, size=(96, 64)),
        "gone": dead,
    }
    events = EventLog()
    detector, tracking = Detector(StandIn(contract())), tracking or TrackingOptions()
    regions = tracking.store(list(sources), detector.contract.class_names, editable=True)

    def on_result(_stream: Stream, result: Result) -> None:
        for event in result.events:
            events.add(event, result.frame.image)

    pipeline = Pipeline(detector, sources, on_result=on_result, analyze=tracking.analyzers(regions), score=0.4)
    runner = threading.Thread(target=pipeline.run)
    app = create_app(
        pipeline,
        events,
        token=token,
        healthy=runner.is_alive,
        outputs=lambda: OUTPUTS,
        clips=clips,
        regions=regions,
    )
    server = WebServer(app)
    server.config.timeout_graceful_shutdown = 1  # so that tests end sooner
    listening = socket.create_server(("127.0.0.1", 0))
    web = threading.Thread(target=server.run, args=([listening],))
    runner.start()
    web.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = listening.getsockname()[1]
        while pipeline.online < 2 or any(s.latest is None for s in pipeline.streams if s.name != "gone"):
            time.sleep(0.01)
        yield Served(f"http://127.0.0.1:{port}", pipeline, events, regions)
    finally:
        pipeline.stop()
        runner.join(10)
        server.should_exit = True
        web.join(10)
        assert not runner.is_alive()
        assert not web.is_alive()
        # An asyncio transport waits for a client that does not read, and cannot be closed because its loop has ended.
        # Collect it here, where its ResourceWarning is ignored.
        del server, app
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


@contextmanager
def serving_an_event(tracking: TrackingOptions | None = None) -> Iterator[Served]:
    """Serve without a token, with one event in the log."""
    with serving(tracking=tracking) as server:
        when = datetime(2026, 1, 1, tzinfo=timezone.utc)
        box = (10.0, 10.0, 60.0, 60.0)
        event = Event("entered", "north", "gate", None, 7, "patch", 0.9, box, (120, 160), when, {"inside": 1})
        server.events.add(event, np.full((120, 160, 3), 90, np.uint8))
        yield server
