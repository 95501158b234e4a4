"""Faults of several streams: the first error is raised, every thread ends, and cameras that send noise are offline."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.core.executor import RawDetections
from retina_edge.detector import Detector
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.result import Result
from retina_edge.pipeline.stream import Stream
from retina_edge.sources.frames import Source
from retina_edge.sources.video_source import VideoSource
from tests.cameras import Talk, camera, say_nothing, send_images, send_noise
from tests.made_streams import Made
from tests.stand_in import StandIn, contract
from tests.waiting import wait_for


@pytest.fixture(autouse=True)
def all_threads_end() -> Iterator[None]:
    """Check that no thread of a pipeline outlives the test that started it."""
    before = set(threading.enumerate())
    yield
    names = [thread.name for thread in threading.enumerate() if thread not in before]
    assert not [name for name in names if name.startswith(("capture", "feeder", "detector", "pipeline"))]


class FirstError(Exception):
    """The error that happens first."""


class LaterError(Exception):
    """An error that happens after the first one."""


@pytest.mark.parametrize("where", ["source", "submit", "infer", "result", "tick"])
@pytest.mark.parametrize("live", [False, True])
def test_the_first_error_is_raised_although_others_follow(where: str, live: bool) -> None:
    raised = threading.Event()

    def reach(place: str, now: bool) -> None:
        if place == where and now:
            raised.set()
            raise FirstError(place)

    class Faulty(StandIn):
        def submit(self, frames: Any) -> Any:
            reach("submit", len(self.calls) >= 3)  # always: a single batch of live frames may fail without an error
            return super().submit(frames)

        def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
            reach("infer", len(self.calls) >= 3)
            return super().infer(images)

    def source(name: str) -> Source:
        rate = 100 if live else None
        return Made(name, rate=rate, live=live, script=lambda index: reach("source", name == "b" and index == 7))

    def on_result(stream: Stream, result: Result) -> None:
        reach("result", stream.name == "b" and result.frame.index >= 7)

    def on_end(_stream: Stream) -> None:
        if raised.is_set():
            raise LaterError

    streams = {name: partial(source, name) for name in ("a", "b", "c")}
    pipeline = Pipeline(Detector(Faulty(contract())), streams, on_result=on_result, on_end=on_end)
    with pytest.raises(FirstError, match=where):
        pipeline.run(lambda: reach("tick", pipeline.streams[1].detected > 7))
    assert not pipeline.hangs
    assert all(stream.status().state == "ended" for stream in pipeline.streams)


def test_cameras_that_send_noise_are_offline_and_do_not_delay_a_file() -> None:
    broken = itertools.repeat(np.random.default_rng(0).bytes(2000))
    kinds: dict[str, tuple[str, Talk]] = {
        "silence": ("rtsp", say_nothing),
        "page": ("http", say_nothing),
        "noise": ("tcp", send_noise),
        "answer": ("rtsp", send_noise),
        "pictures": ("http", partial(send_images, images=broken)),
    }
    indices: dict[str, list[int]] = defaultdict(list)
    with ExitStack() as stack:
        urls = {name: stack.enter_context(camera(*kind)) for name, kind in kinds.items()}
        sources: dict[str, Any] = {
            name: partial(VideoSource, url, open_timeout=0.5, read_timeout=0.5) for name, url in urls.items()
        }
        pipeline = Pipeline(
            Detector(StandIn(contract())),
            sources | {"file": partial(Made, "file", count=50)},
            on_result=lambda stream, result: indices[stream.name].append(result.frame.index),
        )
        thread = threading.Thread(target=pipeline.run)
        thread.start()
        status = {stream.name: stream for stream in pipeline.streams}
        wait_for(lambda: status["file"].status().state == "ended" and all(status[name].error for name in kinds))
        states = {name: status[name].status() for name in kinds}
        pipeline.stop()
        thread.join(20)
        assert not thread.is_alive()
    assert indices == {"file": list(range(50))}
    for name, state in states.items():
        assert state.state == "offline"
        assert state.error.startswith(f"{urls[name]}: ")
        assert state.error.endswith("; check the address, the credentials and the network")
