"""A stand-in for TensorRT's runtime: to run an engine, it runs the engine's ONNX model with ONNX Runtime.

Memory and streams are those of the driver's stand-in.
"""

from __future__ import annotations

import types
import weakref
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.torch_network import host_array
from engines.core.tensor_names import INPUT
from engines.tensorrt.backend import TENSORRT_RTX, Backend
from tests.engines.plugins.pycuda_stand_in import Driver

ACTIVATIONS = 4096
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int32)": np.int32}


class Runtime(types.SimpleNamespace):
    """The stand-in for the module ``tensorrt``, ``tensorrt_rtx`` or ``tensorrt_lean``.

    Attributes:
        refuses: the call that fails: ``start``, ``deserialize``, ``context``, ``shape``, ``address`` or ``enqueue``.
        strategy: strategy of TensorRT-RTX for CUDA graphs, set when a context is created.
        alive: names of the objects that are not freed yet.
        accepts: True if TensorRT-RTX accepts the content of a runtime cache.
        loaded: last content of a runtime cache that was accepted.
        runs: batch size of each run, in order.
        aux_streams: number of auxiliary streams that the engine needs.
        host_code: True if the engine contains a runtime, so that its host code must be allowed.
        compiled: serialized content of the runtime cache; None as for a GPU without a fingerprint.
    """

    def __init__(self, driver: Driver, session: onnxruntime.InferenceSession, name: str, version: str) -> None:
        super().__init__(__version__=version, Builder=object)
        self.driver, self.name, self.refuses = driver, name, ""
        self.alive: list[str] = []
        self.loaded: bytes | None = None
        self.compiled: bytes | None = b"compiled"
        self.accepts = True
        self.runs: list[int] = []
        self.aux_streams = 0
        self.host_code = False
        self.session = session
        self.ProfilingVerbosity = types.SimpleNamespace(NONE="none")
        self.DynamicShapesKernelSpecializationStrategy = types.SimpleNamespace(EAGER="eager")
        self.CudaGraphStrategy = types.SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph", DISABLED="disabled")
        self.ExecutionContextAllocationStrategy = types.SimpleNamespace(USER_MANAGED="user managed")
        self.strategy = ""
        self.ILogger = type("ILogger", (), {"__init__": object.__init__, "ERROR": 1})

    def backend(self) -> Backend:
        return Backend(self.name, self, self.__version__)  # type: ignore[arg-type]

    def Runtime(self, logger: Any) -> object:
        if self.refuses == "start":  # an object that must not be used
            logger.log(1, "CUDA initialization failure")
            return object()
        runtime = Held(self, "runtime")
        runtime.engine_host_code_allowed = False
        # A reference to the runtime in its own attribute would keep it alive.
        owner = weakref.proxy(runtime)
        runtime.deserialize_cuda_engine = lambda content: self._engine(logger, content, owner)
        return runtime

    def _engine(self, logger: Any, content: bytes, runtime: Held) -> Held | None:
        assert self.driver.contexts
        assert runtime.engine_host_code_allowed is self.host_code
        assert content
        if self.refuses == "deserialize":
            logger.log(1, "no kernel image is available")
            return None
        engine = Held(self, "engine")
        engine.create_execution_context = self._context
        engine.create_runtime_config = self._config
        engine.device_memory_size_v2 = ACTIVATIONS
        engine.num_aux_streams = self.aux_streams
        return engine

    def _config(self) -> Any:
        config = types.SimpleNamespace(cuda_graph_strategy=None, allocation="static")

        def deserialize(content: bytes) -> bool:
            if self.accepts:
                self.loaded = content
            return self.accepts

        config.create_runtime_cache = lambda: types.SimpleNamespace(
            deserialize=deserialize, serialize=lambda: self.compiled
        )
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        config.set_execution_context_allocation_strategy = lambda how: setattr(config, "allocation", how)
        return config

    def _context(self, how: Any) -> Context | None:
        if self.name == TENSORRT_RTX:
            assert how.cache
            assert (how.allocation, how.dynamic_shapes_kernel_specialization_strategy) == ("user managed", "eager")
            self.strategy = how.cuda_graph_strategy
        else:
            assert how == "user managed"
        return None if self.refuses == "context" else Context(self)


class Held(types.SimpleNamespace):
    """An object of TensorRT. It is listed in ``Runtime.alive`` until it is freed."""

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
        self.activations = 0
        self.nvtx_verbosity = "detailed"
        self.streams: list[int] = []
        self.settled: tuple[int, ...] = ()  # last shape that was run; TensorRT cannot capture the first run of a shape
        self.captured = False

    def set_device_memory(self, address: int, size: int) -> None:
        assert len(self.runtime.driver.memory[address]) >= size
        self.activations = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == INPUT
        assert not self.captured, "a captured graph depends on this shape"
        self.shape = shape
        return self.runtime.refuses != "shape"

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert not self.captured or self.addresses[name] == address, "a captured graph depends on this address"
        self.addresses[name] = address
        return self.runtime.refuses != "address"

    def set_aux_streams(self, handles: list[int]) -> None:
        assert all(self.runtime.driver.streams[handle].flags == 1 for handle in handles), (
            "an auxiliary stream that waits for the default stream"
        )
        self.streams = handles

    def execute_async_v3(self, handle: int) -> bool:
        runtime, driver = self.runtime, self.runtime.driver
        assert len(self.streams) == runtime.aux_streams, "TensorRT would use its own auxiliary streams"
        self.streams = []
        assert self.nvtx_verbosity == "none"
        if runtime.refuses == "enqueue":
            return False
        stream = driver.streams[handle]
        if stream.recording is not None:
            assert runtime.name != TENSORRT_RTX
            assert self.settled == self.shape
            self.captured = True
        self.settled = self.shape
        shape, addresses = self.shape, {**self.addresses, "activations": self.activations}

        def run() -> None:
            runtime.runs.append(shape[0])
            for address in addresses.values():
                driver.check(address)
            images = host_array(addresses[INPUT], shape, np.uint8)
            outputs = [output.name for output in runtime.session.get_outputs()]
            kinds = [_TYPES[output.type] for output in runtime.session.get_outputs()]
            for name, kind, value in zip(outputs, kinds, runtime.session.run(outputs, {INPUT: images}), strict=True):
                host_array(addresses[name], value.shape, kind)[...] = value

        stream.put("engine", run)
        return True
