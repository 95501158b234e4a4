"""Executors of model files, by the suffix of the file."""

from __future__ import annotations

from pathlib import Path

from engines.core.errors import ModelFileError
from engines.core.executor import Executor


def open_executor(path: Path, *, device: str, in_flight: int, cuda_graph: bool) -> tuple[Executor, str]:
    """Open a model file: ``.pt`` (torch), ``.onnx`` (ONNX Runtime) or ``.engine`` (TensorRT).

    Args:
        path, device, in_flight, cuda_graph: as for ``Detector.load``.

    Returns:
        The executor, and the name of the device that it runs on.

    Raises:
        ModelFileError, MissingDependencyError, DeviceError: as ``Detector.load`` does.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> executor, device = open_executor(MODEL, device="auto", in_flight=2, cuda_graph=True)
        >>> device
        'cpu'
    """
    if path.suffix == ".onnx":
        from engines.onnx.onnx_executor import OnnxExecutor

        return OnnxExecutor(path, device=device), "cpu" if device == "auto" else device
    if path.suffix == ".pt":
        from retina_edge.model.torch_executor import TorchExecutor

        executor = TorchExecutor.load(path, device=device)
        return executor, executor.device
    if path.suffix == ".engine":
        from engines.runner.engine_executor import EngineExecutor, gpu_number

        number = gpu_number(path, device)
        engine = EngineExecutor(path, in_flight=in_flight, device=number, cuda_graph=cuda_graph)
        return engine, f"cuda:{number}"
    raise ModelFileError(
        f"{path}: expected a model ending in .pt, .onnx or .engine, got {path.suffix or 'no suffix'!r}"
    )
