"""CUDA graphs: the work of a pycuda stream, captured once with cuda-bindings and launched in one call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engines.core.errors import DeviceError
from engines.runner.bindings import call, load_bindings


@dataclass(frozen=True)
class GraphUse:
    """How many submissions were launched as a CUDA graph.

    Attributes:
        with_graph: number of submissions that were launched as a CUDA graph.
        without_graph: number of submissions whose kernels were launched one by one, such as the first one in each slot.
        by_library: True if the library that runs the engine captures CUDA graphs itself, as TensorRT-RTX does. It does
            not say if it does, and its submissions count as without a graph.
        failure: why the last attempt to capture a graph failed; empty if none did.

    Examples:
        >>> GraphUse(with_graph=12, without_graph=3).since(GraphUse(with_graph=2, without_graph=3))
        GraphUse(with_graph=10, without_graph=0, by_library=False, failure='')
    """

    with_graph: int = 0
    without_graph: int = 0
    by_library: bool = False
    failure: str = ""

    def since(self, before: GraphUse) -> GraphUse:
        """Return the use from an earlier moment to now."""
        numbers = (self.with_graph - before.with_graph, self.without_graph - before.without_graph)
        return GraphUse(*numbers, self.by_library, self.failure)


class CudaGraph:
    """The work that a function enqueues on a stream, captured once so that it can be launched repeatedly.

    Every launch uses the addresses that were captured.
    The work does not run while it is captured. The primary context must be current here and in every call.

    Args:
        driver: module ``pycuda.driver``, from ``engines.core.cuda_context.primary_context``.
        stream: pycuda stream, not the default stream.
        work: function that enqueues kernels and copies on the stream. It must not allocate or wait.

    Raises:
        MissingDependencyError: if cuda-bindings is not installed.
        DeviceError: if the driver cannot capture the work, or another thread invalidates the capture. The stream
            remains usable.
    """

    def __init__(self, driver: Any, stream: Any, work: Callable[[], None]) -> None:
        bindings = load_bindings("CUDA graphs")
        self._bindings = bindings
        self._stream = bindings.CUstream(stream.handle)
        # Restrict only this thread during the capture, because other threads (of torch, for example) may allocate.
        mode = bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException as error:
            self._abort_capture()
            if isinstance(error, driver.Error):
                raise DeviceError(f"capturing the work: {error}") from error
            raise
        graph = self._call("cuStreamEndCapture", self._stream)
        try:
            self._launchable = self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        self._launch, self._success = bindings.cuGraphLaunch, bindings.CUresult.CUDA_SUCCESS

    def launch(self) -> None:
        """Enqueue the work on its stream once."""
        (status,) = self._launch(self._launchable, self._stream)
        if status != self._success:
            raise DeviceError(f"cuGraphLaunch: {status.name}")

    def free(self) -> None:
        """Free the graph, which must not be running."""
        self._call("cuGraphExecDestroy", self._launchable)

    def _abort_capture(self) -> None:
        """End the capture and ignore errors, because the caller raises the error that ended the capture."""
        _, graph = self._bindings.cuStreamEndCapture(self._stream)
        if graph is not None and int(graph):
            self._bindings.cuGraphDestroy(graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        return call(self._bindings, name, *arguments)
