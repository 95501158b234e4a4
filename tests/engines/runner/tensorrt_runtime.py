"""TensorRT's runtime without a GPU: what it puts on a stream is the engine's ONNX, run by ONNX Runtime.

Memory and streams are those of the driver's stand-in.
"""

from __future__ import annotations

import ctypes
import types
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from engines.backend import TENSORRT_RTX, Backend
from engines.names import INPUT
from tests.engines.plugins.pycuda_stand_in import Driver

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32}


class Runtime(types.SimpleNamespace):
    """The module.

    Attributes:
        refuses: the call that fails: ``deserialize``, ``context``, ``shape``, ``address`` or ``enqueue``.
        alive: names of what is held now.
        loaded: content of the runtime cache that a context was made with.
        runs: batch sizes, as they were put on a stream.
    """

    def __init__(self, driver: Driver, onnx: bytes, version: str) -> None:
        super().__init__(__version__=version, Builder=object)
        self.driver, self.refuses = driver, ""
        self.alive: list[str] = []
        self.loaded: bytes | None = None
        self.compiled = b"compiled"
        self.accepts = True
        self.runs: list[int] = []
        self.session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
        self.CudaGraphStrategy = types.SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph")
        self.ILogger = type("ILogger", (), {"__init__": object.__init__, "ERROR": 1})

    def backend(self) -> Backend:
        return Backend(TENSORRT_RTX, self, self.__version__)  # type: ignore[arg-type]

    def Runtime(self, logger: Any) -> Held:
        runtime = Held(self, "runtime")
        runtime.deserialize_cuda_engine = lambda content: self._engine(logger, content)
        return runtime

    def _engine(self, logger: Any, content: bytes) -> Held | None:
        assert self.driver.contexts
        assert content
        if self.refuses == "deserialize":
            logger.log(1, "no kernel image is available")
            return None
        engine = Held(self, "engine")
        engine.create_execution_context = self._context
        engine.create_runtime_config = self._config
        return engine

    def _config(self) -> Any:
        config = types.SimpleNamespace(cuda_graph_strategy=None)

        def deserialize(content: bytes) -> bool:
            if self.accepts:
                self.loaded = content
            return self.accepts

        config.create_runtime_cache = lambda: types.SimpleNamespace(
            deserialize=deserialize, serialize=lambda: self.compiled
        )
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        return config

    def _context(self, config: Any) -> Context | None:
        assert config.cuda_graph_strategy == "whole graph"
        assert config.cache
        return None if self.refuses == "context" else Context(self)


class Held(types.SimpleNamespace):
    """Something of TensorRT's; notes when it is freed."""

    def __init__(self, runtime: Runtime, name: str) -> None:
        super().__init__()
        self.__dict__["_held"] = (runtime, name)
        runtime.alive.append(name)

    def __del__(self) -> None:
        runtime, name = self.__dict__["_held"]
        assert runtime.driver.contexts, f"{name} is freed without a context"
        runtime.alive.remove(name)


class Context(Held):
    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime, "context")
        self.runtime = runtime
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == INPUT
        self.shape = shape
        return self.runtime.refuses != "shape"

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return self.runtime.refuses != "address"

    def execute_async_v3(self, handle: int) -> bool:
        runtime, driver = self.runtime, self.runtime.driver
        if runtime.refuses == "enqueue":
            return False
        shape, addresses = self.shape, dict(self.addresses)
        runtime.runs.append(shape[0])

        def run() -> None:
            for address in addresses.values():
                driver.check(address)
            images = _at(addresses[INPUT], shape, np.uint8)
            outputs = [output.name for output in runtime.session.get_outputs()]
            kinds = [_TYPES[output.type] for output in runtime.session.get_outputs()]
            for name, kind, found in zip(outputs, kinds, runtime.session.run(outputs, {INPUT: images}), strict=True):
                _at(addresses[name], found.shape, kind)[...] = found

        driver.streams[handle].put("engine", run)
        return True


def _at(address: int, shape: tuple[int, ...], kind: Any) -> npt.NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), kind).reshape(shape)
