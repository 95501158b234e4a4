"""A stand-in for the library TensorRT, sufficient for the real ``tensorrt.plugin``, which is plain Python.

The package ``tensorrt.plugin`` comes unchanged from a published wheel. It uses the classes of TensorRT-RTX, and the
stand-ins of this module for classes that TensorRT-RTX lacks or that only a build would call. Shapes are fixed, so each
expression is simply its value.

As a script, with the folder of a ``plugin`` package, a geometry and a batch size, this module makes the calls of a
build for the three plugins and prints what TensorRT would have received, as JSON.
"""

from __future__ import annotations

import enum
import hashlib
import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import tensorrt_rtx

from engines.core.tensor_names import DOMAIN
from engines.plugins.launch import Geometry, Launch, postprocess_launches
from engines.tensorrt.plugin_definitions import plugin_name, register


class Expression:
    """A fixed size."""

    def __init__(self, value: int) -> None:
        self.value = value

    def is_constant(self) -> bool:
        return True

    def get_constant_value(self) -> int:
        return self.value


class Builder:
    """A builder of expressions. Like TensorRT's, it accepts only 32-bit integers."""

    def constant(self, value: int) -> Expression:
        assert type(value) is int
        assert abs(value) < 2**31
        return Expression(value)

    def operation(self, operation: Any, first: Expression, second: Expression) -> Expression:
        raise AssertionError(
            f"{operation} of {first.value} and {second.value}: expected no arithmetic, because the plan has all numbers"
        )


class Sizes(list):  # type: ignore[type-arg]
    """The dimensions of a tensor, created from a list of sizes or from their number."""

    def __init__(self, items: Any) -> None:
        super().__init__([None] * items if isinstance(items, int) else items)


class TensorDescription:
    def __init__(self, dims: tuple[int, ...] = (), type: Any = None) -> None:
        self.dims, self.type = dims, type
        self.format, self.scale = tensorrt_rtx.TensorFormat.LINEAR, 1.0


class DynamicDescription:
    def __init__(self, desc: TensorDescription) -> None:
        self.desc = desc
        self.min = self.max = self.opt = desc.dims


class CreationRequest(enum.IntEnum):
    UNKNOWN = 0
    PREFER_JIT = 1
    PREFER_AOT = 2
    STRICT_JIT = 3
    STRICT_AOT = 4


class Registry:
    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str) -> bool:
        self.creators[creator.name, creator.plugin_version, namespace] = creator
        return True

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        return self.creators.get((name, version, namespace))


class Base:
    """The base of classes that a build would call from C++."""

    def __init__(self, *_: Any) -> None:
        pass


def load(plugin_package: Path) -> tuple[Any, Registry]:
    """Return a module ``tensorrt`` that contains the given ``tensorrt.plugin``, and its plugin registry."""
    trt, registry = types.ModuleType("tensorrt"), Registry()
    trt.__path__ = []
    for name in dir(tensorrt_rtx):
        if not name.startswith("__"):
            setattr(trt, name, getattr(tensorrt_rtx, name))
    for name in ("IPluginV3", "IPluginV3QuickCore", "IPluginV3QuickBuild", "IPluginV3QuickRuntime"):
        setattr(trt, name, type(name, (Base,), {}))
    stand_ins = {
        "IPluginV3QuickAOTBuild": type("IPluginV3QuickAOTBuild", (Base,), {}),
        "ISymExpr": type("ISymExpr", (Base,), {}),
        "IDimensionExpr": Expression,
        "IExprBuilder": Builder,
        "DimsExprs": Sizes,
        "PluginTensorDesc": TensorDescription,
        "DynamicPluginTensorDesc": DynamicDescription,
        "QuickPluginCreationRequest": CreationRequest,
        "get_plugin_registry": lambda: registry,
    }
    for name, value in stand_ins.items():
        setattr(trt, name, value)
    sys.modules["tensorrt"] = trt
    spec = importlib.util.spec_from_file_location(
        "tensorrt.plugin", plugin_package / "__init__.py", submodule_search_locations=[str(plugin_package)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tensorrt.plugin"] = module
    spec.loader.exec_module(module)
    trt.plugin = module  # type: ignore[attr-defined]
    return trt, registry


def build_plugin(
    trt: Any, registry: Registry, launch: Launch, tensors: dict[str, tuple[tuple[int, ...], Any]]
) -> dict[str, Any]:
    """Make the calls of a build for one plugin, in TensorRT's order; add its outputs to ``tensors``."""
    creator = registry.get_creator(plugin_name(launch), "1", DOMAIN)
    plugin = creator.create_plugin(
        plugin_name(launch), DOMAIN, [], trt.TensorRTPhase.BUILD, CreationRequest.STRICT_AOT
    ).clone()
    inputs = [tensors[name] for name in launch.inputs]
    kinds = list(plugin.get_output_data_types([kind for _, kind in inputs], [len(shape) for shape, _ in inputs]))
    builder = Builder()
    dims = [Sizes(builder.constant(side) for side in shape) for shape, _ in inputs]
    shapes = [
        tuple(side.get_constant_value() for side in sides) for sides in plugin.get_output_shapes(dims, [], builder)
    ]
    outputs = list(zip(shapes, kinds, strict=True))
    described = [DynamicDescription(TensorDescription(*tensor)) for tensor in (*inputs, *outputs)]
    formats = plugin.get_supported_format_combinations(described, len(inputs))
    plugin.configure_plugin(described[: len(inputs)], described[len(inputs) :])
    plugin.set_tactic(0)
    launched, integers = types.SimpleNamespace(), Integers()
    plugin.get_launch_params(dims, described, len(inputs), launched, integers, builder)
    plain = [item.desc for item in described]
    entry, ptx = plugin.get_kernel(plain[: len(inputs)], plain[len(inputs) :])
    tensors.update(zip((output.name for output in launch.outputs), outputs, strict=True))
    return {
        "entry": entry,
        "ptx": hashlib.sha256(ptx).hexdigest(),
        "grid": [_value(getattr(launched, f"grid_{axis}")) for axis in "xyz"],
        "block": [_value(getattr(launched, f"block_{axis}")) for axis in "xyz"],
        "shared": _value(launched.shared_mem),
        "inputs": [kind.name for _, kind in inputs],
        "integers": [_value(integers[index]) for index in range(integers.nbSymExprs)],
        "outputs": [[shape, kind.name] for shape, kind in outputs],
        "formats": [[item.type.name, item.format.name] for item in formats],
        "fields": len(creator.field_names),
    }


class Integers(dict):  # type: ignore[type-arg]
    """The extra arguments of a plugin by index."""

    nbSymExprs = 0


def _value(argument: Any) -> int:
    assert argument.dtype == tensorrt_rtx.PluginArgDataType.INT32
    value = argument.expr.get_constant_value()
    assert isinstance(value, int)
    return value


def main(package: str, geometry: str, batch: str) -> None:
    values = json.loads(geometry)
    values["feature_sizes"] = tuple(map(tuple, values["feature_sizes"]))
    sizes = Geometry(**values)
    launches = postprocess_launches(sizes, int(batch))
    trt, registry = load(Path(package))
    register(trt, launches)
    register(trt, launches)  # as for a second engine in the same process
    tensors = {name: (item.shape, getattr(trt, item.dtype)) for name, item in sizes.inputs(int(batch)).items()}
    print(json.dumps([build_plugin(trt, registry, launch, tensors) for launch in launches]))


if __name__ == "__main__":
    main(*sys.argv[1:])
