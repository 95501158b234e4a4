"""The network of an engine: deserialized by TensorRT, with execution contexts bound to device addresses."""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.core.atomic_file import atomic_file
from engines.core.cuda_context import NON_BLOCKING
from engines.core.errors import DeviceError
from engines.core.tensor_names import INPUT
from engines.tensorrt.backend import Backend
from engines.tensorrt.build_options import KERNELS
from engines.tensorrt.compatibility import advice
from engines.tensorrt.error_log import error_log
from engines.tensorrt.passport import INSIDE, Passport, cache_path

if TYPE_CHECKING:
    import tensorrt

log = logging.getLogger(__name__)


class TensorRTNetwork:
    """The ``Network`` of an engine.

    All execution contexts share one block of memory for activations. They also share the auxiliary streams, on which
    TensorRT runs layers concurrently.

    Args:
        driver: module ``pycuda.driver``, from ``engines.core.cuda_context.primary_context``. Its context must be
            current here and in every call.
        path: path of the engine, which must match its passport.
        passport: passport of the engine.
        backend: backend that the passport names, or TensorRT's lean runtime.
        cuda_graph: True to let TensorRT-RTX capture CUDA graphs. It has no effect for TensorRT.

    Raises:
        DeviceError: if TensorRT does not start, or refuses the engine, or there is too little memory.
    """

    def __init__(self, driver: Any, path: Path, passport: Passport, backend: Backend, *, cuda_graph: bool) -> None:
        self.contract = passport.contract
        self.half = any(tensor["type"] == "half" for tensor in passport.outputs)
        self.raw = passport.postprocess == KERNELS
        self.batches = (passport.batch[0], passport.batch[-1])
        self.tensors = frozenset(tensor["name"] for tensor in (*passport.inputs, *passport.outputs))
        self.captures_graphs = backend.is_rtx
        self._path, self._passport, self._backend = path, passport, backend
        self._messages = error_log(backend.module)
        self._reported = self._messages.count  # number of TensorRT's errors that were quoted
        self._runtime: tensorrt.Runtime | None = None
        self._engine: tensorrt.ICudaEngine | None = None
        self._activations: Any = None
        self._streams: list[Any] = []
        # Only for TensorRT-RTX.
        self._config: Any = None
        self._cache: Any = None
        self._saved_cache = b""  # content of the cache file
        try:
            self._load(driver, cuda_graph=cuda_graph)
        except BaseException:
            self.close()  # the traceback would keep these objects alive after the context
            raise

    def context(self, batch: int, addresses: Mapping[str, int]) -> TensorRTContext:
        """Create an execution context; see ``Network.context``."""
        assert self._engine is not None
        managed = self._backend.module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(self._config if self._backend.is_rtx else managed)
        if context is None:
            raise self.failed("cannot create an execution context", fix="close other programs on the GPU")
        # The engine contains the names of all layers, for ``inspect``. Reporting them to a profiler costs time in
        # every frame.
        context.nvtx_verbosity = self._backend.module.ProfilingVerbosity.NONE
        context.set_device_memory(int(self._activations), self._engine.device_memory_size_v2)
        bound = TensorRTContext(self, context, [stream.handle for stream in self._streams])
        del context  # the traceback of an error would keep it alive after the context of the GPU
        try:
            bound.bind((batch, *self.contract.input_size, 3), addresses)
        except DeviceError:
            bound.close()
            raise
        return bound

    def save_cache(self) -> None:
        """Save the kernels that TensorRT-RTX compiled for this GPU beside the engine, to speed up the next start."""
        if self._cache is None or (memory := self._cache.serialize()) is None:
            return
        content = bytes(memory)
        if content == self._saved_cache:
            return
        try:
            with atomic_file(cache_path(self._path)) as file:
                file.write(content)
        except OSError as error:  # an engine in a read-only folder still works
            path = cache_path(self._path)
            log.warning("%s: cannot be saved, so the next start compiles the kernels again: %s", path, str(error))
        self._saved_cache = content

    def close(self) -> None:
        """Release the engine and its memory. A second call does nothing."""
        # The cache must outlive the engine and its contexts, but TensorRT-RTX does not hold a reference to it.
        self._config = None
        self._engine = None
        self._cache = None
        self._runtime = None
        self._streams.clear()
        if self._activations is not None:
            self._activations.free()
            self._activations = None

    def failed(self, what: str, *, fix: str = "") -> DeviceError:
        """Return an error that quotes the errors that TensorRT has logged since the previous one.

        Args:
            what: predicate that names the failure, such as "cannot run the engine".
            fix: advice to the user, an imperative clause.
        """
        logged, self._reported = self._messages.since(self._reported), self._messages.count
        name = f"{self._backend.name} {self._backend.version}"
        return DeviceError(f"{self._path}: {name} {what}; it says: {logged}" + (f"; {fix}" if fix else ""))

    def _load(self, driver: Any, *, cuda_graph: bool) -> None:
        options = self._passport.request.get("options", {})
        self._runtime = self._start()
        if self._passport.lean_runtime == INSIDE:
            # Such an engine contains host code of the TensorRT that built it. The digest in the passport proves that
            # the file is unchanged.
            self._runtime.engine_host_code_allowed = True
        if options.get("dla") is not None:
            self._runtime.DLA_core = options["dla"]
        self._engine = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        if self._engine is None:
            raise self.failed("cannot load the engine", fix=advice(self._passport, self._path, self._backend.name))
        if self._backend.is_rtx:
            self._configure_rtx(self._backend.module, self._engine, cuda_graph=cuda_graph)
        self._activations = driver.mem_alloc(max(1, self._engine.device_memory_size_v2))
        # TensorRT's own auxiliary streams would wait for the default stream, and so for torch.
        self._streams += [driver.Stream(NON_BLOCKING) for _ in range(self._engine.num_aux_streams)]

    def _start(self) -> tensorrt.Runtime:
        before = self._messages.count
        runtime = self._backend.module.Runtime(self._messages.logger)
        if self._messages.count == before:
            return runtime
        # With a driver that is too old, TensorRT only logs an error. Use of the object that it returns crashes the
        # process, and so does freeing it. Therefore it is never freed.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(runtime))
        raise self.failed(
            "cannot start", fix="update NVIDIA's driver, or install the library for the CUDA version of this driver"
        )

    def _configure_rtx(self, trt: Any, engine: Any, *, cuda_graph: bool) -> None:
        """Configure the CUDA graphs of TensorRT-RTX and its cache of compiled kernels."""
        self._config = engine.create_runtime_config()
        strategies = trt.CudaGraphStrategy
        self._config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if cuda_graph else strategies.DISABLED
        self._config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # Compile the kernels for a shape before its first run, not in the background during its first thousand runs.
        # The first run then finds them, and the cache contains them.
        self._config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._cache = self._config.create_runtime_cache()
        path = cache_path(self._path)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            log.warning("%s: cannot be read, so this start compiles the kernels again: %s", path, str(error))
            content = b""
        if content and self._cache.deserialize(content):
            self._saved_cache = content
        elif content:
            log.info(
                "%s: expected a cache for this GPU, driver and TensorRT-RTX, got another or a damaged one; this start "
                "compiles the kernels again",
                path,
            )
        self._config.set_runtime_cache(self._cache)


class TensorRTContext:
    """The ``Context`` of an engine."""

    def __init__(self, network: TensorRTNetwork, context: tensorrt.IExecutionContext, aux_streams: list[int]) -> None:
        self._network, self._aux_streams = network, aux_streams
        self._context: tensorrt.IExecutionContext | None = context

    def bind(self, shape: tuple[int, ...], addresses: Mapping[str, int]) -> None:
        """Set the shape of the input and the device addresses of all tensors."""
        assert self._context is not None
        if not self._context.set_input_shape(INPUT, shape):
            raise self._network.failed(f"refuses the input shape {list(shape)}")
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._network.failed(f"refuses the address of {name}")

    def enqueue(self, stream: Any) -> None:
        """Enqueue the engine on a stream; see ``Context.enqueue``."""
        assert self._context is not None
        if self._aux_streams:
            self._context.set_aux_streams(self._aux_streams)  # TensorRT uses them only for the next run
        if not self._context.execute_async_v3(stream.handle):
            raise self._network.failed("cannot run the engine")

    def close(self) -> None:
        """Release the context, which must not be running."""
        self._context = None
