"""TensorRT's side of a running engine: deserialised, with an execution context, its tensors bound to addresses."""

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
from engines.passport import Passport, rebuild_command

if TYPE_CHECKING:
    import tensorrt

log = logging.getLogger(__name__)


class TensorRTNetwork:
    """An engine that can be put on a stream.

    Args:
        path: the engine, checked against its passport.
        passport: its passport.
        backend: of the passport.

    The primary context must be current in every call.

    Raises:
        DeviceError: TensorRT does not take the engine, or finds too little memory.
    """

    def __init__(self, path: Path, passport: Passport, backend: Backend) -> None:
        self._path, self._passport, self._batch = path, passport, 0
        self._messages: list[str] = []
        self._runtime: Any = None
        self._engine: Any = None
        self._cache: Any = None
        self._kept = b""  # what the cache's file holds
        self._context: tensorrt.IExecutionContext | Any = None
        try:
            self._load(backend)
        except BaseException:
            self.close()  # now: the error's traceback would hold all of it until long after the context is gone
            raise

    def _load(self, backend: Backend) -> None:
        trt = backend.module
        self._logger = make_logger(trt, self._messages)
        self._runtime = trt.Runtime(self._logger)
        if self._passport.request.get("options", {}).get("version_compatible"):
            # Such an engine carries the code of the TensorRT that made it; the passport's digest vouches for it.
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(self._path.read_bytes())
        if self._engine is None:
            raise self._failed("takes no such engine", mend=rebuild_command(self._passport, self._path))
        self._context = self._rtx_context(trt) if backend.is_rtx else self._engine.create_execution_context()
        if self._context is None:
            raise self._failed("makes no execution context", mend="end other programs on the GPU")

    def bind(self, addresses: Mapping[str, int]) -> None:
        """Says where inputs and outputs lie on the device."""
        for name, address in addresses.items():
            if not self._context.set_tensor_address(name, address):
                raise self._failed(f"takes no address for {name}")

    def enqueue(self, batch: int, stream: Any) -> None:
        """Puts the network on a pycuda stream, for that many images; waits for nothing."""
        if batch != self._batch:
            shape = (batch, *self._passport.contract.input_size, 3)
            if not self._context.set_input_shape(INPUT, shape):
                raise self._failed(f"takes no input of {list(shape)}")
            self._batch = batch
        if not self._context.execute_async_v3(stream.handle):
            raise self._failed("does not run the engine")

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
        """Gives everything back, inner things first."""
        self._context = None
        self._cache = None
        self._engine = None
        self._runtime = None

    def _rtx_context(self, trt: Any) -> Any:
        """With TensorRT-RTX's own CUDA graphs, and its cache of compiled kernels."""
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._cache = config.create_runtime_cache()
        path = cache_path(self._path)
        if path.is_file():
            content = path.read_bytes()
            if self._cache.deserialize(content):
                self._kept = content
            else:
                log.info("%s: made for another GPU, driver or TensorRT-RTX, or damaged; compiles again", path)
        config.set_runtime_cache(self._cache)
        return self._engine.create_execution_context(config)

    def _failed(self, what: str, *, mend: str = "") -> DeviceError:
        said = "; ".join(self._messages[-3:]) or "nothing"
        name = f"{self._passport.backend} {self._passport.backend_version}"
        return DeviceError(f"{self._path}: {name} {what}; it says: {said}" + (f"; mend it with {mend}" if mend else ""))


def cache_path(engine: Path | str) -> Path:
    """``model.engine.cache`` of ``model.engine``: what TensorRT-RTX compiled on this machine."""
    return Path(f"{engine}.cache")
