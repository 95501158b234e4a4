"""TensorRT's side of a running engine: deserialized, with execution contexts, their tensors bound to addresses."""

from __future__ import annotations

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
from engines.tensorrt.error_log import error_log
from engines.tensorrt.passport import Passport, cache_path, rebuild_command

if TYPE_CHECKING:
    import tensorrt

log = logging.getLogger(__name__)


class TensorRTNetwork:
    """A ``Network`` of an engine.

    Its execution contexts share one block of memory for activations, and streams for what TensorRT runs side by side.

    Args:
        driver: from ``engines.core.cuda_context.primary_context``; its context must be current here and in every call.
        path: the engine, checked against its passport.
        passport: its passport.
        backend: of the passport.
        cuda_graph: TensorRT-RTX records CUDA graphs itself.

    Raises:
        DeviceError: TensorRT does not take the engine, or finds too little memory.
    """

    def __init__(self, driver: Any, path: Path, passport: Passport, backend: Backend, *, cuda_graph: bool) -> None:
        self.contract = passport.contract
        self.half = any(tensor["type"] == "half" for tensor in passport.outputs)
        self.raw = passport.postprocess == KERNELS
        self.batches = (passport.batch[0], passport.batch[-1])
        self.tensors = frozenset(tensor["name"] for tensor in (*passport.inputs, *passport.outputs))
        self.records_itself = backend.is_rtx
        self._path, self._passport, self._backend = path, passport, backend
        self._messages = error_log(backend.module)
        self._heard = self._messages.count
        self._runtime: tensorrt.Runtime | None = None
        self._engine: tensorrt.ICudaEngine | None = None
        self._activations: Any = None
        self._streams: list[Any] = []
        # Of TensorRT-RTX.
        self._config: Any = None
        self._cache: Any = None
        self._kept = b""  # what the cache's file holds
        try:
            self._load(driver, cuda_graph=cuda_graph)
        except BaseException:
            self.close()  # now: the error's traceback would hold all of it until long after the context is gone
            raise

    def context(self, batch: int, addresses: Mapping[str, int]) -> TensorRTContext:
        assert self._engine is not None
        managed = self._backend.module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(self._config if self._backend.is_rtx else managed)
        if context is None:
            raise self.failed("makes no execution context", fix="end other programs on the GPU")
        # The builder keeps every name for ``inspect``; nobody is to tell them to a profiler at each frame.
        context.nvtx_verbosity = self._backend.module.ProfilingVerbosity.NONE
        context.set_device_memory(int(self._activations), self._engine.device_memory_size_v2)
        made = TensorRTContext(self, context, [stream.handle for stream in self._streams])
        del context  # an error's traceback would hold it until long after the GPU's context is gone
        try:
            made.bind((batch, *self.contract.input_size, 3), addresses)
        except DeviceError:
            made.close()
            raise
        return made

    def save_cache(self) -> None:
        """Keeps what TensorRT-RTX compiled for this GPU beside the engine, so that the next start is fast."""
        if self._cache is None or (memory := self._cache.serialize()) is None:
            return
        content = bytes(memory)
        if content == self._kept:
            return
        try:
            with atomic_file(cache_path(self._path)) as file:
                file.write(content)
        except OSError as error:  # a model in a folder for reading only is none the worse
            log.warning("%s: not kept, so the next start compiles again: %s", cache_path(self._path), str(error))
        self._kept = content

    def close(self) -> None:
        # The cache outlives what was made with it, as TensorRT-RTX demands without holding it.
        self._config = None
        self._engine = None
        self._cache = None
        self._runtime = None
        self._streams.clear()
        if self._activations is not None:
            self._activations.free()
            self._activations = None

    def failed(self, what: str, *, fix: str = "") -> DeviceError:
        """An error in TensorRT's last words."""
        said, self._heard = self._messages.since(self._heard), self._messages.count
        name = f"{self._passport.backend} {self._passport.backend_version}"
        return DeviceError(f"{self._path}: {name} {what}; it says: {said}" + (f"; fix it with {fix}" if fix else ""))

    def _load(self, driver: Any, *, cuda_graph: bool) -> None:
        options = self._passport.request.get("options", {})
        self._runtime = self._backend.module.Runtime(self._messages.logger)
        if options.get("version_compatible"):
            # Such an engine carries the code of the TensorRT that made it; the passport's digest vouches for it.
            self._runtime.engine_host_code_allowed = True
        if options.get("dla") is not None:
            self._runtime.DLA_core = options["dla"]
        self._engine = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        if self._engine is None:
            raise self.failed("takes no such engine", fix=rebuild_command(self._passport, self._path))
        if self._backend.is_rtx:
            self._configure_rtx(self._backend.module, self._engine, cuda_graph=cuda_graph)
        self._activations = driver.mem_alloc(max(1, self._engine.device_memory_size_v2))
        # TensorRT's own would wait for the default stream, and so for torch.
        self._streams += [driver.Stream(NON_BLOCKING) for _ in range(self._engine.num_aux_streams)]

    def _configure_rtx(self, trt: Any, engine: Any, *, cuda_graph: bool) -> None:
        """TensorRT-RTX's own CUDA graphs, and its cache of compiled kernels."""
        self._config = engine.create_runtime_config()
        strategies = trt.CudaGraphStrategy
        self._config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if cuda_graph else strategies.DISABLED
        self._config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        # Compiled for a shape before it runs, not beside its first thousand runs; so the cache has it, too.
        self._config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
        self._cache = self._config.create_runtime_cache()
        path = cache_path(self._path)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            content = b""
        except OSError as error:
            log.warning("%s: cannot be read, so this start compiles again: %s", path, str(error))
            content = b""
        if content and self._cache.deserialize(content):
            self._kept = content
        elif content:
            log.info("%s: made for another GPU, driver or TensorRT-RTX, or damaged; compiles again", path)
        self._config.set_runtime_cache(self._cache)


class TensorRTContext:
    """A ``Context`` of an engine."""

    def __init__(self, network: TensorRTNetwork, context: tensorrt.IExecutionContext, aux_streams: list[int]) -> None:
        self._network, self._aux_streams = network, aux_streams
        self._context: tensorrt.IExecutionContext | None = context

    def bind(self, shape: tuple[int, ...], addresses: Mapping[str, int]) -> None:
        """Says how large the input is, and where everything lies on the device."""
        assert self._context is not None
        if not self._context.set_input_shape(INPUT, shape):
            raise self._network.failed(f"takes no input of {list(shape)}")
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._network.failed(f"takes no address for {name}")

    def enqueue(self, stream: Any) -> None:
        assert self._context is not None
        if self._aux_streams:
            self._context.set_aux_streams(self._aux_streams)  # it forgets them with each run
        if not self._context.execute_async_v3(stream.handle):
            raise self._network.failed("does not run the engine")

    def close(self) -> None:
        self._context = None
