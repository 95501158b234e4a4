"""A stand-in for ``cuda.bindings.driver``: graphs of the operations that pycuda's stand-in puts on a stream."""

from __future__ import annotations

import enum
import types
from typing import Any

from tests.engines.plugins.pycuda_stand_in import Driver, Operation


class Result(enum.Enum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901


class CaptureMode(enum.Enum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1


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
    """

    CUresult = Result
    CUstreamCaptureMode = CaptureMode
    CUstream = int

    def __init__(self, driver: Driver) -> None:
        super().__init__("cuda.bindings.driver")
        self.driver = driver
        self.graphs: list[Graph] = []
        self.launches = 0
        self.fails = ""

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

    def _destroy(self, graph: Any) -> tuple[Result]:
        assert self.driver.contexts
        self.graphs.remove(graph)
        return (Result.CUDA_SUCCESS,)
