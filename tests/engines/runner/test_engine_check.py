"""A built engine is run and compared with ONNX Runtime; one that finds other things is not written.

The engines run on the stand-ins of this folder, so their times mean nothing.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import pytest

from engines.core.errors import BuildError
from engines.core.machine import Machine
from engines.tensorrt.backend import TENSORRT_RTX, find_backend
from engines.tensorrt.build_options import KERNELS, BuildOptions
from engines.tensorrt.build_request import BuildRequest
from engines.tensorrt.builder import build_engine
from engines.tensorrt.passport import Passport, passport_path, read_engine, read_passport
from retina_edge.api import engine_check
from retina_edge.api.engine_check import (
    DECIBELS,
    MILLISECONDS,
    NOT_RUN,
    SHARE,
    SPEEDUP,
    EngineCheck,
    find_fp16,
    is_checked,
)
from retina_edge.api.verification_images import sample_images
from tests.engines.plugins.emulated import needs_compiler
from tests.engines.runner.world import HERE, KINDS, World

pytestmark = needs_compiler
few_kinds = pytest.mark.parametrize("any_world", [kind for kind in KINDS if "fixed batch" not in kind], indirect=True)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WARM_UP_SECONDS": 0.0, "SECONDS": 0.0, "RUNS": 1}.items():
        monkeypatch.setattr(engine_check, name, value)


def images_of(passport: Passport) -> list[npt.NDArray[np.uint8]]:
    return sample_images(passport.contract.input_size)


def check(world: World, model: bytes, **changes: Any) -> dict[str, Any]:
    passport = read_passport(world.engine)
    return EngineCheck(model, images_of(passport), world.trt.backend(), **changes)(world.engine, passport)


@few_kinds
def test_an_engine_that_finds_the_same_is_recorded(any_world: World, engine: Path) -> None:
    before = sorted(any_world.engine.parent.iterdir())
    record = check(any_world, engine.with_suffix(".onnx").read_bytes())
    assert record["compared with"] == "ONNX Runtime on the CPU"
    assert (record["images"], record["batch"]) == (4, 1)
    assert record["sure boxes"] > 3  # the tiny model finds few
    assert record[SHARE] == 1.0
    assert record["mean displacement px"] < 0.01
    assert record[MILLISECONDS] > 0
    raw = read_passport(any_world.engine).postprocess == KERNELS
    assert (DECIBELS in record) is raw
    if raw:
        assert record[DECIBELS] > 100  # the stand-in is ONNX Runtime, too
    any_world.check_nothing_is_left()
    assert sorted(any_world.engine.parent.iterdir()) == before  # also no cache of a plan that has no name yet


def other_network(model: Path, factor: float) -> bytes:
    """Return a model whose last class logits are scaled."""
    loaded = onnx.load(model)
    biases = [item for item in loaded.graph.initializer if "cls_logits" in item.name and "bias" in item.name]
    assert biases
    for item in biases:
        array = onnx.numpy_helper.to_array(item)
        item.CopyFrom(onnx.numpy_helper.from_array((array * factor).astype(array.dtype), item.name))
    return bytes(loaded.SerializeToString())


@few_kinds
def test_an_engine_of_another_network_is_refused(any_world: World, engine: Path) -> None:
    other = other_network(engine.with_suffix(".onnx"), 0.5)
    with pytest.raises(
        BuildError, match=r"finds other things than ONNX Runtime .*, so it was not written: expected a "
    ):
        check(any_world, other)
    any_world.check_nothing_is_left()


def test_an_engine_that_does_not_run_is_refused(world: World, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world.trt, "Runtime", lambda _logger: _NoEngine())
    with pytest.raises(BuildError, match=r"was built, but does not run here, so it was not written: .*--no-check"):
        check(world, engine.with_suffix(".onnx").read_bytes())


class _NoEngine:
    """TensorRT's runtime, which refuses every plan."""

    def deserialize_cuda_engine(self, _plan: bytes) -> None:
        return None


