"""The kernels as TensorRT plugins that are compiled ahead of time, one plugin for each launch.

An engine with these plugins runs without Python and without this package. TensorRT 10.9 or newer can build such an
engine, except 10.14, in which plugins of this kind are broken. TensorRT-RTX has no such plugins. A plugin defines its
outputs, its PTX and the launch of the kernel. All three become part of the plan.

TensorRT's plugin layer has requirements whose violation it does not report:
- Every expression must be made inside the function that returns it, from Python integers. Other values become null.
- Kernel arguments are the inputs, then 32-bit integers, then the outputs. Thresholds are floats, so they must be passed
  in a tensor.
- A name can be registered only once. The name contains a digest of the launch, so a second engine with the same launch
  uses the plugin of the first engine.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import re
import types
from collections.abc import Callable, Sequence
from typing import Any

from engines.core.tensor_names import DOMAIN
from engines.plugins.launch import Launch
from engines.plugins.ptx_files import read_ptx
from engines.tensorrt.api import TensorRT
from engines.tensorrt.backend import Backend

MIN_PLUGIN_VERSION, BROKEN_PLUGIN_VERSION = (10, 9), (10, 14)


def why_no_plugins(backend: Backend) -> str | None:
    """Return the reason why a backend cannot build the kernels into an engine as plugins; None if it can."""
    if backend.is_rtx:
        return f"{backend.name} does not support plugins in Python"
    numbers = tuple(map(int, re.findall(r"\d+", backend.version)[:2]))
    if numbers < MIN_PLUGIN_VERSION:
        oldest = ".".join(map(str, MIN_PLUGIN_VERSION))
        return f"expected TensorRT {oldest} or newer for plugins, got {backend.version}"
    if numbers == BROKEN_PLUGIN_VERSION:
        broken = ".".join(map(str, BROKEN_PLUGIN_VERSION))
        return f"plugins are broken in TensorRT {broken}, got {backend.version}; upgrade TensorRT"
    return None


def plugin_name(launch: Launch) -> str:
    """Return the name of the plugin of a launch. Equal launches have the same name.

    Examples:
        >>> from engines.plugins.launch import Geometry, postprocess_launches
        >>> geometry = Geometry(1, 3, ((20, 28), (10, 14)), top_k=64, max_detections=16, half=False)
        >>> plugin_name(postprocess_launches(geometry, 1)[0])  # doctest: +ELLIPSIS
        'filter_f32_2_...'
    """
    return f"{launch.entry}_{hashlib.sha256(repr(launch).encode()).hexdigest()[:12]}"


def register(trt: TensorRT, launches: Sequence[Launch]) -> None:
    """Register the plugins of launches with TensorRT, unless they are registered already.

    Args:
        trt: module ``tensorrt``; its submodule ``plugin`` is imported here.
        launches: kernel launches for a fixed batch size.
    """
    if not launches:
        return
    trtp = importlib.import_module(f"{trt.__name__}.plugin")
    known = getattr(trtp.op, DOMAIN, None)
    for launch in launches:
        name = plugin_name(launch)
        if not hasattr(known, name):
            trtp.register(f"{DOMAIN}::{name}")(_description(trt, trtp, launch))
            trtp.aot_impl(f"{DOMAIN}::{name}")(_implementation(trtp, launch))


def _description(trt: TensorRT, trtp: Any, launch: Launch) -> Callable[..., Any]:
    """Return the function that describes a plugin's outputs to TensorRT."""

    def describe(*_inputs: Any) -> tuple[Any, ...]:
        return tuple(trtp.from_shape_expr(output.shape, getattr(trt, output.dtype)) for output in launch.outputs)

    returns = types.GenericAlias(tuple, (trtp.TensorDesc,) * len(launch.outputs))
    return _signed(describe, _tensors(trtp, launch), returns)


def _implementation(trtp: Any, launch: Launch) -> Callable[..., Any]:
    """Return the function that passes a plugin's kernel and its launch to TensorRT."""

    def implement(*_described: Any) -> tuple[str, bytes, Any, Any]:
        parameters = trtp.KernelLaunchParams()
        parameters.grid_x, parameters.grid_y = launch.grid
        parameters.block_x = launch.block
        integers = trtp.SymIntExprs(len(launch.integers))
        for index, value in enumerate(launch.integers):
            integers[index] = trtp.SymInt32(value)
        return launch.entry, read_ptx(launch.entry), parameters, integers

    rest = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in ("outputs", "tactic")]
    returns = tuple[str, bytes, trtp.KernelLaunchParams, trtp.SymIntExprs]
    return _signed(implement, [*_tensors(trtp, launch), *rest], returns)


def _tensors(trtp: Any, launch: Launch) -> list[inspect.Parameter]:
    """Return one parameter of a function signature for each input of the launch."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [inspect.Parameter(name, kind, annotation=trtp.TensorDesc) for name in launch.inputs]


def _signed(function: Callable[..., Any], parameters: list[inspect.Parameter], returns: Any) -> Callable[..., Any]:
    """Set the signature that TensorRT reads from a function; its number of tensors depends on the levels."""
    function.__signature__ = inspect.Signature(parameters, return_annotation=returns)  # type: ignore[attr-defined]
    return function
