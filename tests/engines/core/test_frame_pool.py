"""The frame pool reuses the memory of frames that nobody holds, and never that of a frame still in use."""

from __future__ import annotations

import gc
import mmap
import threading

import numpy as np
import pytest

from engines.core.errors import ContractError
from engines.core.frame_pool import FramePool, Memory
from engines.core.letterbox import BgrImage

SIZE = (20, 60)  # less than a page


def address(frame: BgrImage) -> int:
    return frame.ctypes.data


class Pins:
    """Stand-in for a GPU.

    Attributes:
        held: addresses of the memory that is pinned now.
        limit: number of pins after which it refuses.
    """

    def __init__(self, limit: int = 100) -> None:
        self.held: list[int] = []
        self.limit, self.asked = limit, 0

    def __call__(self, memory: Memory) -> _Pin | None:
        self.asked += 1
        return _Pin(self, memory.ctypes.data) if self.asked <= self.limit else None


class _Pin:
    def __init__(self, pins: Pins, where: int) -> None:
        self.device: int | None = None
        self._pins, self._where = pins, where
        pins.held.append(where)

    def free(self) -> None:
        self._pins.held.remove(self._where)


def test_a_frame_is_writable_contiguous_and_begins_a_page() -> None:
    frame = FramePool().take(3, 5)
    assert (frame.shape, frame.dtype.name) == ((3, 5, 3), "uint8")
    assert frame.flags.c_contiguous
    assert frame.flags.writeable
    assert address(frame) % mmap.PAGESIZE == 0


def test_a_frame_in_use_is_not_given_out_again() -> None:
    pool = FramePool()
    held = pool.take(*SIZE)
    other = pool.take(*SIZE)
    assert not np.shares_memory(held, other)
    where = address(held)
    del held
    assert address(pool.take(*SIZE)) == where


def test_everything_that_refers_to_the_memory_keeps_it() -> None:
    pool = FramePool()
    frame = pool.take(*SIZE)
    where, corner, memory = address(frame), frame[:2, :2], frame.data
    reshaped = corner.base.reshape(-1)  # type: ignore[union-attr]
    del frame
    for last in ("corner", "memory", "reshaped"):
        assert address(pool.take(*SIZE)) != where, last
        if last == "corner":
            del corner
        elif last == "memory":
            del memory
        else:
            del reshaped
    # The other block was taken and returned meanwhile.
    both = [pool.take(*SIZE), pool.take(*SIZE)]
    assert where in map(address, both)


def test_a_frame_in_a_reference_cycle_returns_with_the_garbage_collection() -> None:
    pool = FramePool()
    cycle: list[object] = [pool.take(*SIZE)]
    cycle.append(cycle)
    where = address(cycle[0])  # type: ignore[arg-type]
    del cycle
    assert address(pool.take(*SIZE)) != where or gc.isenabled()
    gc.collect()
    assert where in [address(frame) for frame in [pool.take(*SIZE), pool.take(*SIZE)]]


def test_a_frame_that_another_thread_holds_is_in_use() -> None:
    pool, started, release = FramePool(), threading.Event(), threading.Event()
    frame = pool.take(*SIZE)
    where = address(frame)

    def keep(_frame: object) -> None:
        started.set()
        release.wait(10)

    thread = threading.Thread(target=keep, args=(frame,))
    thread.start()
    del frame
    assert started.wait(10)
    assert address(pool.take(*SIZE)) != where
    release.set()
    thread.join()
    del thread
    assert where in [address(frame) for frame in [pool.take(*SIZE), pool.take(*SIZE)]]


def test_threads_never_share_a_frame() -> None:
    pool, wrong = FramePool(), []

    def work(value: int) -> None:
        for _ in range(300):
            frame = pool.take(*SIZE)
            frame[:] = value
            frame[0, 0] += 0
            if (frame != value).any():
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert pool.nbytes <= 2 * 4 * mmap.PAGESIZE  # a thread holds its last frame while it takes the next one


def test_the_pool_is_bounded_and_then_gives_ordinary_arrays() -> None:
    pins = Pins()
    pool = FramePool(pins, max_bytes=3 * mmap.PAGESIZE)
    frames = [pool.take(*SIZE) for _ in range(5)]
    assert [pool.block_of(frame) is not None for frame in frames] == [True, True, True, False, False]
    assert len({address(frame) for frame in frames}) == 5
    assert (pool.nbytes, len(pins.held)) == (3 * mmap.PAGESIZE, 3)
    assert pool.block_of(pool.take(4000, 4000)) is None


def test_free_memory_of_other_sizes_makes_room() -> None:
    pins = Pins()
    pool = FramePool(pins, max_bytes=4 * mmap.PAGESIZE)
    frames = [pool.take(*SIZE) for _ in range(4)]
    large = (2 * mmap.PAGESIZE // 3, 1)
    assert pool.block_of(pool.take(*large)) is None
    kept = frames.pop()
    frames.clear()
    assert pool.block_of(pool.take(*large)) is not None
    assert pool.nbytes <= 4 * mmap.PAGESIZE
    assert len(pins.held) == 3  # two small blocks are gone
    assert pool.block_of(kept) is not None


def test_a_closed_pool_lets_go_of_everything_and_frames_remain_valid() -> None:
    pins = Pins()
    pool = FramePool(pins)
    kept, gone = pool.take(*SIZE), pool.take(*SIZE)
    kept[:] = 9
    del gone
    pool.close()
    assert (pins.held, pool.nbytes) == ([], 0)
    other = pool.take(*SIZE)
    assert pool.block_of(other) is None
    assert not np.shares_memory(kept, other)
    other[:] = 1
    assert (kept == 9).all()
    view = kept[1:]
    del kept
    gc.collect()
    assert (view == 9).all()


def test_a_pool_that_cannot_pin_asks_once() -> None:
    pins = Pins(limit=1)
    pool = FramePool(pins)
    frames = [pool.take(*SIZE) for _ in range(4)]
    blocks = [pool.block_of(frame) for frame in frames]
    assert [block is not None and block.pin is not None for block in blocks] == [True, False, False, False]
    assert pins.asked == 2


def test_only_what_has_no_gaps_lies_in_the_pool() -> None:
    pool, other = FramePool(), FramePool()
    frame = pool.take(*SIZE)
    assert pool.block_of(frame) is pool.block_of(frame[2:8]) is pool.block_of(frame[2:8][1:3]) is not None
    for elsewhere in (frame[:, 1:], frame[::2], frame.copy(), other.take(*SIZE), np.zeros((4, 4, 3), np.uint8)):
        assert pool.block_of(elsewhere) is None


def test_an_image_is_copied_only_to_where_a_gpu_needs_it() -> None:
    image = np.full((*SIZE, 3), 5, np.uint8)
    assert FramePool().place(image) is image
    pool = FramePool(Pins(), max_bytes=mmap.PAGESIZE)
    placed = pool.place(image)
    assert pool.block_of(placed) is not None
    assert pool.place(placed) is placed
    np.testing.assert_array_equal(placed, image)
    assert pool.place(image) is image  # the pool is full


@pytest.mark.parametrize("size", [(0, 4), (4, -1), (2.0, 4)])
def test_a_size_that_is_none_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ContractError, match=r"(height|width): expected"):
        FramePool().take(*size)
