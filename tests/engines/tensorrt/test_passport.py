"""Tests of the passport: the round trip, and the machines on which an engine must not be loaded."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from engines.core.errors import ContractError, DeviceError, ModelFileError
from engines.core.machine import Machine
from engines.tensorrt.compatibility import check_gpu, check_runs_here
from engines.tensorrt.model_description import _facts
from engines.tensorrt.passport import (
    Passport,
    passport_path,
    read_engine,
    read_passport,
    rebuild_command,
)
from tests.hostile import accepted, damaged
from tests.json_path import MISSING, put_at
from tests.stand_in import contract

PLAN = b"a plan is what TensorRT says it is"
ORIN = Machine("Orin", "8.7", "540.4.0", "JetPack 6.2")
RTX_4090 = Machine("NVIDIA GeForce RTX 4090", "8.9", "580.1")
OPTIONAL = ("accuracy", "lean_runtime", "checked")  # fields that older passports lack
T4 = Machine("Tesla T4", "7.5", "580.1")
H200 = Machine("NVIDIA H200", "9.0", "580.159.04")


def passport(**changes: Any) -> Passport:
    """Return the passport of an engine that TensorRT built on an Orin."""
    values: dict[str, Any] = {
        "contract": contract(),
        "plan_sha256": hashlib.sha256(PLAN).hexdigest(),
        "plan_bytes": len(PLAN),
        "onnx_sha256": "0" * 64,
        "request": {"source": "model.pt", "options": {"version_compatible": False, "hardware_compatible": False}},
        "backend": "tensorrt",
        "backend_version": "10.3.0.30",
        "targets": (),
        "machine": ORIN,
        "precision_asked": "fp16",
        "precision_found": {"convolution": {"fp16": 3}},
        "precision_source": "engine inspector",
        "convolutions": {"conv1": "fp16"},
        "postprocess": "kernels",
        "inputs": ({"name": "images", "type": "uint8", "shape": [1, 64, 96, 3]},),
        "outputs": ({"name": "cls_0", "type": "half", "shape": [1, 2, 8, 12]},),
        "batch": (1, 1, 1),
        "quantization": None,
        "verified": None,
        "build_seconds": 1.5,
        "built_at": "2026-11-24T00:00:00+00:00",
    }
    return Passport(**{**values, **changes})


def write(folder: Path, **changes: Any) -> Path:
    engine = folder / "model.engine"
    engine.write_bytes(PLAN)
    passport_path(engine).write_text(passport(**changes).to_json())
    return engine


def check_engine(engine: Path, **loading: Any) -> Passport:
    """Check an engine as the runner does before it loads one."""
    checked = read_engine(engine)
    check_runs_here(checked, engine, **loading)
    return checked


def test_json_round_trip_is_exact() -> None:
    assert Passport.from_json(passport().to_json()) == passport()


def test_an_engine_may_be_loaded_on_the_machine_that_built_it(tmp_path: Path) -> None:
    engine = write(tmp_path)
    assert check_engine(engine, backend="tensorrt", version="10.3.0.30", machine=ORIN) == passport()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": RTX_4090}, r"compute capability 8\.7, like Orin, which .* found NVIDIA GeForce RTX 4090 .*8\.9"),
        ({"version": "10.16.1.11"}, r"expected tensorrt 10\.3\.0\.30, which built the engine, got 10\.16\.1\.11"),
        ({"backend": "tensorrt-rtx", "version": "1.7"}, "expected tensorrt, which built the engine, got tensorrt-rtx"),
    ],
)
def test_another_gpu_or_tensorrt_is_refused_with_the_command_that_fixes_it(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    engine = write(tmp_path)
    loading = {"backend": "tensorrt", "version": "10.3.0.30", "machine": ORIN, **changes}
    with pytest.raises(DeviceError, match=message) as raised:
        check_engine(engine, **loading)
    assert f"retina-edge build model.pt -o {engine} --precision fp16 --force" in str(raised.value)


def test_without_a_gpu_no_command_is_recommended(tmp_path: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"expected an NVIDIA GPU, .* found none; on this machine, use the ONNX"
    ) as raised:
        check_gpu(passport(), tmp_path / "model.engine", Machine())
    assert "retina-edge build" not in str(raised.value)


def test_an_engine_of_tensorrt_rtx_on_a_gpu_that_it_does_not_support_is_built_again_with_tensorrt(
    tmp_path: Path,
) -> None:
    portable = passport(backend="tensorrt-rtx", targets=("portable",))
    check_gpu(portable, tmp_path / "model.engine", RTX_4090)
    with pytest.raises(
        DeviceError, match=r"found NVIDIA H200 .*9\.0.*; use TensorRT on this GPU: retina-edge"
    ) as raised:
        check_gpu(portable, tmp_path / "model.engine", H200)
    assert "tensorrt-rtx" not in str(raised.value)
    check_gpu(passport(), tmp_path / "model.engine", H200)  # an engine of TensorRT is compared with its GPU later


def test_the_command_names_tensorrt_rtx(tmp_path: Path) -> None:
    engine = write(tmp_path, backend="tensorrt-rtx", backend_version="1.7", targets=("sm89",))
    with pytest.raises(DeviceError, match=r"expected a GPU of sm89, .* --backend tensorrt-rtx --force"):
        check_engine(engine, backend="tensorrt-rtx", version="1.7", machine=ORIN)


def test_the_command_for_int8_asks_for_a_calibration_set(tmp_path: Path) -> None:
    engine = write(tmp_path, precision_asked="int8")
    with pytest.raises(DeviceError, match="--precision int8 --calibration DIR"):
        check_engine(engine, backend="tensorrt", version="10.3.0.30", machine=T4)


def test_int8_that_was_calibrated_in_the_build_is_calibrated_again() -> None:
    calibrated = {"source": "model.pt", "inputs": {"calibration": "0" * 64}}
    ranges = {"images": 64}
    assert "--calibration DIR" in rebuild_command(
        passport(precision_asked="int8", quantization=ranges, request=calibrated), "model.engine"
    )
    # For an ONNX that was INT8 before, ``build`` takes no calibration set.
    given = {"source": "model.onnx", "inputs": {"model": "0" * 64}}
    assert "--calibration" not in rebuild_command(
        passport(precision_asked="int8", quantization=ranges, request=given), "model.engine"
    )


def test_the_command_that_builds_again_keeps_batches_and_gpus_and_quotes_names() -> None:
    request = {"source": "my model.pt", "options": {"hardware_compatible": True}}
    assert rebuild_command(passport(request=request, batch=(1, 4, 8)), "out dir/model.engine") == (
        "retina-edge build 'my model.pt' -o 'out dir/model.engine' --precision fp16 --batch 4 --max-batch 8 "
        "--hardware-compatible --force"
    )
    assert "--batch 4 --force" in rebuild_command(passport(batch=(4, 4, 4)), "model.engine")


def test_a_compatible_engine_runs_on_other_gpus_and_later_versions(tmp_path: Path) -> None:
    request = {"source": "model.pt", "options": {"version_compatible": True, "hardware_compatible": True}}
    engine = write(tmp_path, request=request, lean_runtime="inside")
    check_engine(engine, backend="tensorrt", version="10.16.1.11", machine=RTX_4090)
    check_engine(engine, backend="tensorrt", version="11.4.0.106", machine=RTX_4090)
    for version, machine in (("10.1.0", ORIN), ("10.3.0.30", T4)):
        with pytest.raises(DeviceError):
            check_engine(engine, backend="tensorrt", version=version, machine=machine)


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-lean"])
@pytest.mark.parametrize(
    ("lean_runtime", "version", "message"),
    [
        ("inside", "10.3.0.30", ""),
        ("inside", "10.3.0", ""),
        ("inside", "10.16.1.11", ""),
        ("inside", "11.4.0.106", ""),
        ("inside", "10.1.0.27", r"expected {} 10\.3\.0\.30 or later, got 10\.1\.0\.27; .*cu13>=10\.3\.0\.30'"),
        ("separate", "10.3.0.30", ""),
        ("separate", "10.3.0", ""),
        (
            "separate",
            "10.16.1.11",
            r"expected {} 10\.3\.0\.30, because .* its builder, got 10\.16\.1\.11; .*cu13==10\.3\.0\.30'",
        ),
        ("separate", "10.1.0.27", r"expected {} 10\.3\.0\.30, because .*, got 10\.1\.0\.27; .*cu13==10\.3\.0\.30'"),
    ],
)
def test_a_compatible_engine_needs_the_version_that_its_runtime_allows(
    tmp_path: Path, backend: str, lean_runtime: str, version: str, message: str
) -> None:
    engine = write(tmp_path, lean_runtime=lean_runtime)
    loading = {"backend": backend, "version": version, "machine": ORIN}
    if not message:
        check_engine(engine, **loading)
        return
    lean = backend == "tensorrt-lean"
    message = message.format(backend)
    message = message if lean else message.partition(";")[0]
    with pytest.raises(DeviceError, match=message) as raised:
        check_engine(engine, **loading)
    assert ("install it with pip install" in str(raised.value)) is lean


def test_the_lean_runtime_refuses_other_engines_and_says_where_to_build_one(tmp_path: Path) -> None:
    engine = write(tmp_path)
    with pytest.raises(
        DeviceError,
        match=r"expected an engine of build --version-compatible for tensorrt-lean, got one that only tensorrt "
        r"10\.3\.0\.30 runs; install TensorRT 10\.3\.0\.30, or build it again on a machine with TensorRT and a GPU "
        "like this one, with retina-edge build model.pt .* --version-compatible --force",
    ):
        check_engine(engine, backend="tensorrt-lean", version="10.3.0.30", machine=ORIN)
    engine = write(tmp_path, lean_runtime="separate")
    with pytest.raises(
        DeviceError, match=r"expected a GPU .*8\.9\); build it again on .* --version-compatible --force"
    ):
        check_engine(engine, backend="tensorrt-lean", version="10.3.0.30", machine=RTX_4090)


def test_the_version_of_a_wheel_is_complete_also_if_that_of_the_builder_is_not(tmp_path: Path) -> None:
    engine = write(tmp_path, lean_runtime="separate", backend_version="10.3.0")
    check_engine(engine, backend="tensorrt-lean", version="10.3.0.30", machine=ORIN)
    with pytest.raises(DeviceError, match=r"pip install 'tensorrt-lean-cu13==10\.3\.0\.\*'"):
        check_engine(engine, backend="tensorrt-lean", version="10.16.1.11", machine=ORIN)


@pytest.mark.parametrize(
    ("targets", "machine", "fits"),
    [
        (("portable",), RTX_4090, True),
        (("portable",), T4, False),
        (("portable",), H200, False),
        (("portable",), ORIN, False),
        (("sm75", "sm89"), RTX_4090, True),
        (("sm75", "sm89"), T4, True),
        (("sm75", "sm89"), ORIN, False),
        (("portable",), Machine(), False),
    ],
)
def test_an_engine_of_tensorrt_rtx_runs_only_on_its_targets(
    tmp_path: Path, targets: tuple[str, ...], machine: Machine, fits: bool
) -> None:
    engine = write(tmp_path, backend="tensorrt-rtx", backend_version="1.7.1.116", targets=targets, machine=Machine())
    loading = {"backend": "tensorrt-rtx", "version": "1.7.1.116", "machine": machine}
    if fits:
        check_engine(engine, **loading)
    else:
        with pytest.raises(DeviceError, match="which the engine was built for"):
            check_engine(engine, **loading)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"backend": "tensorrt-rtx", "targets": ("portable",)},
            "a desktop GPU of .* 8.0, 8.6, 8.9 or 12.x .not a Jetson.",
        ),
        ({"backend": "tensorrt-rtx", "targets": ("sm75", "sm89")}, "a GPU of sm75 or sm89"),
        ({}, "a GPU of compute capability 8.7, like Orin"),
        ({"request": {"options": {"hardware_compatible": True}}}, "a GPU of compute capability 8.0 or higher"),
    ],
)
def test_a_passport_names_the_gpus_that_run_the_engine(changes: dict[str, Any], text: str) -> None:
    written = json.loads(passport(**changes).to_json())
    assert re.fullmatch(text, written["runs_on"])
    older = json.dumps({name: value for name, value in written.items() if name != "runs_on"})
    assert Passport.from_json(older) == Passport.from_json(json.dumps(written)) == passport(**changes)


def test_a_damaged_engine_does_not_match_its_passport(tmp_path: Path) -> None:
    engine = write(tmp_path)
    engine.write_bytes(PLAN[:-1])
    with pytest.raises(
        ModelFileError, match=r"34 bytes.*got .* 33 bytes: the file is damaged or was replaced; build it again"
    ):
        check_engine(engine, backend="tensorrt", version="10.3.0.30", machine=ORIN)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1}'])
def test_a_damaged_passport_is_refused(tmp_path: Path, text: str) -> None:
    engine = write(tmp_path)
    passport_path(engine).write_text(text)
    with pytest.raises(ModelFileError, match=r"model.engine.json: .*build the engine again"):
        read_passport(engine)


def nested(depth: int) -> dict[str, Any]:
    return {"x": nested(depth - 1)} if depth else {}


def changed(path: str, value: Any) -> str:
    """Return the JSON of the passport with another value at a path such as ``inputs.0.shape``; None removes the key."""
    values = json.loads(passport().to_json())
    put_at(values, path, MISSING if value is None else value)
    return json.dumps(values)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("plan_sha256", 7, "passport: plan_sha256: expected text, got 7"),
        ("plan_bytes", True, "passport: plan_bytes: expected an integer, got True"),
        ("plan_bytes", "34", "passport: plan_bytes: expected an integer, got '34'"),
        ("build_seconds", "1.5", "passport: build_seconds: expected a finite number, got '1.5'"),
        ("contract", [], r"passport: contract: expected an object, got \[\]"),
        ("contract", {}, "contract: expected schema 1"),
        ("request", [], r"passport: request: expected an object, got \[\]"),
        ("request.source", 1, "passport: request.source: expected text, got 1"),
        ("request.inputs", ["onnx"], r"passport: request.inputs: expected an object, got \['onnx'\]"),
        ("request.options", [], r"passport: request.options: expected an object, got \[\]"),
        ("request.options.hardware_compatible", "no", "hardware_compatible: expected true or false, got 'no'"),
        ("targets", "sm86", "passport: targets: expected a list, got 'sm86'"),
        ("targets", [86], r"passport: targets\[0\]: expected text, got 86"),
        ("machine", {"gpu": "a", "tpu": "b"}, r"passport: machine: expected other fields: unknown \['tpu'\]"),
        ("machine.gpu", 1, "passport: machine.gpu: expected text, got 1"),
        ("machine.compute_capability", "Orin", "machine.compute_capability: expected a number such as 8.7, got 'Orin'"),
        ("precision_found", "fp16", "passport: precision_found: expected an object, got 'fp16'"),
        ("precision_found.convolution", "fp16", "precision_found.convolution: expected an object, got 'fp16'"),
        ("precision_found.convolution.fp16", 1.5, "precision_found.convolution.fp16: expected an integer, got 1.5"),
        ("convolutions", ["conv1"], r"passport: convolutions: expected an object, got \['conv1'\]"),
        ("convolutions.conv1", 16, "passport: convolutions.conv1: expected text, got 16"),
        ("inputs", {}, r"passport: inputs: expected a list, got \{\}"),
        ("inputs.0", "images", r"passport: inputs\[0\]: expected an object, got 'images'"),
        ("inputs.0.type", None, r"passport: inputs\[0\]: expected other fields: missing \['type'\]"),
        ("outputs.0.shape", 3, r"passport: outputs\[0\].shape: expected a list, got 3"),
        ("outputs.0.shape.2", "N", r"passport: outputs\[0\].shape\[2\]: expected an integer, got 'N'"),
        ("batch", 1, "passport: batch: expected a list, got 1"),
        ("batch", [1, 4], "passport: batch: expected the smallest, the tuned and the largest size, got "),
        ("backend_version", "newest", "passport: backend_version: expected a version such as 10.3.0, got 'newest'"),
        ("postprocess", "none", "passport: postprocess: expected plugin or kernels, got 'none'"),
        ("quantization", [], r"passport: quantization: expected an object, got \[\]"),
        ("lean_runtime", True, "passport: lean_runtime: expected text, got True"),
        ("lean_runtime", "outside", "passport: lean_runtime: expected inside, separate or null, got 'outside'"),
        ("verified", None, r"passport: expected other fields: missing \['verified'\]"),
        ("built_at", None, r"passport: expected other fields: missing \['built_at'\]"),
        ("batch", [4, 1, 1], "passport: batch: expected the smallest, the tuned and the largest size, got "),
        ("plan_bytes", 10**400, "passport: plan_bytes: expected an integer, got 1000"),
        ("build_seconds", math.nan, "passport: build_seconds: expected a finite number, got nan"),
        ("machine.compute_capability", "9" * 5000 + ".0", "compute_capability: expected a number such as 8.7"),
        ("quantization", {"kept": [1]}, r"passport: quantization.kept\[0\]: expected text, got 1"),
        ("accuracy", {"ap": 1}, r"passport: accuracy: expected other fields: missing \['ap_fp32', 'budget'"),
        ("verified", nested(20), "passport: verified.x: expected at most 16 levels of lists and objects, got more"),
        ("request.options.hardware_compatible", 1, "hardware_compatible: expected true or false, got 1"),
    ],
)
def test_a_damaged_field_is_named(tmp_path: Path, path: str, value: Any, message: str) -> None:
    engine = write(tmp_path)
    passport_path(engine).write_text(changed(path, value))
    with pytest.raises(ModelFileError, match=rf"model.engine.json: .*{message}.*; build the engine again with"):
        read_passport(engine)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Passport) if field.name not in OPTIONAL])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(ContractError, match=f"passport: expected other fields: missing .'{field}'."):
        Passport.from_json(changed(field, None))


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(ContractError) as caught:
        Passport.from_json(changed("backend", ["tensorrt"] * 1000))
    assert len(str(caught.value)) < 150


@pytest.mark.parametrize("version", ["10", "10.3.0.dev1+cu13", "9" * 5000])
def test_any_version_can_be_compared(version: str) -> None:
    read = Passport.from_json(changed("backend_version", version))
    with pytest.raises(DeviceError, match="expected tensorrt"):
        check_runs_here(read, "model.engine", backend="tensorrt", version="10.3.0.30", machine=ORIN)


@settings(max_examples=200, deadline=None)
@given(damaged(json.loads(passport(verified={"detections": 3}).to_json())))
def test_a_damaged_passport_is_refused_or_usable(text: str) -> None:
    read = accepted(lambda: Passport.from_json(text))
    if read is None:
        return
    assert Passport.from_json(read.to_json()).to_json() == read.to_json()
    assert all(isinstance(fact, str) for fact in _facts(read).values())
    for backend in ("tensorrt", "tensorrt-rtx", "tensorrt-lean"):
        with suppress(DeviceError):
            check_runs_here(read, "model.engine", backend=backend, version="10.3.0.30", machine=ORIN)


def test_a_file_that_is_far_too_long_is_not_read_to_its_end(tmp_path: Path) -> None:
    engine = write(tmp_path)
    with passport_path(engine).open("r+b") as file:
        file.truncate(1 << 40)  # a hole, which takes no space
    with pytest.raises(ModelFileError, match="passport: expected JSON"):
        read_passport(engine)


def test_passports_without_the_optional_parts_are_read() -> None:
    values = json.loads(passport(request={}, machine=Machine()).to_json())
    del values["accuracy"], values["lean_runtime"], values["machine"]["jetpack"]
    assert Passport.from_json(json.dumps(values)) == passport(request={}, machine=Machine())


def test_an_older_passport_of_a_version_compatible_engine_has_the_runtime_inside() -> None:
    compatible = {"options": {"version_compatible": True}}
    values = json.loads(passport(request=compatible, lean_runtime="separate").to_json())
    assert Passport.from_json(json.dumps(values)).lean_runtime == "separate"
    del values["lean_runtime"]
    assert Passport.from_json(json.dumps(values)) == passport(request=compatible, lean_runtime="inside")


@pytest.mark.parametrize(
    ("lean_runtime", "words", "options"),
    [
        (None, "tensorrt 10.3.0.30", "--precision fp16 --force"),
        ("inside", "TensorRT or its lean runtime, 10.3.0.30 or later", "--precision fp16 --version-compatible --force"),
        (
            "separate",
            "TensorRT or its lean runtime, 10.3.0.30",
            "--precision fp16 --version-compatible --without-runtime --force",
        ),
    ],
)
def test_a_passport_names_the_libraries_that_run_the_engine(lean_runtime: str | None, words: str, options: str) -> None:
    read = passport(lean_runtime=lean_runtime)
    assert read.runs_with == _facts(read)["runs with"] == words
    assert rebuild_command(read, "model.engine") == f"retina-edge build model.pt -o model.engine {options}"


def test_missing_files_are_named(tmp_path: Path) -> None:
    engine = write(tmp_path)
    passport_path(engine).unlink()
    with pytest.raises(ModelFileError, match="expected the engine's passport, found none; copy it along"):
        check_engine(engine, backend="tensorrt", version="10.3.0.30", machine=ORIN)
    with pytest.raises(ModelFileError, match="expected an engine, found none; make it with retina-edge build"):
        check_engine(tmp_path / "other.engine", backend="tensorrt", version="10.3.0.30", machine=ORIN)


def test_the_docstring_describes_every_field() -> None:
    assert Passport.__doc__ is not None
    for field in dataclasses.fields(Passport):
        assert field.name in Passport.__doc__
