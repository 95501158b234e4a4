"""A simulated machine with a GPU: stand-ins replace the driver, CUDA graphs and TensorRT's runtime."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from engines.core.executor import RawDetections
from engines.core.machine import Machine
from engines.core.tensor_names import OUTPUTS
from engines.tensorrt.backend import TENSORRT, TENSORRT_RTX, Backend, find_backend
from engines.tensorrt.build_options import PLUGIN, BuildOptions
from engines.tensorrt.engine_network import prepare
from engines.tensorrt.passport import INSIDE, passport_path, read_passport
from retina_edge.evaluation.partners import agreement, find_partners
from tests.engines.plugins.pycuda_stand_in import Driver
from tests.engines.runner.cuda_bindings import Bindings
from tests.engines.runner.tensorrt_runtime import Runtime
from tests.parity import SHARE, SURE

# Some pixels of the kernel's letterbox differ from OpenCV's by one gray level, so scores and boxes differ a little. The
# limits are for means over the images: of two overlapping boxes, NMS may keep the other one.
SCORE, PIXELS = 0.02, 0.5
HERE = Machine("NVIDIA GeForce RTX 3090", "8.6", "580.95", "")
OPTIONS = BuildOptions(targets=("sm86",), max_batch=3)
BOXES = [{"name": name, "type": "float", "shape": []} for name in OUTPUTS]
KINDS: dict[str, dict[str, Any]] = {
    "TensorRT-RTX": {},
    "TensorRT, raw heads": {"backend": TENSORRT},
    "TensorRT, plugins": {"backend": TENSORRT, "postprocess": PLUGIN, "outputs": BOXES},
    "TensorRT, fixed batch": {"backend": TENSORRT, "batch": (3, 3, 3)},
}


class World:
    """A simulated machine with a GPU and an engine.

    Args:
        monkeypatch: fixture of pytest.
        driver: stand-in for the driver.
        model: engine of TensorRT-RTX. The engine of another backend is made from it by changing the passport.
        folder: folder for the engine of this machine.
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        runtime: library that runs the engine, ``tensorrt-lean``; None for the backend.
        changes: changes to fields of the passport.

    Attributes:
        driver: stand-in for ``pycuda.driver``.
        bindings: stand-in for ``cuda.bindings.driver``.
        trt: stand-in for TensorRT's runtime.
        engine: path of the engine.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        driver: Driver,
        model: Path,
        folder: Path,
        *,
        backend: str = TENSORRT_RTX,
        runtime: str | None = None,
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
        monkeypatch.setattr("engines.core.cuda_context._retained", {})
        session = _session(model.with_suffix(".onnx"), raw=changes.get("postprocess") != PLUGIN)
        version = find_backend(TENSORRT_RTX, Machine()).version if backend == TENSORRT_RTX else "11.4.0.12"
        self.trt = Runtime(driver, session, runtime or backend, version)
        self.trt.host_code = changes.get("lean_runtime") == INSIDE
        monkeypatch.setattr("engines.runner.engine_executor.this_machine", lambda _device: HERE)
        monkeypatch.setattr("engines.runner.engine_executor.find_runtime", self._find_runtime)
        if backend != TENSORRT_RTX:
            changes |= {"backend": backend, "backend_version": version, "machine": HERE}
        passport = dataclasses.replace(read_passport(model), **changes)
        self.engine = folder / "model.engine"
        os.link(model, self.engine)
        passport_path(self.engine).write_text(passport.to_json())

    def _find_runtime(self, _built_by: str, _machine: Machine, *, lean: bool) -> Backend:
        assert lean is (read_passport(self.engine).lean_runtime is not None)
        return self.trt.backend()

    def check_nothing_is_left(self) -> None:
        """Check that all resources of the GPU are freed."""
        assert (self.driver.memory, self.driver.pinned) == ({}, {})
        assert list(self.driver.alive) == []
        assert self.bindings.graphs == []
        assert self.trt.alive == []
        assert self.driver.contexts == []


def check(found: RawDetections, expected: RawDetections) -> None:
    """Check that the expected detections with a high score were found, at about the same position and score."""
    partners, drifts = [], []
    for n in range(len(expected.num_detections)):
        sure = expected.scores[n] >= SURE
        pairs = find_partners(expected.boxes[n][sure], expected.labels[n][sure], found.boxes[n], found.labels[n])
        partners.append(pairs)
        drifts.append(found.scores[n][pairs.pairs[:, 1]] - expected.scores[n][sure][pairs.pairs[:, 0]])
    share, displacement = agreement(partners)
    assert sum(each.sure for each in partners) > 3
    assert share is not None
    assert share >= SHARE
    assert displacement is not None
    assert displacement < PIXELS
    assert np.abs(np.concatenate(drifts)).mean() < SCORE


@functools.cache
def _session(model: Path, *, raw: bool) -> onnxruntime.InferenceSession:
    """Return the ONNX Runtime session that runs an engine's network, with raw heads or detections as outputs."""
    content = model.read_bytes()
    return onnxruntime.InferenceSession(
        prepare(content, OPTIONS).model if raw else content, providers=["CPUExecutionProvider"]
    )
