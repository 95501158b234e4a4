"""Tests of real engines that TensorRT-RTX builds without a GPU; ``tests/retina_edge/test_build.py`` tests the verb."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

from engines.core.errors import BuildError, ModelFileError
from engines.core.machine import Machine, this_machine
from engines.tensorrt.backend import Backend, find_backend
from engines.tensorrt.build_monitor import Cancellation, make_monitor
from engines.tensorrt.build_options import BuildOptions
from engines.tensorrt.build_request import BuildRequest
from engines.tensorrt.builder import BuildReport, _configure, _lean_runtime, _precision_found, _use_dla, build_engine
from engines.tensorrt.passport import passport_path, read_engine, read_passport
from retina_edge.assets import MODEL

SM86 = BuildOptions(targets=("sm86",))
NO_GPU = Machine()
TENSORRT_RTX = find_backend("tensorrt-rtx", NO_GPU)


@pytest.fixture(scope="module")
def reports() -> list[tuple[float, str]]:
    """The progress that the build of ``built`` reported: the fraction that was done, and the step."""
    return []


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, reports: list[tuple[float, str]]) -> BuildReport:
    """Build the sample model for GPUs such as the RTX 3060."""
    engine = tmp_path_factory.mktemp("engine") / "model.engine"
    return build_engine(MODEL, engine, SM86, progress=lambda fraction, step: reports.append((fraction, step)))


@pytest.fixture(scope="module")
def small(small_models: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    """Build a small network, for tests that build it again; ``small.onnx`` lies beside the engine."""
    folder = tmp_path_factory.mktemp("small")
    shutil.copy(small_models / "fp32.onnx", folder / "small.onnx")
    return build_engine(folder / "small.onnx", folder / "small.engine", SM86)


def copied(report: BuildReport, folder: Path) -> tuple[Path, Path]:
    """Copy an engine and its passport into a folder; return the paths of its ONNX and of the copied engine."""
    for path in (report.engine, passport_path(report.engine)):
        shutil.copy(path, folder)
    return report.engine.with_suffix(".onnx"), folder / report.engine.name


def test_the_engine_file_is_only_the_plan_and_the_passport_describes_it(built: BuildReport) -> None:
    plan = built.engine.read_bytes()
    # The file begins with TensorRT's own tag, so that trtexec, Triton and DeepStream can load it.
    assert plan.startswith(b"vtrt")
    passport = read_passport(built.engine)
    assert passport == built.passport
    assert passport.plan_sha256 == hashlib.sha256(plan).hexdigest()
    assert passport.onnx_sha256 == hashlib.sha256(MODEL.read_bytes()).hexdigest()
    assert (passport.backend, passport.targets, passport.machine) == (
        "tensorrt-rtx",
        ("sm86",),
        this_machine(),
    )
    assert passport.precision_found["convolution"] == {"fp32": 61}
    assert passport.convolutions["head.classification_head.cls_logits:0"] == "fp32"
    assert passport.precision_source == "parsed network"
    assert passport.postprocess == "kernels"


def test_the_outputs_are_the_raw_heads_of_the_contract(built: BuildReport) -> None:
    contract = built.passport.contract
    assert [tensor["name"] for tensor in built.passport.outputs] == [
        f"{head}_{level}" for head in ("cls", "box") for level in range(len(contract.levels))
    ]
    shapes = [tuple(tensor["shape"]) for tensor in built.passport.outputs]
    assert shapes == [(1, 9 * rows, *level.feature_size) for rows in (1, 4) for level in contract.levels]
    (images,) = built.passport.inputs
    assert images == {"name": "images", "type": "uint8", "shape": [1, 416, 736, 3]}


def test_an_equal_request_builds_nothing(built: BuildReport, tmp_path: Path) -> None:
    before = built.engine.stat().st_mtime_ns
    again = build_engine(MODEL, built.engine, SM86)
    assert not again.built
    assert again.passport == built.passport
    assert built.engine.stat().st_mtime_ns == before
    renamed = tmp_path / "renamed.onnx"
    renamed.write_bytes(MODEL.read_bytes())
    assert not build_engine(renamed, built.engine, SM86).built


@pytest.mark.parametrize(
    "change",
    [
        lambda request: dataclasses.replace(request, options=dataclasses.replace(SM86, targets=("sm89",))),
        lambda request: dataclasses.replace(request, options=dataclasses.replace(SM86, optimization_level=2)),
        lambda request: dataclasses.replace(request, inputs={"onnx": "0" * 64}),
        lambda request: dataclasses.replace(request, backend=dataclasses.replace(request.backend, version="1.8.0.1")),
    ],
    ids=["target", "optimization level", "onnx", "version"],
)
def test_a_different_request_builds_again(built: BuildReport, change: Callable[[BuildRequest], BuildRequest]) -> None:
    digest = hashlib.sha256(MODEL.read_bytes()).hexdigest()
    request = BuildRequest.of(SM86, {"onnx": digest}, source="x", backend=TENSORRT_RTX, machine=NO_GPU)
    assert request.current(built.engine) is not None
    assert change(request).current(built.engine) is None


def test_an_engine_that_is_older_than_an_option_is_current(small: BuildReport, tmp_path: Path) -> None:
    model, engine = copied(small, tmp_path)
    values = json.loads(passport_path(engine).read_text())
    assert values["request"]["options"].pop("without_runtime") is False
    del values["lean_runtime"]
    passport_path(engine).write_text(json.dumps(values))
    assert not build_engine(model, engine, SM86).built


@pytest.mark.parametrize("suffix", ["engine", "engine.json"])
def test_a_damaged_engine_or_passport_is_not_current(small: BuildReport, tmp_path: Path, suffix: str) -> None:
    model, engine = copied(small, tmp_path)
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    request = BuildRequest.of(SM86, {"onnx": digest}, source="x", backend=TENSORRT_RTX, machine=NO_GPU)
    assert request.current(engine) == small.passport
    half = tmp_path / f"small.{suffix}"
    half.write_bytes(half.read_bytes()[:-10])
    assert request.current(engine) is None


def test_a_damaged_engine_or_force_builds_again(small: BuildReport, tmp_path: Path) -> None:
    model, engine = copied(small, tmp_path)
    engine.write_bytes(engine.read_bytes()[:-1])
    assert build_engine(model, engine, SM86).built
    assert not build_engine(model, engine, SM86).built
    assert build_engine(model, engine, SM86, force=True).built


@pytest.mark.usefixtures("built")
def test_progress_rises_to_the_end(reports: list[tuple[float, str]]) -> None:
    fractions = [fraction for fraction, _ in reports]
    assert fractions == sorted(fractions)
    assert len(set(fractions)) > 20
    assert fractions[-1] == 1.0
    assert "Building engine" in {step for _, step in reports}


def test_an_interruption_makes_the_monitor_stop_the_build() -> None:
    cancellation = Cancellation()
    monitor = make_monitor(TENSORRT_RTX.module, lambda *_: None, cancellation)
    monitor.phase_start("Building engine", None, 2)
    assert monitor.step_complete("Building engine", 0)
    cancellation.requested = True
    assert not monitor.step_complete("Building engine", 1)


@pytest.mark.parametrize(
    ("core", "cores", "able", "message"),
    [
        (0, 2, (True, True), None),
        (0, 0, (True, True), r"that TensorRT 10\.3\.0 can use, got a device without one; .*up to 10\.7.* without dla"),
        (2, 2, (True, True), "dla: expected a core below 2, this device's core count, got 2"),
        (
            1,
            2,
            (True, False),
            "dla: expected every convolution to run .* got 1 of 2 that would run on the GPU, first b",
        ),
    ],
)
def test_an_accelerator_must_run_every_convolution(
    core: int, cores: int, able: tuple[bool, ...], message: str | None
) -> None:
    """Use stand-ins, because this machine has no accelerator."""
    layers = [SimpleNamespace(name=name, type="LayerType.CONVOLUTION") for name in "ab"]
    layers.append(SimpleNamespace(name="cast", type="LayerType.CAST"))
    network: Any = SimpleNamespace(num_layers=3, get_layer=layers.__getitem__)
    can_run = dict(zip("ab", able, strict=True))
    flags: list[object] = []
    config: Any = SimpleNamespace(set_flag=flags.append, can_run_on_DLA=lambda layer: can_run[layer.name])
    module: Any = SimpleNamespace(
        __version__="10.3.0",
        DeviceType=SimpleNamespace(DLA="DLA"),
        BuilderFlag=SimpleNamespace(GPU_FALLBACK="GPU_FALLBACK"),
    )
    builder: Any = SimpleNamespace(num_DLA_cores=cores)
    if message is not None:
        with pytest.raises(BuildError, match=message):
            _use_dla(module, config, builder, network, core)
        return
    _use_dla(module, config, builder, network, core)
    assert (config.default_device_type, config.DLA_core, flags) == ("DLA", core, ["GPU_FALLBACK"])


@pytest.mark.parametrize(
    ("options", "host_code"),
    [
        (BuildOptions(), False),
        (BuildOptions(version_compatible=True), True),
        (BuildOptions(version_compatible=True, without_runtime=True), False),
    ],
)
@pytest.mark.parametrize("inspects", [False, True])
def test_the_builder_loads_its_own_engine_also_if_that_contains_a_runtime(
    options: BuildOptions, *, host_code: bool, inspects: bool
) -> None:
    """Use stand-ins, because only TensorRT itself builds such engines, and this machine has no GPU."""
    layer = {"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Row major linear FP32"}]}
    layers = json.dumps({"Layers": [layer]})
    inspector = SimpleNamespace(get_engine_information=lambda _form: layers)
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector if inspects else None)
    runtime: Any = SimpleNamespace(
        engine_host_code_allowed=False,
        deserialize_cuda_engine=lambda _plan: engine if runtime.engine_host_code_allowed is host_code else None,
    )
    module: Any = SimpleNamespace(
        Runtime=lambda _logger: runtime,
        LayerInformationFormat=SimpleNamespace(JSON="JSON"),
        ILogger=type("ILogger", (), {"ERROR": 1}),
    )
    backend = Backend("tensorrt", module, "10.16.1.11")
    request = BuildRequest.of(options, {}, source="x", backend=backend, machine=Machine("a GPU", "8.6", "580.0"))
    network: Any = SimpleNamespace(num_layers=0)
    _, source = _precision_found(request, network, b"plan")
    assert source == ("engine inspector" if inspects else "parsed network")


@pytest.mark.parametrize(
    ("options", "flags", "lean_runtime"),
    [
        (BuildOptions(), [], None),
        (BuildOptions(version_compatible=True), ["VERSION_COMPATIBLE"], "inside"),
        (
            BuildOptions(version_compatible=True, without_runtime=True),
            ["VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"],
            "separate",
        ),
    ],
)
def test_the_flags_of_a_version_compatible_engine_are_those_in_its_passport(
    options: BuildOptions, flags: list[str], lean_runtime: str | None
) -> None:
    """Use stand-ins, because TensorRT-RTX has no such flags; ``test_lean_runtime.py`` finds them in the real wheels."""
    found: list[str] = []
    config: Any = SimpleNamespace(set_flag=found.append)
    builder: Any = SimpleNamespace()
    module: Any = SimpleNamespace(
        BuilderFlag=SimpleNamespace(**{name: name for name in ("VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME")}),
        ProfilingVerbosity=SimpleNamespace(DETAILED="DETAILED"),
    )
    network: Any = SimpleNamespace(get_input=lambda _index: SimpleNamespace(shape=(1, 64, 96, 3)))
    backend = Backend("tensorrt", module, "10.16.1.11")
    request = BuildRequest.of(options, {}, source="x", backend=backend, machine=Machine("a GPU", "8.6", "580.0"))
    _configure(config, builder, network, request)
    assert (found, _lean_runtime(options)) == (flags, lean_runtime)


def damaged(*, drop_metadata: bool = False, drop_last_node: bool = False) -> bytes:
    """Return the sample model without its metadata, or without its last node."""
    model = onnx.load(MODEL)
    if drop_metadata:
        del model.metadata_props[:]
    if drop_last_node:
        del model.graph.node[-1:]
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (b"", ModelFileError, "expected an ONNX model, got"),
        (b"\x08\x07garbage", ModelFileError, "expected an ONNX model, got"),
        (damaged(drop_metadata=True), ModelFileError, "expected the contract in the ONNX metadata"),
        (damaged(drop_last_node=True), ModelFileError, r"expected one Decode and one NMS node .*got \['Decode'\]"),
    ],
)
def test_a_foreign_or_damaged_model_is_refused(
    tmp_path: Path, content: bytes, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build_engine(content, tmp_path / "m.engine", SM86)
    assert not list(tmp_path.iterdir())


def test_plugins_are_registered_before_the_network_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT is not installed here, so the test records only the calls that come first."""
    calls: list[object] = []

    def parse(*_: object) -> None:
        calls.append("parse")
        raise BuildError("stop here")

    monkeypatch.setattr("engines.tensorrt.builder.register", lambda _module, launches: calls.extend(launches))
    monkeypatch.setattr("engines.tensorrt.builder._parse", parse)
    backend = dataclasses.replace(TENSORRT_RTX, name="tensorrt", version="10.16.1.11")
    gpu = Machine("a GPU", "8.6", "580.0")
    for options, entries in (
        (BuildOptions(), ["filter_f32_4", "select_f32_4", "nms"]),
        (BuildOptions(postprocess="kernels"), []),
    ):
        request = BuildRequest.of(options, {"onnx": "0"}, source="x", backend=backend, machine=gpu)
        with pytest.raises(BuildError, match="stop here"):
            build_engine(MODEL, tmp_path / "m.engine", request=request)
        assert [getattr(item, "entry", item) for item in calls] == [*entries, "parse"]
        calls.clear()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions(precision="fp16"), "precision: expected an ONNX in fp16, got one in fp32"),
        (
            BuildOptions(batch=2),
            "batch: expected an ONNX of batch size 2, got one of 1; export it again with .*--batch 2",
        ),
        (BuildOptions(max_batch=4), "max_batch: expected an ONNX of any batch size, got one of 1"),
    ],
)
def test_an_onnx_that_does_not_fit_the_options_is_refused(tmp_path: Path, options: BuildOptions, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build_engine(MODEL, tmp_path / "m.engine", options)
    assert not list(tmp_path.iterdir())


def test_a_node_that_the_parser_refuses_is_named(tmp_path: Path) -> None:
    model = onnx.load(MODEL)
    pool = next(node for node in model.graph.node if node.op_type == "MaxPool")
    pool.op_type = "NoSuchOperator"
    with pytest.raises(BuildError, match=f"parser refuses the network: NoSuchOperator .{pool.name}."):
        build_engine(model.SerializeToString(), tmp_path / "m.engine", SM86)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_fails_before_the_build(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file"):
        build_engine(
            MODEL,
            tmp_path / "file" / "m.engine",
            SM86,
            progress=lambda *_: pytest.fail("the build must not begin"),
        )


def test_a_full_disk_leaves_the_old_engine(small: BuildReport, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, engine = copied(small, tmp_path)
    before = engine.read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        build_engine(model, engine, dataclasses.replace(SM86, targets=("sm89",)))
    assert engine.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.engine", "small.engine.json"]
    assert read_passport(engine).targets == ("sm86",)


@pytest.mark.parametrize("exists", [True, False])
def test_a_build_that_is_killed_between_engine_and_passport_leaves_a_whole_pair(
    small: BuildReport, tmp_path: Path, exists: bool
) -> None:
    model, engine = copied(small, tmp_path)
    if not exists:
        engine.unlink()
        Path(f"{engine}.json").unlink()
    code = f"""
import os, signal
from engines.tensorrt import builder
from engines.tensorrt.build_options import BuildOptions
class Killed:
    fsync = staticmethod(os.fsync)
    replace = staticmethod(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
builder.os = Killed
builder.build_engine({str(model)!r}, {str(engine)!r}, BuildOptions(targets=("sm89",)), force=True)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert read_engine(engine).targets == ("sm89",)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small.engine", "small.engine.json"]
    assert read_engine(engine).targets == ("sm89",)


def test_a_build_that_is_killed_before_the_engine_is_replaced_leaves_the_old_pair(
    small: BuildReport, tmp_path: Path
) -> None:
    _, engine = copied(small, tmp_path)
    other = dataclasses.replace(small.passport, plan_sha256="0" * 64)
    Path(f"{engine}.json.next").write_text(other.to_json())
    assert read_engine(engine) == small.passport
    Path(f"{engine}.json.next").write_text("{")
    assert read_engine(engine) == small.passport


def test_ctrl_c_during_the_build_leaves_no_file(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from engines.tensorrt.builder import build_engine
from engines.tensorrt.build_options import BuildOptions
def progress(fraction, step):
    if fraction > 0.3:
        os.kill(os.getpid(), signal.SIGINT)
try:
    build_engine({str(MODEL)!r}, {str(tmp_path / "m.engine")!r}, BuildOptions(targets=("sm86",)), progress=progress)
except KeyboardInterrupt:
    sys.exit(130)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 130, run.stderr
    assert not list(tmp_path.iterdir())
