"""Copy frames into pinned memory, with several threads if that is faster on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from time import perf_counter

import numpy as np
import numpy.typing as npt

from engines.core.processor import usable_cores

# Size of a part. While one part is uploaded, the next one is packed.
PART_BYTES = 1 << 20
# More threads than this only wait for the memory.
MAX_THREADS = 4
# Several threads must take at most this share of the time of one, because they take cores from decoding.
WORTHWHILE = 0.75
# Copies with several threads and with one, in turn, that decide.
TRIALS = 2

Image = npt.NDArray[np.uint8]
# First row of each part, and the row after its last.
Parts = list[tuple[int, int]]


class Packer:
    """Writes frames without gaps between their rows. Only one thread may use it at a time.

    The first frame of several parts is copied both with one thread and with several, which decides for the others.

    Args:
        threads: largest number of threads; None for one for each usable core, up to ``MAX_THREADS``.

    Attributes:
        in_parallel: True if several threads are faster; None as long as that is unknown.

    Examples:
        >>> list(Packer().pack(np.zeros((4, 4, 3), np.uint8), out=np.zeros(48, np.uint8)))
        [(0, 48)]
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = min(MAX_THREADS, usable_cores()) if threads is None else threads
        self.in_parallel: bool | None = None if self._threads > 1 else False
        self._workers: ThreadPoolExecutor | None = None

    def pack(self, frame: npt.NDArray[np.uint8], out: npt.NDArray[np.uint8]) -> Iterator[tuple[int, int]]:
        """Write a frame, part by part.

        Args:
            frame: BGR frame, uint8 [h, w, 3], any strides.
            out: memory to write to, uint8, at least as large as the frame.

        Yields:
            The positions of the first byte of a part and of the byte after its last, as soon as the part is written.
        """
        target = out[: frame.size].reshape(frame.shape)
        row_bytes = frame.size // len(frame)
        step = max(1, PART_BYTES // row_bytes)
        parts = [(first, min(first + step, len(frame))) for first in range(0, len(frame), step)]
        several = len(parts) > 1
        if several and self.in_parallel is None:
            self._decide(frame, target, parts)
        ways = self._by_several if several and self.in_parallel else _by_one
        for first, last in ways(frame, target, parts):
            yield first * row_bytes, last * row_bytes

    def close(self) -> None:
        """End the threads."""
        if self._workers is not None:
            self._workers.shutdown()
            self._workers = None

    def _decide(self, frame: Image, target: Image, parts: Parts) -> None:
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(TRIALS):
            for several in (True, False):
                start = perf_counter()
                for _part in (self._by_several if several else _by_one)(frame, target, parts):
                    pass
                times[several].append(perf_counter() - start)
        self.in_parallel = min(times[True]) <= WORTHWHILE * min(times[False])
        if not self.in_parallel:
            self.close()

    def _by_several(self, frame: Image, target: Image, parts: Parts) -> Iterator[tuple[int, int]]:
        if self._workers is None:
            self._workers = ThreadPoolExecutor(self._threads, thread_name_prefix="pack")
        copies = [self._workers.submit(np.copyto, target[first:last], frame[first:last]) for first, last in parts]
        try:
            for part, copy in zip(parts, copies, strict=True):
                copy.result()
                yield part
        finally:
            wait(copies)  # the caller may free the memory after an error


def _by_one(frame: Image, target: Image, parts: Parts) -> Iterator[tuple[int, int]]:
    for first, last in parts:
        target[first:last] = frame[first:last]
        yield first, last
