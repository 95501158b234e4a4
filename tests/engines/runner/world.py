"""A machine with a GPU that is none: driver, graphs and TensorRT's runtime replaced at their boundaries."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from engines.backend import TENSORRT_RTX, find_backend
from engines.build_options import PLUGIN, BuildOptions
from engines.engine_network import prepare
from engines.machine import Machine
from engines.passport import passport_path, read_passport
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.cuda_bindings import Bindings
from tests.engines.runner.tensorrt_runtime import Runtime

HERE = Machine("NVIDIA GeForce RTX 3090", "8.6", "580.95", "")
OPTIONS = BuildOptions(targets=("sm86",), max_batch=3)


class World:
    """A machine with a GPU that is none.

    Args:
        model: the engine of TensorRT-RTX; another backend's is forged of it.
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        changes: to the passport.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        driver: Driver,
        model: Path,
        *,
        backend: str = TENSORRT_RTX,
        **changes: Any,
    ) -> None:
        self.driver, self.bindings = driver, Bindings(driver)
        pycuda = types.ModuleType("pycuda")
        pycuda.driver = driver  # type: ignore[attr-defined]
        bindings = types.ModuleType("cuda.bindings")
        bindings.driver = self.bindings  # type: ignore[attr-defined]
        modules = {"pycuda": pycuda, "pycuda.driver": driver, "cuda.bindings": bindings}
        for name, module in {**modules, "cuda": types.ModuleType("cuda")}.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr("engines.cuda._retained", {})
        content = model.with_suffix(".onnx").read_bytes()
        if changes.get("postprocess") != PLUGIN:
            content = prepare(content, OPTIONS).model
        version = find_backend(TENSORRT_RTX, Machine()).version if backend == TENSORRT_RTX else "11.4.0.12"
        self.trt = Runtime(driver, content, backend, version)
        monkeypatch.setattr("engines.runner.engine.this_machine", lambda _device: HERE)
        monkeypatch.setattr("engines.runner.engine.find_backend", lambda _name, _machine: self.trt.backend())
        if backend != TENSORRT_RTX:
            changes |= {"backend": backend, "backend_version": version, "machine": HERE}
        passport = dataclasses.replace(read_passport(model), **changes)
        folder = model.parent / "-".join([backend, *map(str, changes)])
        folder.mkdir(exist_ok=True)
        self.engine = folder / "model.engine"
        self.engine.write_bytes(model.read_bytes())
        passport_path(self.engine).write_text(passport.to_json())

    def check_nothing_is_left(self) -> None:
        assert (self.driver.memory, self.driver.pinned) == ({}, {})
        assert list(self.driver.alive) == []
        assert self.bindings.graphs == []
        assert self.trt.alive == []
        assert self.driver.contexts == []
