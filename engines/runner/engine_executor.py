"""An engine of ``retina-edge build`` on a GPU."""

from __future__ import annotations

from pathlib import Path

from engines.core.machine import this_machine
from engines.runner.gpu_executor import GpuExecutor
from engines.runner.tensorrt_network import TensorRTNetwork
from engines.tensorrt.backend import find_backend
from engines.tensorrt.passport import check_runs_here, read_engine


class EngineExecutor(GpuExecutor):
    """An ``Executor`` of an engine; any thread may call it.

    Args:
        path: an engine of ``retina-edge build``, with its passport beside it.
        in_flight, device, cuda_graph: as of ``GpuExecutor``; TensorRT-RTX records CUDA graphs itself.

    Raises:
        ModelFileError: a file is missing or damaged.
        MissingDependencyError: TensorRT or pycuda is not installed.
        DeviceError: no GPU, another GPU or TensorRT than the engine is for, or too little memory.
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
