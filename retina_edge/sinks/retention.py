"""Retention: old recordings and clips are deleted by age, by total size, and when the disk is nearly full."""

from __future__ import annotations

import logging
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from engines.core.file_lock import is_left
from engines.core.option_checks import check_number
from retina_edge.sinks import clip_files
from retina_edge.sinks.video_sink import RESERVED_BYTES
from retina_edge.sources.stream_names import NAME

# Seconds between two sweeps.
SWEEP_SECONDS = 10.0
# Space that a sweep leaves free on the disk, bytes: videos end at ``RESERVED_BYTES``.
FREE_BYTES = 4 * RESERVED_BYTES
# Largest step of the clock from one sweep to the next, and from the newest file to the first sweep, seconds.
MAX_STEP, MAX_PAUSE = 600.0, 86400.0
# Seconds without a deletion by age after a larger step.
DISTRUST_SECONDS = 86400.0
DAY, GIGABYTE = 86400.0, 1e9

_RECORDING = re.compile(
    rf"(?P<stream>{NAME.pattern})-(?P<time>\d{{8}}T\d{{6}}Z)(-\d+)?(?P<partial>\.partial)?\.mkv", re.ASCII
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Retention:
    """Limits on the age and the size of recordings and clips.

    Attributes:
        days: age in days, by the time in the name, after which a file is deleted; None for no limit.
        gigabytes: largest size of all files together, in 10^9 bytes; None for no limit.

    Raises:
        ContractError: if a number is not above 0.

    Examples:
        >>> Retention(days=0)
        Traceback (most recent call last):
        engines.core.errors.ContractError: days: expected a number above 0, got 0
    """

    days: float | None = None
    gigabytes: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("days", self.days), ("gigabytes", self.gigabytes)):
            if value is not None:
                check_number(name, value, "a number above 0", lambda number: 0 < number < float("inf"))


@dataclass(frozen=True)
class _Kept:
    """A file that may be deleted, with its time in seconds since 1970, and its size in bytes."""

    path: Path
    time: float
    bytes: int
    partial: bool


class Sweeper:
    """A thread that deletes the oldest recordings and clips in some folders, every ten seconds.

    Only regular files with the name of a recording or clip are deleted, in the folders themselves; links are not
    followed. A file that is being written has the name of a partial file and a lock, and stays. If less than 64 MiB of
    a disk are free, its oldest files go too, so that recording continues.

    A clock that is set forward must not delete everything. After a step of more than ten minutes between two sweeps,
    and at a start more than a day after the newest file, nothing is deleted by age for a day, unless the clock is set
    back. The limits on size do not depend on the clock: they delete in the order of the names' times.

    Args:
        folders: the folders; they need not exist.
        retention: what is kept.
        now: returns the time in seconds since 1970.
        elapsed: returns seconds that no change of the clock affects.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as name:
        ...     old = Path(name, "gate-20200101T000000Z.mkv")
        ...     _ = old.write_bytes(bytes(2000))
        ...     Sweeper([Path(name)], Retention(gigabytes=1e-6)).sweep()
        ...     old.exists()
        False
    """

    def __init__(
        self,
        folders: Sequence[Path],
        retention: Retention,
        *,
        now: Callable[[], float] = time.time,
        elapsed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders, self._retention = folders, retention
        self._now, self._elapsed = now, elapsed
        # Difference of the two clocks at the last sweep; None before the first one.
        self._offset: float | None = None
        # The step of the clock that is not trusted, and the end of the distrust by ``elapsed``.
        self._step, self._distrust_until = 0.0, -float("inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="retention", daemon=True)

    def __enter__(self) -> Sweeper:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join(1.0)  # a disk that does not answer must not hold up the end

    def _run(self) -> None:
        while True:
            try:
                self.sweep()
            except Exception as error:
                logger.error("old recordings and clips could not be deleted: %s", error)
            if self._stop.wait(SWEEP_SECONDS):
                return

    def sweep(self) -> None:
        """Delete what is too old or too much, and log it in one line."""
        files = sorted(self._files(), key=_order)
        by_age = self._clock_is_trusted(files)
        deleted: list[_Kept] = []
        days, gigabytes = self._retention.days, self._retention.gigabytes
        total = sum(file.bytes for file in files)
        now = self._now()
        for file in files:
            old = by_age and days is not None and now - file.time > days * DAY
            large = gigabytes is not None and total > gigabytes * GIGABYTE
            if (old or large or _disk_is_full(file.path.parent)) and self._delete(file):
                total -= file.bytes
                deleted.append(file)
        if deleted:
            logger.warning(
                "deleted %d old recordings and clips, %.1f MB, from %s to %s",
                len(deleted),
                sum(file.bytes for file in deleted) / 1e6,
                deleted[0].path.name,
                deleted[-1].path.name,
            )

    def _clock_is_trusted(self, files: Sequence[_Kept]) -> bool:
        """Return True if files may be deleted by age."""
        now, elapsed = self._now(), self._elapsed()
        if self._offset is not None:
            step = now - elapsed - self._offset
        elif times := [file.time for file in files if file.time <= now]:
            step = now - max(times)
            step = step if step > MAX_PAUSE else 0.0
        else:
            step = 0.0
        self._offset = now - elapsed
        if step > MAX_STEP:
            self._step += step
            self._distrust_until = elapsed + DISTRUST_SECONDS
            logger.warning(
                "the clock is %.0f minutes later than expected; no recording or clip is deleted by age for a day",
                step / 60,
            )
        elif step < -MAX_STEP:
            self._step = max(0.0, self._step + step)
            if self._step <= MAX_STEP:
                self._distrust_until = -float("inf")
        return elapsed >= self._distrust_until

    def _files(self) -> Iterator[_Kept]:
        for folder in {folder.resolve(): folder for folder in self._folders}.values():
            try:
                entries = list(os.scandir(folder))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                kind = _kind(entry.name)
                if kind is None:
                    continue
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield _Kept(Path(entry.path), kind[0], status.st_size, kind[1])

    def _delete(self, file: _Kept) -> bool:
        try:
            if file.partial and not is_left(file.path):
                return False
            file.path.unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            logger.warning("%s cannot be deleted: %s", file.path, os.strerror(error.errno or 0))
            return False
        return True


def _order(file: _Kept) -> tuple[float, str, bool]:
    """Order files by time; a clip goes before its description, without which it would not be listed."""
    return file.time, file.path.stem, file.path.suffix == clip_files.DESCRIPTION_SUFFIX


def _kind(name: str) -> tuple[float, bool] | None:
    """Return the time in the name of a recording, a clip or a description, and if it is partial; None for others."""
    for pattern in (_RECORDING, clip_files.CLIP, clip_files.PARTIAL, clip_files.DESCRIPTION):
        if match := pattern.fullmatch(name):
            try:
                moment = datetime.strptime(match["time"][:15], "%Y%m%dT%H%M%S").replace(tzinfo=timezone.utc)
            except ValueError:  # such as month 13
                return None
            return moment.timestamp(), ".partial." in name
    return None


def _disk_is_full(folder: Path) -> bool:
    return shutil.disk_usage(folder).free < FREE_BYTES
