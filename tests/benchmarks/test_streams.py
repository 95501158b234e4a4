"""The benchmarks of streams, with fewer frames and shorter runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import endurance, load
from tests.media import write_video
from tests.rtsp_server import why_not


def test_load_counts_every_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "LENGTHS", (5, 9))
    videos = {f"video{count}": write_video(tmp_path / f"{count}.mp4", count=count) for count in load.LENGTHS}
    figures = load.measure(videos, 2)
    assert (figures["videos"], figures["frames"], figures["rounds"]) == (2, 14, 2)
    assert 0 < figures["least_share"] <= figures["share"] <= figures["greatest_share"]
    monkeypatch.setattr(load, "LENGTHS", (5, 10))
    with pytest.raises(AssertionError):
        load.pipeline(videos)


def test_every_frame_of_a_slow_detector_is_accounted_for() -> None:
    figures = endurance.slow_detector(1.5)
    assert figures["captured"] == figures["detected"] + figures["dropped"] + figures["unaccounted"]
    assert figures["unaccounted"] in (0, 1)
    assert figures["dropped"] > 20
    assert endurance.PERIOD * 1000 <= figures["first_third"]["p50_ms"] <= figures["first_third"]["max_ms"]


@pytest.mark.skipif(bool(why_not()), reason=f"needs an RTSP server: {why_not()}")
@pytest.mark.slow
def test_the_stream_is_back_after_each_restart() -> None:
    figures = endurance.reconnects(2)
    assert figures["reconnects"] == figures["warm_after"] == 2
    assert 0 < figures["back_p50_s"] <= figures["back_max_s"] < 10
    assert figures["warm"] == figures["end"]
    assert figures["end"]["threads"] > 3