def test_int8_is_measured_in_turn_with_fp16(world: World, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def measure(executors: list[Any], _batch: object) -> list[float]:
        measured.append(len(executors))
        return [2.0, 2.1]

    monkeypatch.setattr(engine_check, "_measure", measure)
    record = check(world, engine.with_suffix(".onnx").read_bytes(), fp16=world.engine)
    assert measured == [2]
    assert (record[MILLISECONDS], record["FP16 network ms"], record[SPEEDUP]) == (2.0, 2.1, 1.05)
    assert "only 1.05 times as fast as FP16" in engine_check.slow_int8(record)
    assert engine_check.slow_int8({SPEEDUP: 1.6}) == engine_check.slow_int8(None) == ""
    world.check_nothing_is_left()


def test_networks_are_measured_in_turn(world: World, engine: Path) -> None:
    record = check(world, engine.with_suffix(".onnx").read_bytes(), fp16=world.engine)
    assert record["FP16 network ms"] > 0
    world.check_nothing_is_left()


def test_an_fp16_engine_of_the_same_model_is_found(world: World) -> None:
    passport, backend = read_passport(world.engine), world.trt.backend()
    options = BuildOptions(precision="int8", batch=passport.batch[1], targets=("sm86",))
    request = BuildRequest(options, backend, HERE, passport.request["inputs"], "model.onnx")
    int8 = world.engine.with_name("other.engine")
    assert find_fp16(int8, request) is None  # the only engine is FP32
    half = dataclasses.replace(passport, precision_asked="fp16", request={"inputs": {"model": "digest"}})
    passport_path(world.engine).write_text(half.to_json())
    assert find_fp16(int8, dataclasses.replace(request, inputs={"model": "another"})) is None
    request = dataclasses.replace(request, inputs={"model": "digest"})
    assert find_fp16(int8, request) == world.engine
    another_gpu = dataclasses.replace(request, machine=Machine("NVIDIA GeForce RTX 4090", "8.9", "580.95", ""))
    assert find_fp16(int8, another_gpu) is None


@pytest.mark.parametrize(
    ("record", "checked", "compared"),
    [(None, True, False), ({NOT_RUN: "no GPU"}, False, False), ({}, True, False), ({SPEEDUP: 1.5}, True, True)],
)
def test_what_an_existing_engine_lacks_is_told(
    engine: Path, record: dict[str, Any] | None, checked: bool, compared: bool
) -> None:
    passport = dataclasses.replace(read_passport(engine), checked=record)
    assert is_checked(passport, compare_fp16=False) is checked
    assert is_checked(passport, compare_fp16=True) is compared


@pytest.mark.parametrize(
    ("machine", "targets", "reason"),
    [
        (Machine(), ("portable",), "this machine has no NVIDIA GPU"),
        (HERE, ("sm89",), "the engine is for sm89, and the GPU of this machine is NVIDIA GeForce RTX 3090"),
        (HERE, ("sm86",), "pycuda is not installed"),
        (HERE, ("current",), "pycuda is not installed"),
    ],
)
def test_why_an_engine_is_not_run_is_told(
    machine: Machine, targets: tuple[str, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    backend = find_backend(TENSORRT_RTX, Machine())
    request = BuildRequest(BuildOptions(targets=targets), backend, machine, {}, "model.onnx")
    assert engine_check.why_not_here(request) == reason


def test_the_builder_keeps_the_record_and_writes_nothing_after_a_failed_check(tmp_path: Path, engine: Path) -> None:
    model, path = engine.with_suffix(".onnx"), tmp_path / "model.engine"
    options = BuildOptions(backend=TENSORRT_RTX, targets=("sm86",))
    seen: list[tuple[int, int]] = []

    def look(plan: Path, passport: Passport) -> dict[str, str]:
        seen.append((plan.stat().st_size, passport.plan_bytes))
        assert plan.parent == tmp_path
        assert not path.exists()
        return {NOT_RUN: "a test"}

    def fail(*_: object) -> dict[str, str]:
        raise BuildError("other things")

    with pytest.raises(BuildError, match="other things"):
        build_engine(model, path, options, check=fail)
    assert list(tmp_path.iterdir()) == []
    assert build_engine(model, path, options, check=look).passport.checked == {NOT_RUN: "a test"}
    assert read_engine(path).checked == {NOT_RUN: "a test"}
    assert seen == [(path.stat().st_size, path.stat().st_size)]
