"""Retention: the oldest recordings and clips go first, and nothing that is being written or not ours."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest

from engines.core.errors import ContractError
from engines.core.file_lock import claim
from retina_edge.sinks import recording_sink, retention, retrying_sink
from retina_edge.sinks.recording_sink import RecordingSink
from retina_edge.sinks.retention import Retention, Sweeper
from retina_edge.sinks.retrying_sink import RetryingSink
from retina_edge.sinks.video_sink import RESERVED_BYTES
from tests.results import noise
from tests.small_disk import small_disk
from tests.waiting import wait_for

NOON = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
HOUR, DAY = 3600.0, 86400.0


class Clocks:
    """The time of day and the time since the start, which tests set."""

    def __init__(self, now: datetime = NOON) -> None:
        self.wall, self.uptime = now.timestamp(), 1000.0

    def pass_by(self, seconds: float) -> None:
        self.wall += seconds
        self.uptime += seconds

    def sweeper(self, *folders: Path, **limits: float) -> Sweeper:
        return Sweeper(folders, Retention(**limits), now=lambda: self.wall, elapsed=lambda: self.uptime)


@pytest.fixture(autouse=True)
def room_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the tests not depend on the free space of this machine."""
    monkeypatch.setattr(retention, "FREE_BYTES", 0)


def recording(folder: Path, age: float, *, size: int = 1000, suffix: str = "Z.mkv") -> Path:
    """Write a file named as a recording that began ``age`` seconds before noon."""
    path = folder / f"gate-{NOON - timedelta(seconds=age):%Y%m%dT%H%M%S}{suffix}"
    path.write_bytes(bytes(size))
    return path


