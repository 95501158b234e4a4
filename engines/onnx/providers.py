"""Execution providers of ONNX Runtime: what runs an ONNX on the CPU or on an NVIDIA GPU.

If a provider cannot be loaded, ONNX Runtime goes on with the CPU and only logs it. Here that is an error.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from engines.core.errors import DeviceError, MissingDependencyError, reason_of
from engines.core.tensor_names import INPUT, OUTPUTS

CPU = "CPUExecutionProvider"
# ONNX Runtime's name for the memory of an NVIDIA GPU, with every provider.
_GPU_MEMORY = "cuda"
# Records which provider runs which node; from ONNX Runtime 1.24 on, older versions ignore it.
_RECORD_NODES = "session.record_ep_graph_assignment_info"
_FATAL, _WARNING = 4, 2


@dataclass(frozen=True)
class Provider:
    """An execution provider for NVIDIA GPUs.

    Attributes:
        device: its name as a device, without the number of the GPU.
        name: ONNX Runtime's name.
        install: command that installs it with the libraries that it needs.
        plugin: package whose library has the provider; empty if ``onnxruntime`` itself has it.
    """

    device: str
    name: str
    install: str
    plugin: str = ""


_WITH_LIBRARIES = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
PROVIDERS = (
    Provider("cuda", "CUDAExecutionProvider", _WITH_LIBRARIES),
    Provider("tensorrt", "TensorrtExecutionProvider", f"{_WITH_LIBRARIES} tensorrt"),
    Provider(
        "tensorrt-rtx",
        "NvTensorRTRTXExecutionProvider",
        "pip install onnxruntime-ep-nv-tensorrt-rtx-cu13",
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
    ),
)


def provider_of(device: str) -> tuple[Provider | None, int]:
    """Return the provider for a device, None for the CPU, and the number of the GPU.

    Args:
        device: ``auto`` or ``cpu`` for the CPU; ``cuda``, ``tensorrt`` or ``tensorrt-rtx`` for a GPU, with ``:N`` for
            another GPU than 0.

    Raises:
        DeviceError: if the device is another one.

    Examples:
        >>> provider, gpu = provider_of("tensorrt-rtx:1")
        >>> provider.name, gpu
        ('NvTensorRTRTXExecutionProvider', 1)
    """
    if device in ("auto", "cpu"):
        return None, 0
    kind, colon, number = device.partition(":")
    for provider in PROVIDERS:
        if provider.device == kind and (number.isdecimal() if colon else True):
            return provider, int(number or 0)
    raise DeviceError(
        f"device: expected auto or cpu, or {', '.join(item.device for item in PROVIDERS)}, also with :N, for an ONNX, "
        f"got {device!r}"
    )


def open_on_gpu(
    model: Path | bytes, options: onnxruntime.SessionOptions, provider: Provider, gpu: int, *, precision: str
) -> onnxruntime.InferenceSession:
    """Open an ONNX that ``check_onnx`` accepts with a provider for GPUs.

    Args:
        model: path or content of the ONNX.
        options: options of the session.
        provider: the provider.
        gpu: number of the GPU.
        precision: precision of the model, as in its contract.

    Raises:
        MissingDependencyError: if the provider is not installed.
        DeviceError: if the provider cannot be loaded, or finds no GPU that it supports.
    """
    options.add_session_config_entry(_RECORD_NODES, "1")
    source = str(model) if isinstance(model, Path) else model
    if provider.plugin:
        options.add_provider_for_devices([_plugin_device(provider, gpu)], {})
        return onnxruntime.InferenceSession(source, options)
    if provider.name not in onnxruntime.get_available_providers():
        raise MissingDependencyError(
            f"{provider.name}: expected it in ONNX Runtime {onnxruntime.__version__}, found only "
            f"{', '.join(onnxruntime.get_available_providers())}; replace onnxruntime: pip uninstall onnxruntime, then "
            f"{provider.install}"
        )
    with _quiet() as said:
        session = _open_built_in(source, options, provider, gpu, precision)
    if session is None or provider.name not in session.get_providers():
        reason = f" ({said[0]})" if said else ""
        raise DeviceError(
            f"{provider.name}: expected a GPU and the libraries that this provider needs, and ONNX Runtime "
            f"{onnxruntime.__version__} cannot load it{reason}; look at nvidia-smi, and install the "
            f"libraries: {provider.install}"
        )
    return session


def _open_built_in(
    source: str | bytes, options: onnxruntime.SessionOptions, provider: Provider, gpu: int, precision: str
) -> onnxruntime.InferenceSession | None:
    """Open an ONNX with a provider of the package itself; None if the provider cannot be loaded."""
    settings: dict[str, Any] = {"device_id": gpu}
    providers: list[Any] = [(provider.name, settings)]
    if provider.device == "tensorrt":
        settings |= {"trt_fp16_enable": precision == "fp16", "trt_int8_enable": precision == "int8"}
        providers.append(("CUDAExecutionProvider", {"device_id": gpu}))  # for nodes that TensorRT does not take
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds the libraries of NVIDIA's packages
    try:
        return onnxruntime.InferenceSession(source, options, providers=[*providers, CPU], enable_fallback=0)
    except RuntimeError as error:
        print(reason_of(error))
        return None


@contextlib.contextmanager
def _quiet() -> Iterator[list[str]]:
    """Collect what ONNX Runtime prints about libraries, and keep its log, which has colors, from the terminal."""
    said: list[str] = []
    text = io.StringIO()
    onnxruntime.set_default_logger_severity(_FATAL)
    try:
        with contextlib.redirect_stdout(text):
            yield said
    finally:
        onnxruntime.set_default_logger_severity(_WARNING)
        said += filter(None, text.getvalue().splitlines())


def _plugin_device(provider: Provider, gpu: int) -> Any:
    """Return ONNX Runtime's device for a GPU, from a provider in a library of its own."""
    if not hasattr(onnxruntime, "register_execution_provider_library"):
        raise MissingDependencyError(
            f"{provider.name}: expected ONNX Runtime 1.23 or later, which can load it, got {onnxruntime.__version__}; "
            "pip install -U onnxruntime"
        )
    devices = _devices_of(provider)
    if not devices:
        try:
            library = importlib.import_module(provider.plugin).get_library_path()
        except ImportError as error:
            raise MissingDependencyError(
                f"{provider.name}: expected the package {provider.plugin}, found none; {provider.install}"
            ) from error
        try:
            onnxruntime.register_execution_provider_library(provider.plugin, library)
        except Exception as error:  # ONNX Runtime raises its own exceptions
            raise DeviceError(
                f"{provider.name}: expected NVIDIA's driver and the libraries of this provider, and ONNX Runtime "
                f"{onnxruntime.__version__} cannot load it ({reason_of(error)}); look at nvidia-smi"
            ) from error
        devices = _devices_of(provider)
    if gpu >= len(devices):
        raise DeviceError(
            f"{provider.name}: expected a GPU {gpu} that it supports, found {len(devices)} GPUs; look at nvidia-smi, "
            "and use device cuda on older GPUs"
        )
    return devices[gpu]


