"""The executor for an engine file made by ``retina-edge build``."""

from __future__ import annotations

from pathlib import Path

from engines.core.errors import DeviceError
from engines.core.machine import this_machine
from engines.runner.gpu_executor import GpuExecutor
from engines.runner.tensorrt_network import TensorRTNetwork
from engines.tensorrt.backend import find_runtime
from engines.tensorrt.compatibility import check_gpu, check_runs_here
from engines.tensorrt.passport import read_engine


class EngineExecutor(GpuExecutor):
    """An ``Executor`` for an engine. Thread-safe.

    If TensorRT is not installed, its lean runtime runs engines of TensorRT that are version-compatible.

    Args:
        path: path of an engine made by ``retina-edge build``, with its passport beside it.
        in_flight, device, cuda_graph: arguments of ``GpuExecutor``. TensorRT-RTX captures CUDA graphs itself.

    Raises:
        ModelFileError: if a file is missing or damaged.
        MissingDependencyError: if pycuda, or a library that runs engines, is not installed.
        DeviceError: if there is no GPU, TensorRT-RTX does not support it, the engine was built for another GPU, another
            TensorRT or not for the lean runtime that is installed, or there is too little memory.
    """

    def __init__(self, path: Path | str, *, in_flight: int = 2, device: int = 0, cuda_graph: bool = True) -> None:
        path, machine = Path(path), this_machine(device)
        passport = read_engine(path)
        check_gpu(passport, path, machine)
        backend = find_runtime(passport.backend, machine, lean=passport.lean_runtime is not None)
        check_runs_here(passport, path, backend=backend.name, version=backend.version, machine=machine)
        self.tuned_batch = passport.batch[1]
        super().__init__(
            lambda driver: TensorRTNetwork(driver, path, passport, backend, cuda_graph=cuda_graph),
            in_flight=in_flight,
            device=device,
            cuda_graph=cuda_graph,
        )


def gpu_number(path: Path, device: str) -> int:
    """Return the index of the GPU for an engine: N for ``cuda:N``, 0 for ``auto`` and ``cuda``.

    Raises:
        DeviceError: if the device is another one; the message names the path.

    Examples:
        >>> gpu_number(Path("tree.engine"), "cuda:1")
        1
    """
    kind, colon, number = device.partition(":")
    if device in ("auto", "cuda"):
        return 0
    if kind == "cuda" and colon and number.isdecimal():
        return int(number)
    raise DeviceError(f"{path}: expected device auto, cuda or cuda:N for an engine, got {device!r}")
