"""A stand-in for ``cuda.bindings.driver``: events, registered memory, and graphs of pycuda's stand-in."""

from __future__ import annotations

import ctypes
import enum
import types
from typing import Any

import numpy as np

from tests.engines.plugins.pycuda_stand_in import Driver, Event, Operation


class Result(enum.Enum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_NOT_SUPPORTED = 801
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class CaptureMode(enum.Enum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


class PointerAttribute(enum.Enum):
    CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL = 9


class EventFlags(enum.Enum):
    CU_EVENT_DISABLE_TIMING = 2


class Graph:
    def __init__(self, operations: list[tuple[str, Operation]]) -> None:
        self.operations = operations

    def __int__(self) -> int:
        return id(self)


class Bindings(types.ModuleType):
    """The stand-in for the module.

    Attributes:
        graphs: captured and instantiated graphs that are not destroyed yet.
        launches: number of launches of graphs.
        fails: name of the call that fails; empty for none.
        on_another_gpu: addresses of allocations that belong to GPU 1.
    """

    CUresult = Result
    CUpointer_attribute = PointerAttribute
    CUevent_flags = EventFlags
    CUstreamCaptureMode = CaptureMode
    CUstream = int

    def __init__(self, driver: Driver) -> None:
        super().__init__("cuda.bindings.driver")
        self.driver = driver
        self.graphs: list[Graph] = []
        self.launches = 0
        self.fails = ""
        self.on_another_gpu: set[int] = set()

    def cuStreamBeginCapture(self, stream: int, mode: CaptureMode) -> tuple[Result]:
        assert self.driver.contexts
        assert mode is CaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        if self.fails == "cuStreamBeginCapture":
            return (Result.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,)
        assert self.driver.streams[stream].recording is None
        self.driver.streams[stream].recording = []
        return (Result.CUDA_SUCCESS,)

    def cuStreamEndCapture(self, stream: int) -> tuple[Result, Graph | None]:
        operations, self.driver.streams[stream].recording = self.driver.streams[stream].recording, None
        assert operations is not None
        if self.fails == "cuStreamEndCapture":
            return Result.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, None
        self.graphs.append(graph := Graph(operations))
        return Result.CUDA_SUCCESS, graph

    def cuGraphInstantiate(self, graph: Graph, flags: int) -> tuple[Result, Graph | None]:
        assert graph in self.graphs
        assert flags == 0
        if self.fails == "cuGraphInstantiate":
            raise RuntimeError('Function "cuGraphInstantiateWithFlags" not found')
        self.graphs.append(launchable := Graph(graph.operations))
        return Result.CUDA_SUCCESS, launchable

    def cuGraphLaunch(self, launchable: Graph, stream: int) -> tuple[Result]:
        assert self.driver.contexts
        assert launchable in self.graphs
        for name, operation in launchable.operations:
            self.driver.streams[stream].put(name, operation)
        self.launches += 1
        return (Result.CUDA_SUCCESS,)

    def cuGraphDestroy(self, graph: Graph) -> tuple[Result]:
        return self._destroy(graph)

    def cuGraphExecDestroy(self, launchable: Graph) -> tuple[Result]:
        return self._destroy(launchable)

    def cuPointerGetAttribute(self, attribute: PointerAttribute, address: int) -> tuple[Result, int | None]:
        assert self.driver.contexts
        assert attribute is PointerAttribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
        for start, block in self.driver.memory.items():
            if start <= address < start + block.nbytes:
                return Result.CUDA_SUCCESS, int(start in self.on_another_gpu)
        return Result.CUDA_ERROR_INVALID_VALUE, None

    def cuEventCreate(self, flags: EventFlags) -> tuple[Result, Event]:
        assert flags is EventFlags.CU_EVENT_DISABLE_TIMING
        return Result.CUDA_SUCCESS, Event(self.driver)

    def cuEventRecord(self, event: Event, stream: int) -> tuple[Result]:
        if stream not in self.driver.streams:
            return (Result.CUDA_ERROR_INVALID_HANDLE,)
        event.record(self.driver.streams[stream])
        return (Result.CUDA_SUCCESS,)

    def cuStreamWaitEvent(self, stream: int, event: Event, flags: int) -> tuple[Result]:
        assert flags == 0
        self.driver.streams[stream].wait_for_event(event)
        return (Result.CUDA_SUCCESS,)

    def cuEventDestroy(self, _event: Event) -> tuple[Result]:
        assert self.driver.contexts
        return (Result.CUDA_SUCCESS,)

    def cuMemHostRegister(self, address: int, size: int, flags: int) -> tuple[Result]:
        assert self.driver.contexts
        assert address % 4096 == size % 4096 == 0
        assert address not in self.driver.pinned
        if self.fails == "cuMemHostRegister":
            return (Result.CUDA_ERROR_NOT_SUPPORTED,)
        self.driver.pinned[address] = size
        if flags == 2:
            self.driver.memory[address] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return (Result.CUDA_SUCCESS,)

    def cuMemHostGetDevicePointer(self, address: int, flags: int) -> tuple[Result, int | None]:
        assert self.driver.contexts
        assert (address in self.driver.memory, flags) == (True, 0)
        if self.fails == "cuMemHostGetDevicePointer":
            return Result.CUDA_ERROR_NOT_SUPPORTED, None
        return Result.CUDA_SUCCESS, address

    def cuMemHostUnregister(self, address: int) -> tuple[Result]:
        assert self.driver.contexts
        del self.driver.pinned[address]
        self.driver.memory.pop(address, None)
        return (Result.CUDA_SUCCESS,)

    def _destroy(self, graph: Any) -> tuple[Result]:
        assert self.driver.contexts
        self.graphs.remove(graph)
        return (Result.CUDA_SUCCESS,)
