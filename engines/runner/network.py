"""TensorRT's side of a running engine: deserialised, with execution contexts, their tensors bound to addresses."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.backend import Backend
from engines.build_monitor import make_logger
from engines.errors import DeviceError
from engines.files import atomic_file
from engines.names import INPUT
from engines.passport import Passport, cache_path, rebuild_command

if TYPE_CHECKING:
    import tensorrt

log = logging.getLogger(__name__)


class TensorRTNetwork:
    """An engine, loaded.

    Execution contexts of TensorRT share one block of memory for activations: they run one after another, on one stream.
    With TensorRT-RTX one context is all it takes, and that brings its own.

    Args:
        driver: from ``engines.cuda.primary_context``; its context must be current here and in every call.
        path: the engine, checked against its passport.
        passport: its passport.
        backend: of the passport.
        cuda_graph: TensorRT-RTX records CUDA graphs itself.

    Raises:
        DeviceError: TensorRT does not take the engine, or finds too little memory.
    """

    def __init__(self, driver: Any, path: Path, passport: Passport, backend: Backend, *, cuda_graph: bool) -> None:
        self._path, self._passport, self._backend = path, passport, backend
        self._messages: list[str] = []
        self._runtime: tensorrt.Runtime | None = None
        self._engine: tensorrt.ICudaEngine | None = None
        self._activations: Any = None
        # Of TensorRT-RTX.
        self._config: Any = None
        self._cache: Any = None
        self._kept = b""  # what the cache's file holds
        try:
            self._load(driver, cuda_graph=cuda_graph)
        except BaseException:
            self.close()  # now: the error's traceback would hold all of it until long after the context is gone
            raise

    def context(self) -> TensorRTContext:
        """A new execution context, of its own shape and addresses."""
        assert self._engine is not None
        managed = self._backend.module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(self._config if self._backend.is_rtx else managed)
        if context is None:
            raise self.failed("makes no execution context", mend="end other programs on the GPU")
        if not self._backend.is_rtx:
            context.set_device_memory(int(self._activations), self._engine.device_memory_size_v2)
        return TensorRTContext(self, context, (*self._passport.contract.input_size, 3))

    def save_cache(self) -> None:
        """Keeps what TensorRT-RTX compiled for this GPU beside the engine, so that the next start is fast."""
        if self._cache is None:
            return
        content = bytes(self._cache.serialize())
        if content == self._kept:
            return
        try:
            with atomic_file(cache_path(self._path)) as file:
                file.write(content)
        except OSError as error:  # a model in a folder for reading only is none the worse
            log.warning("%s: not kept, so the next start compiles again: %s", cache_path(self._path), error)
        self._kept = content

    def close(self) -> None:
        """Gives everything back, inner things first; every context must be closed."""
        self._cache = self._config = None
        self._engine = None
        self._runtime = None
        if self._activations is not None:
            self._activations.free()
            self._activations = None

    def failed(self, what: str, *, mend: str = "") -> DeviceError:
        """An error in TensorRT's last words."""
        said = "; ".join(self._messages[-3:]) or "nothing"
        name = f"{self._passport.backend} {self._passport.backend_version}"
        return DeviceError(f"{self._path}: {name} {what}; it says: {said}" + (f"; mend it with {mend}" if mend else ""))

    def _load(self, driver: Any, *, cuda_graph: bool) -> None:
        trt = self._backend.module
        self._logger = make_logger(trt, self._messages)
        self._runtime = trt.Runtime(self._logger)
        if self._passport.request.get("options", {}).get("version_compatible"):
            # Such an engine carries the code of the TensorRT that made it; the passport's digest vouches for it.
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        if self._engine is None:
            raise self.failed("takes no such engine", mend=rebuild_command(self._passport, self._path))
        if self._backend.is_rtx:
            self._configure_rtx(trt, self._engine, cuda_graph=cuda_graph)
        else:
            self._activations = driver.mem_alloc(max(1, self._engine.device_memory_size_v2))

    def _configure_rtx(self, trt: Any, engine: Any, *, cuda_graph: bool) -> None:
        """TensorRT-RTX's own CUDA graphs, and its cache of compiled kernels."""
        self._config = engine.create_runtime_config()
        strategies = trt.CudaGraphStrategy
        self._config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if cuda_graph else strategies.DISABLED
        self._cache = self._config.create_runtime_cache()
        path = cache_path(self._path)
        if path.is_file():
            content = path.read_bytes()
            if self._cache.deserialize(content):
                self._kept = content
            else:
                log.info("%s: made for another GPU, driver or TensorRT-RTX, or damaged; compiles again", path)
        self._config.set_runtime_cache(self._cache)


class TensorRTContext:
    """An engine that can be put on a stream."""

    def __init__(
        self, network: TensorRTNetwork, context: tensorrt.IExecutionContext, image_shape: tuple[int, ...]
    ) -> None:
        self._network, self._image_shape, self._batch = network, image_shape, 0
        self._addresses: dict[str, int] = {}
        self._context: tensorrt.IExecutionContext | None = context

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Says where inputs and outputs lie on the device."""
        assert self._context is not None
        for name, address in addresses.items():
            if self._addresses.get(name) == address:
                continue  # a context that nothing changes keeps what TensorRT-RTX recorded
            if not self._context.set_tensor_address(name, address):
                raise self._network.failed(f"takes no address for {name}")
            self._addresses[name] = address

    def enqueue(self, batch: int, stream: Any) -> None:
        """Puts the network on a pycuda stream, for that many images; waits for nothing."""
        assert self._context is not None
        if batch != self._batch:
            shape = (batch, *self._image_shape)
            if not self._context.set_input_shape(INPUT, shape):
                raise self._network.failed(f"takes no input of {list(shape)}")
            self._batch = batch
        if not self._context.execute_async_v3(stream.handle):
            raise self._network.failed("does not run the engine")

    def close(self) -> None:
        """Gives it back; it must not be running."""
        self._context = None
