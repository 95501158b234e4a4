"""Tests of the packing of frames: its parts, with one thread and with several, and which of the two is chosen."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pytest

from engines.runner import packing
from engines.runner.packing import PART_BYTES, Packer

LARGE = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)


def packer_of(threads: int, *, in_parallel: bool) -> Packer:
    packer = Packer(threads)
    packer.in_parallel = in_parallel
    return packer


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("pack")}


@pytest.mark.parametrize("in_parallel", [False, True])
@pytest.mark.parametrize(
    "frame", [LARGE, LARGE[::2, 5:-5], LARGE[:, :, ::-1], LARGE[:2, :2], LARGE[:1]], ids=lambda frame: str(frame.shape)
)
def test_all_parts_are_packed_in_order(frame: npt.NDArray[np.uint8], *, in_parallel: bool) -> None:
    packer, out = packer_of(3, in_parallel=in_parallel), np.zeros(frame.size + 10, np.uint8)
    end = 0
    for begin, after in packer.pack(frame, out):
        assert begin == end
        end = after
        np.testing.assert_array_equal(out[begin:end], frame.reshape(-1)[begin:end])  # as soon as it is yielded
    assert end == frame.size
    assert not out[end:].any()
    packer.close()
    assert not names()


def test_a_part_is_packed_only_when_it_is_requested() -> None:
    """The upload of the first part runs while the second part is packed."""
    out = np.zeros(LARGE.size, np.uint8)
    parts = packer_of(1, in_parallel=False).pack(LARGE, out)
    begin, end = next(parts)
    assert begin == 0
    assert 0.5 * PART_BYTES < end <= PART_BYTES
    assert not out[end:].any()
    assert len(list(parts)) == 5


@pytest.mark.parametrize(("seconds", "in_parallel"), [(0.5, True), (0.9, False), (2.0, False)])
def test_the_faster_way_is_chosen_once(monkeypatch: pytest.MonkeyPatch, seconds: float, *, in_parallel: bool) -> None:
    """The clock says that several threads take so many seconds, and one thread takes one second."""
    ticks = iter([0.0, seconds, 0.0, 1.0] * packing.TRIALS)
    monkeypatch.setattr(packing, "perf_counter", lambda: next(ticks))
    packer, out = Packer(2), np.zeros(LARGE.size, np.uint8)
    list(packer.pack(LARGE[:4], out))  # one part decides nothing
    assert packer.in_parallel is None
    for _ in range(3):
        list(packer.pack(LARGE, out))
        assert packer.in_parallel is in_parallel
    assert bool(names()) is in_parallel
    packer.close()


def test_one_core_never_has_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "usable_cores", lambda: 1)
    packer = Packer()
    list(packer.pack(LARGE, np.zeros(LARGE.size, np.uint8)))
    assert packer.in_parallel is False
    assert not names()


def test_no_thread_writes_any_more_after_an_upload_has_failed() -> None:
    packer, out = packer_of(2, in_parallel=True), np.zeros(LARGE.size, np.uint8)
    parts = packer.pack(LARGE, out)
    next(parts)
    parts.close()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(out, LARGE.reshape(-1))  # all threads are done
    packer.close()
