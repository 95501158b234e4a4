"""A stand-in for ``pycuda.driver`` without a GPU: memory is host memory, and kernels run in the emulator.

A stream runs nothing until the code waits for something. Then the streams run in a random order, as far as their events
allow. So work that is not ordered by a stream or an event, or that overwrites memory that a copy still needs, gives
wrong results.

The stand-in also checks that a context is current in every call, that a launch has as many arguments as were prepared,
and that every address belongs to allocated memory when the work runs.
"""

from __future__ import annotations

import ctypes
import itertools
import random
import re
import threading
import time
import types
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, SupportsInt, TypeAlias

import numpy as np
import numpy.typing as npt

from tests.engines.plugins.emulated import library

Operation = Callable[[], None]


class Driver(types.ModuleType):
    """The stand-in for the module.

    Attributes:
        memory: device memory that is allocated now, by its address.
        pinned: size of the pinned host memory that is allocated now, by its address.
        calls: launches with their grids, blocks and integers.
        log: names of the operations in the order in which they ran.
        uploaded: address in host memory that each upload read from.
        fails_in_capture: name of the operation whose capture fails, as if another thread had invalidated the capture.
        fail_at: index of the allocation, device or pinned, that fails for lack of memory; None for no failure.
        integrated: True if the GPU shares the memory of the host.
        alive: streams, events and modules that are not freed yet.
    """

    def __init__(self, *, seed: int = 0, integrated: bool = False) -> None:
        super().__init__("pycuda.driver")
        self.memory: dict[int, npt.NDArray[np.uint8]] = {}
        self.pinned: dict[int, int] = {}
        self.calls: list[tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = []
        self.log: list[str] = []
        self.uploaded: list[int] = []
        self.fail_at: int | None = None
        self.integrated = integrated
        self.retained = 0
        self.alive: weakref.WeakSet[object] = weakref.WeakSet()
        self.streams: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
        self.busy: dict[int, Stream] = {}  # the work of a stream goes on after the last reference to it is gone
        self.numbers = itertools.count(1)
        self.clock = itertools.count(1)
        self._local = threading.local()
        self._random = random.Random(seed)
        self._allocated = 0
        self.Error = type("Error", (Exception,), {})
        self.MemoryError = type("MemoryError", (self.Error,), {})
        self.fails_in_capture = ""
        self.device_attribute = types.SimpleNamespace(INTEGRATED=18)
        self.host_alloc_flags = types.SimpleNamespace(DEVICEMAP=2)

    @property
    def contexts(self) -> list[str]:
        """Stack of the contexts of this thread."""
        if not hasattr(self._local, "contexts"):
            self._local.contexts = []
        return self._local.contexts  # type: ignore[no-any-return]

    def init(self) -> None:
        pass

    def Device(self, number: int) -> Device:
        if number:
            raise self.Error("cuDeviceGet failed: invalid device ordinal")
        return Device(self)

    def mem_alloc(self, size: int) -> Allocation:
        self._allocate("cuMemAlloc")
        return Allocation(self, size)

    def pagelocked_empty(self, size: int, dtype: Any, mem_flags: int = 0) -> npt.NDArray[Any]:
        self._allocate("cuMemHostAlloc")
        array = np.full(size * np.dtype(dtype).itemsize, 0x5A, np.uint8).view(Pinned)
        array.host = HostAllocation(self, array, mapped=bool(mem_flags & 2))
        return array.view(dtype)

    def Stream(self, flags: int = 0) -> Stream:
        return Stream(self, flags)

    def Event(self) -> Event:
        return Event(self)

    def memcpy_htod(self, target: SupportsInt, source: npt.NDArray[Any]) -> None:
        assert self.contexts
        self.check(int(target))
        ctypes.memmove(int(target), source.ctypes.data, source.nbytes)

    def memcpy_dtoh(self, target: npt.NDArray[Any], source: int) -> None:
        assert self.contexts
        self.check(int(source))
        ctypes.memmove(target.ctypes.data, int(source), target.nbytes)

    def memset_d8_async(self, target: int, value: int, size: int, stream: AnyStream) -> None:
        self.check(target)
        stream.put("memset", lambda: None)
        assert value == 0
        assert size <= len(self.memory[target])

    def memcpy_htod_async(self, target: SupportsInt, source: npt.NDArray[Any], stream: AnyStream) -> None:
        assert source.flags.c_contiguous
        self.uploaded.append(source.ctypes.data)
        self._copy("to device", int(target), source.ctypes.data, source, stream)

    def memcpy_dtoh_async(self, target: npt.NDArray[Any], source: int, stream: AnyStream) -> None:
        self._copy("to host", target.ctypes.data, int(source), target, stream)

    def module_from_buffer(self, ptx: bytes) -> Module:
        assert self.contexts
        return Module(self, ptx.decode())

    def check(self, address: int) -> None:
        assert any(start <= address < start + block.nbytes for start, block in self.memory.items()), (
            "an address that is not allocated, or is freed already"
        )

    def proceed(self, until: Callable[[], bool]) -> None:
        """Run operations of the streams, in a random order, until ``until`` returns True."""
        while not until():
            ready = [stream for stream in list(self.busy.values()) if stream.ready()]
            assert ready, "the code waits for work that no stream will run"
            self._random.choice(ready).step()

    def _allocate(self, call: str) -> None:
        assert self.contexts
        if self._allocated == self.fail_at:
            raise self.MemoryError(f"{call} failed: out of memory")
        self._allocated += 1

    def _copy(self, name: str, target: int, source: int, host: npt.NDArray[Any], stream: AnyStream) -> None:
        assert self.contexts
        size = host.nbytes

        def copy() -> None:
            on_device, on_host = (target, source) if name == "to device" else (source, target)
            self.check(on_device)
            assert any(start <= on_host < start + count for start, count in self.pinned.items()), "not pinned, or freed"
            ctypes.memmove(target, source, size)

        stream.put(f"{name} {size}", copy)


class Device:
    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    def get_attribute(self, attribute: int) -> int:
        assert attribute == self._driver.device_attribute.INTEGRATED
        return int(self._driver.integrated)

    def retain_primary_context(self) -> Device:
        time.sleep(0.01)  # other threads run meanwhile, as with the real driver
        self._driver.retained += 1
        return self

    def push(self) -> None:
        self._driver.contexts.append("primary")

    def pop(self) -> None:
        self._driver.contexts.pop()

    def get_device(self) -> Device:
        return self


class Allocation:
    def __init__(self, driver: Driver, size: int) -> None:
        self._driver, self._bytes = driver, np.full(size, 0x5A, np.uint8)
        driver.memory[int(self)] = self._bytes

    def __int__(self) -> int:
        return self._bytes.ctypes.data

    def free(self) -> None:
        assert self._driver.contexts
        del self._driver.memory[int(self)]


class Pinned(np.ndarray[Any, Any]):
    """An array whose base is its allocation, as with pycuda's arrays."""

    host: HostAllocation | None = None

    def __array_finalize__(self, parent: Any) -> None:
        self.host = getattr(parent, "host", None)

    @property
    def base(self) -> Any:
        return self.host


class HostAllocation:
    def __init__(self, driver: Driver, array: npt.NDArray[np.uint8], *, mapped: bool) -> None:
        self._driver, self._address, self._mapped = driver, array.ctypes.data, mapped
        driver.pinned[self._address] = array.nbytes
        if mapped:
            driver.memory[self._address] = np.asarray(array)

    def get_device_pointer(self) -> int:
        assert self._mapped
        return self._address

    def free(self) -> None:
        assert self._driver.contexts
        del self._driver.pinned[self._address]
        if self._mapped:
            del self._driver.memory[self._address]


class Owned:
    """The base of objects that pycuda frees with the last reference, which needs a current context."""

    def __init__(self, driver: Driver) -> None:
        assert driver.contexts
        self._driver = driver
        driver.alive.add(self)

    def __del__(self) -> None:
        assert self._driver.contexts, f"{type(self).__name__} is freed without a context"


class Module(Owned):
    def __init__(self, driver: Driver, ptx: str) -> None:
        super().__init__(driver)
        self._entries = re.findall(r"\.visible \.entry (\w+)\(", ptx)

    def get_function(self, entry: str) -> Function:
        assert entry in self._entries
        return Function(self, self._driver, entry)


class Function:
    def __init__(self, module: Module, driver: Driver, entry: str) -> None:
        self._module = module  # pycuda's functions keep their module alive, too
        self._driver, self._entry, self._kinds = driver, entry, ""

    def prepare(self, kinds: str) -> Function:
        self._kinds = kinds
        return self

    def prepared_async_call(
        self, grid: tuple[int, ...], block: tuple[int, ...], stream: Stream, *arguments: int
    ) -> None:
        assert self._driver.contexts
        match = re.fullmatch(r"(P+)(i+)(P+)", self._kinds)
        assert match is not None
        first, middle, last = map(len, match.groups())
        assert len(arguments) == first + middle + last
        inputs, integers, outputs = arguments[:first], arguments[first:-last], arguments[-last:]
        self._driver.calls.append((self._entry, grid, block, integers))

        def run() -> None:
            for address in (*inputs, *outputs):
                self._driver.check(address)
            failed = library(self._entry).run(
                *grid,
                block[0],
                (ctypes.c_void_p * first)(*inputs),
                (ctypes.c_int * middle)(*integers),
                (ctypes.c_void_p * last)(*outputs),
            )
            assert not failed

        stream.put(self._entry, run)


class Stream(Owned):
    def __init__(self, driver: Driver, flags: int) -> None:
        super().__init__(driver)
        self.flags, self.handle = flags, next(driver.numbers)
        self._queue: deque[tuple[str, Operation, Callable[[], bool]]] = deque()
        self.recording: list[tuple[str, Operation]] | None = None
        driver.streams[self.handle] = self

    def put(self, name: str, operation: Operation, is_ready: Callable[[], bool] | None = None) -> None:
        """Enqueue an operation, which runs when ``is_ready`` returns True, or record it while a graph is captured."""
        if self.recording is None:
            self._queue.append((name, operation, is_ready or (lambda: True)))
            self._driver.busy[self.handle] = self
        else:
            assert is_ready is None
            assert name != "event", "an event in a graph cannot be waited for outside of the graph"
            if name == self._driver.fails_in_capture:
                raise self._driver.Error(f"{name} failed: operation failed due to a previous error during capture")
            self.recording.append((name, operation))

    def ready(self) -> bool:
        return bool(self._queue) and self._queue[0][2]()

    def step(self) -> None:
        name, operation, _ = self._queue.popleft()
        if not self._queue:
            del self._driver.busy[self.handle]
        self._driver.log.append(name)
        operation()

    def wait_for_event(self, event: Event) -> None:
        self.put("wait", lambda: None, event.reached(event.recorded))

    def synchronize(self) -> None:
        assert self._driver.contexts
        assert self.recording is None, "the code waits for work that is only being captured"
        self._driver.proceed(lambda: not self._queue)


AnyStream: TypeAlias = Stream


class Event(Owned):
    """An event; its clock ticks with each event that a stream reaches."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(driver)
        self.recorded, self._done, self._time = 0, 0, 0

    def record(self, stream: Stream) -> Event:
        assert self._driver.contexts
        self.recorded += 1
        number = self.recorded

        def reach() -> None:
            self._done, self._time = number, next(self._driver.clock)

        stream.put("event", reach)
        return self

    def reached(self, number: int) -> Callable[[], bool]:
        return lambda: self._done >= number

    def synchronize(self) -> None:
        assert self._driver.contexts
        self._driver.proceed(self.reached(self.recorded))

    def time_till(self, later: Event) -> float:
        return float(later._time - self._time)