def gone(path: Path) -> bool:
    return not path.exists()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_files_go_by_age(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clip = recording(tmp_path, 8 * DAY, suffix=".250Z-0123abcd.webm")
    description = recording(tmp_path, 8 * DAY, suffix=".250Z-0123abcd.json")
    old, second = recording(tmp_path, 7 * DAY + 60), recording(tmp_path, 7 * DAY + 60, suffix="Z-2.mkv")
    kept = [recording(tmp_path, 7 * DAY - 60), recording(tmp_path, HOUR), recording(tmp_path, -HOUR)]
    clocks = Clocks()
    sweeper = clocks.sweeper(tmp_path, days=7)
    with caplog.at_level(logging.WARNING):
        sweeper.sweep()
    assert names(tmp_path) == {path.name for path in kept}
    assert not any(path.exists() for path in (clip, description, old, second))
    assert len(caplog.messages) == 1
    assert f"deleted 4 old recordings and clips, 0.0 MB, from {clip.name} to {second.name}" in caplog.text
    clocks.pass_by(120)
    sweeper.sweep()
    assert names(tmp_path) == {path.name for path in kept[1:]}


def test_the_oldest_go_by_size_across_folders(tmp_path: Path) -> None:
    """Of 6 files with 1000 bytes, 4 fit into 4500 bytes."""
    folders = [tmp_path / "videos", tmp_path / "clips"]
    for folder in folders:
        folder.mkdir()
    files = [recording(folders[hours % 2], hours * HOUR) for hours in range(6)]
    Clocks().sweeper(*folders, gigabytes=4500e-9).sweep()
    assert [path.exists() for path in files] == [True, True, True, True, False, False]


def test_a_clip_goes_before_its_description(tmp_path: Path) -> None:
    clip, description = (recording(tmp_path, HOUR, suffix=f".250Z-0123abcd{suffix}") for suffix in (".webm", ".json"))
    Clocks().sweeper(tmp_path, gigabytes=1500e-9).sweep()
    assert (clip.exists(), description.exists()) == (False, True)


def test_a_folder_that_is_given_twice_counts_once(tmp_path: Path) -> None:
    files = [recording(tmp_path, hours * HOUR) for hours in range(3)]
    Clocks().sweeper(tmp_path, tmp_path / ".", gigabytes=3500e-9).sweep()
    assert all(path.exists() for path in files)
    Clocks().sweeper(tmp_path / "missing", gigabytes=3500e-9).sweep()


def test_only_our_files_go(tmp_path: Path) -> None:
    """Neither other names, nor links and what they point to, nor folders."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    target = recording(elsewhere, 100 * DAY)
    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "gate-20200101T000000Z.mkv").symlink_to(target)
    (folder / "yard-20200101T000000Z.mkv").mkdir()
    (folder / "link").symlink_to(elsewhere)
    for name in (
        *("holiday.mkv", "gate-20200101T000000Z.mp4", "gate-20200101.mkv", "-20200101T000000Z.mkv"),
        *("gate-20201301T000000Z.mkv", "a b-20200101T000000Z.mkv", "gate-20200101T000000Z.mkv.bak"),
        *("gate-20200101T000000.000Z-0123.webm", "gate-20200101T000000Z.json"),
        "gate-20200101T000000.000Z-0123abcd.webm\n",
    ):
        (folder / name).write_bytes(bytes(1000))
    before = names(folder)
    (folder / "gate-20200102T000000Z.mkv").write_bytes(bytes(1000))
    recording(folder, HOUR)
    Clocks().sweeper(folder, days=1, gigabytes=1e-9).sweep()
    assert names(folder) == before
    assert target.exists()


def test_a_file_that_is_being_written_stays_and_one_that_was_left_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engines.core.file_lock.LEFT_SECONDS", 0.0)
    written = tmp_path / "gate-20260101T000000Z.partial.mkv"
    left = tmp_path / "gate-20260101T000001.000Z-0123abcd.partial.mkv"
    newest = recording(tmp_path, 60)
    with claim(written) as file:
        file.write(bytes(5000))
        left.write_bytes(bytes(1000))
        Clocks().sweeper(tmp_path, days=1, gigabytes=5500e-9).sweep()
        # The file that is being written counts: 5000 and 1000 bytes are more than 5500.
        assert names(tmp_path) == {written.name}
        assert not newest.exists()


def test_a_clock_that_is_set_forward_deletes_nothing_for_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = [recording(tmp_path, hours * HOUR) for hours in range(3)]
    clocks = Clocks()
    sweeper = clocks.sweeper(tmp_path, days=30)
    sweeper.sweep()
    clocks.wall += 365 * DAY
    sweeper.sweep()
    clocks.pass_by(23 * HOUR)
    sweeper.sweep()
    assert all(path.exists() for path in files)
    assert "the clock is 525600 minutes later than expected" in caplog.text
    clocks.pass_by(2 * HOUR)
    sweeper.sweep()
    assert names(tmp_path) == set()


def test_a_clock_that_is_set_back_again_is_trusted_at_once(tmp_path: Path) -> None:
    old, new = recording(tmp_path, 30 * DAY - HOUR), recording(tmp_path, HOUR)
    clocks = Clocks()
    sweeper = clocks.sweeper(tmp_path, days=30)
    sweeper.sweep()
    for step in (365 * DAY, 2 * HOUR - 365 * DAY):
        clocks.wall += step
        sweeper.sweep()
        assert old.exists()
    # Two hours of the step remain, which is still a step; an hour back makes the clock right.
    clocks.wall -= 2 * HOUR
    clocks.pass_by(2 * HOUR)
    sweeper.sweep()
    assert (old.exists(), new.exists()) == (False, True)


def test_a_wrong_clock_at_the_start_deletes_nothing_for_a_day(tmp_path: Path) -> None:
    """The newest file is 40 days old: either the machine was off, or its clock is wrong."""
    files = [recording(tmp_path, hours * HOUR) for hours in range(3)]
    clocks = Clocks(NOON + timedelta(days=40))
    sweeper = clocks.sweeper(tmp_path, days=30)
    sweeper.sweep()
    assert all(path.exists() for path in files)
    # The limit on size holds all the same.
    clocks.sweeper(tmp_path, gigabytes=2500e-9).sweep()
    assert [path.exists() for path in files] == [True, True, False]
    clocks.pass_by(25 * HOUR)
    sweeper.sweep()
    assert names(tmp_path) == set()


def test_a_file_that_cannot_be_deleted_is_named_and_the_others_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = recording(tmp_path, 3 * DAY), recording(tmp_path, 2 * DAY)
    recording(tmp_path, HOUR)
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == first:
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    Clocks().sweeper(tmp_path, days=1).sweep()
    assert (first.exists(), second.exists()) == (True, False)
    assert f"{first} cannot be deleted: Permission denied" in caplog.text


def test_limits_that_delete_everything_are_refused() -> None:
    for limits in ({"days": 0}, {"gigabytes": -1}, {"days": float("nan")}, {"gigabytes": float("inf")}):
        with pytest.raises(ContractError, match="expected a number above 0"):
            Retention(**limits)


def test_recording_goes_on_on_a_small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise fills the disk several times over; segments of a second are recorded, and the oldest ones are deleted."""
    monkeypatch.setattr(recording_sink, "SEGMENT_SECONDS", 0.9)
    monkeypatch.setattr(retrying_sink, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(retention, "FREE_BYTES", RESERVED_BYTES + 3 * 2**20)
    with small_disk(tmp_path / "disk", RESERVED_BYTES + 8 * 2**20) as disk:
        sink = RetryingSink("disk", lambda: RecordingSink(disk, "gate", fps=25))
        sweeper = Sweeper([disk], Retention(days=30))
        began: list[str] = []
        start = time.monotonic() - 10
        with sink:
            for index in range(250):
                result = noise(index)
                frame = replace(result.frame, captured=start + index / 25)
                sink.write(replace(result, live=True, frame=frame))
                if index % 5 == 0:
                    sweeper.sweep()
                    began += [name for name in sorted(os.listdir(disk)) if name not in began]
        assert (sink.lost, sink.failing) == (0, False)
        kept = [name for name in os.listdir(disk) if ".partial" not in name]
        whole = [name for name in began if ".partial" not in name]
        assert 0 < len(kept) < len(whole)
        # The newest ones were kept.
        assert sorted(kept)[-1] == max([*whole, *kept])


def test_the_thread_sweeps_until_its_block_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SWEEP_SECONDS", 0.01)
    with Clocks().sweeper(tmp_path, gigabytes=1e-9):
        for age in (HOUR, 2 * HOUR):  # also after the first sweep
            path = recording(tmp_path, age)
            wait_for(partial(gone, path))
    path = recording(tmp_path, HOUR)
    assert path.exists()
