"""The executor for an engine file made by ``retina-edge build``."""

from __future__ import annotations

from pathlib import Path

from engines.core.machine import this_machine
from engines.runner.gpu_executor import GpuExecutor
from engines.runner.tensorrt_network import TensorRTNetwork
from engines.tensorrt.backend import find_backend
from engines.tensorrt.passport import check_runs_here, read_engine


class EngineExecutor(GpuExecutor):
    """An ``Executor`` for an engine. Thread-safe.

    Args:
        path: path of an engine made by ``retina-edge build``, with its passport beside it.
        in_flight, device, cuda_graph: arguments of ``GpuExecutor``. TensorRT-RTX captures CUDA graphs itself.

    Raises:
        ModelFileError: if a file is missing or damaged.
        MissingDependencyError: if TensorRT or pycuda is not installed.
        DeviceError: if there is no GPU, the engine was built for another GPU or another TensorRT, or there is too
            little memory.
    """

    def __init__(self, path: Path | str, *, in_flight: int = 2, device: int = 0, cuda_graph: bool = True) -> None:
        path, machine = Path(path), this_machine(device)
        passport = read_engine(path)
        backend = find_backend(passport.backend, machine)
        check_runs_here(passport, path, backend=backend.name, version=backend.version, machine=machine)
        super().__init__(
            lambda driver: TensorRTNetwork(driver, path, passport, backend, cuda_graph=cuda_graph),
            in_flight=in_flight,
            device=device,
            cuda_graph=cuda_graph,
        )
