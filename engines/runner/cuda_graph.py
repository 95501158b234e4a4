"""A stream's work recorded once and launched as one: CUDA graphs by cuda-bindings on pycuda's streams."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engines.core.errors import DeviceError, MissingDependencyError


class CudaGraph:
    """What ``work`` puts on a stream, ready to be launched again and again on the same addresses.

    Nothing is run while it is recorded. The primary context must be current here and in every call.

    Args:
        driver: from ``engines.core.cuda_context.primary_context``.
        stream: a pycuda stream, not the default one.
        work: puts kernels and copies on that stream; allocates nothing, waits for nothing.

    Raises:
        MissingDependencyError: cuda-bindings is not installed.
        DeviceError: the driver cannot record the work, or what another thread does breaks it off; the stream can be
            used as before.
    """

    def __init__(self, driver: Any, stream: Any, work: Callable[[], None]) -> None:
        try:
            from cuda.bindings import driver as bindings
        except ImportError as error:
            raise MissingDependencyError(
                f"cuda-bindings: expected it, for CUDA graphs ({error}); install it with pip install cuda-bindings"
            ) from error
        self._bindings = bindings
        self._stream = bindings.CUstream(stream.handle)
        # Of this thread only: others may go on allocating, as torch does.
        mode = bindings.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", self._stream, mode)
        try:
            work()
        except BaseException as error:
            self._end_in_vain()
            if isinstance(error, driver.Error):
                raise DeviceError(f"while it was recorded: {error}") from error
            raise
        graph = self._call("cuStreamEndCapture", self._stream)
        try:
            self._launchable = self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self) -> None:
        """Puts the work on its stream once more."""
        self._call("cuGraphLaunch", self._launchable, self._stream)

    def free(self) -> None:
        """Gives the graph back; it must not be running."""
        self._call("cuGraphExecDestroy", self._launchable)

    def _end_in_vain(self) -> None:
        """Whatever the driver says to it: the error that broke off the recording is the one to tell."""
        _, graph = self._bindings.cuStreamEndCapture(self._stream)
        if graph is not None and int(graph):
            self._bindings.cuGraphDestroy(graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        try:
            status, *values = getattr(self._bindings, name)(*arguments)
        except RuntimeError as error:  # the driver is too old to have the function
            raise DeviceError(f"{name}: {error}") from error
        if status != self._bindings.CUresult.CUDA_SUCCESS:
            raise DeviceError(f"{name}: {status.name}")
        return values[0] if values else None