def _devices_of(provider: Provider) -> list[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider.name]


def nodes_on_cpu(session: onnxruntime.InferenceSession) -> tuple[str, ...] | None:
    """Return the operators of the nodes that the CPU runs, sorted; None if this ONNX Runtime does not tell.

    Args:
        session: session from ``open_on_gpu``.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    parts = session.get_provider_graph_assignment_info()
    return tuple(sorted(node.op_type for part in parts if part.ep_name == CPU for node in part.get_nodes()))


class BoundRun:
    """A run of a session on one shape of images, whose input and outputs are in device memory.

    Args:
        session: the session.
        shape: shape of the images, (N, height, width, 3).
        gpu: number of the GPU.
        memory: ONNX Runtime's name for the kind of memory.

    Examples:
        >>> from engines.onnx.session import open_session
        >>> from retina_edge.assets import MODEL
        >>> session = open_session(MODEL, onnxruntime.SessionOptions())
        >>> run = BoundRun(session, (1, 416, 736, 3), 0, memory="cpu")
        >>> [output.shape for output in run(np.zeros((1, 416, 736, 3), np.uint8))]
        [(1,), (1, 300, 4), (1, 300), (1, 300)]
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, shape: Sequence[int], gpu: int, *, memory: str = _GPU_MEMORY
    ) -> None:
        self._session = session
        self._images = onnxruntime.OrtValue.ortvalue_from_shape_and_type(list(shape), np.uint8, memory, gpu)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT, self._images)
        for name in OUTPUTS:
            self._binding.bind_output(name, memory, gpu)

    def __call__(self, images: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
        """Copy images to the device, run the session, and return the outputs; they belong to the caller."""
        self._images.update_inplace(images)
        self._session.run_with_iobinding(self._binding)
        return list(self._binding.copy_outputs_to_cpu())
