"""The kernels as plugins of TensorRT, compiled ahead of time: one for each launch of the plan.

An engine that holds them needs neither Python nor this package to run. Building one takes TensorRT 10.9 or newer,
not 10.14, whose plugins of this kind are broken, and not TensorRT-RTX, which has none. A plugin says three things:
what its outputs are, which PTX it is, and how that is launched; all of them stand in the plan.

What TensorRT's plugin layer demands, and does not say when it is missing:
- Every expression is made inside the function that returns it, of Python's own integers; others become null.
- Kernel arguments are the inputs, 32-bit integers, the outputs. Thresholds are floats, so they are a tensor.
- A name can be registered once, so the name holds a digest of the launch, and a second engine may use the first one's.
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

MIN_VERSION, BROKEN_VERSION = (10, 9), (10, 14)


def why_no_plugins(backend: Backend) -> str | None:
    """Why a backend cannot take the kernels as plugins; None where it can."""
    if backend.is_rtx:
        return f"{backend.name} has no plugins in Python"
    numbers = tuple(map(int, re.findall(r"\d+", backend.version)[:2]))
    if numbers < MIN_VERSION:
        return f"they need TensorRT {'.'.join(map(str, MIN_VERSION))} or newer, found {backend.version}"
    if numbers == BROKEN_VERSION:
        return f"those of TensorRT {'.'.join(map(str, BROKEN_VERSION))} are broken, found {backend.version}; upgrade it"
    return None


def plugin_name(launch: Launch) -> str:
    """The plugin of a launch, for instance ``filter_f16_5_0d1f…``: the same launch has the same name."""
    return f"{launch.entry}_{hashlib.sha256(repr(launch).encode()).hexdigest()[:12]}"


def register(trt: TensorRT, launches: Sequence[Launch]) -> None:
    """Makes the plugins of these launches known to TensorRT, those that are not yet.

    Args:
        trt: the module ``tensorrt``; its ``plugin`` is imported here.
        launches: of a fixed batch size.
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
    """What the outputs are."""

    def describe(*_inputs: Any) -> tuple[Any, ...]:
        return tuple(trtp.from_shape_expr(output.shape, getattr(trt, output.dtype)) for output in launch.outputs)

    returns = types.GenericAlias(tuple, (trtp.TensorDesc,) * len(launch.outputs))
    return _signed(describe, _tensors(trtp, launch), returns)


def _implementation(trtp: Any, launch: Launch) -> Callable[..., Any]:
    """Which kernel it is, and how it is launched."""

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
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [inspect.Parameter(name, kind, annotation=trtp.TensorDesc) for name in launch.inputs]


def _signed(function: Callable[..., Any], parameters: list[inspect.Parameter], returns: Any) -> Callable[..., Any]:
    """A function with the signature that TensorRT reads: how many tensors there are depends on the levels."""
    function.__signature__ = inspect.Signature(parameters, return_annotation=returns)  # type: ignore[attr-defined]
    return function
