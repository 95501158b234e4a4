"""Tests of the choice of the backend, of its errors, and of the build options. TensorRT-RTX is the real library."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from engines.core.errors import BuildError, DeviceError, MissingDependencyError
from engines.core.machine import Machine
from engines.tensorrt.backend import Backend, find_backend, find_runtime
from engines.tensorrt.build_options import BuildOptions

NO_GPU, L4, H200 = Machine(), Machine("NVIDIA L4", "8.9"), Machine("NVIDIA H200", "9.0")
ORIN = Machine("Orin", "8.7", "540.4.0", "JetPack 6.2")
MODULE: Any = None
TRT = Backend("tensorrt", MODULE, "10.16.1.11")
RTX = Backend("tensorrt-rtx", MODULE, "1.7.1.116")


def tensorrt(version: str) -> types.ModuleType:
    module = types.ModuleType("tensorrt")
    module.__version__ = version  # type: ignore[attr-defined]
    module.Builder = object  # type: ignore[attr-defined]
    return module


def lean(version: str) -> types.ModuleType:
    """Return a stand-in for the lean runtime, which has no builder; ``test_lean_runtime.py`` has the real one."""
    module = types.ModuleType("tensorrt_lean")
    module.__version__ = version  # type: ignore[attr-defined]
    module.Runtime = object  # type: ignore[attr-defined]
    return module


def test_auto_chooses_tensorrt_rtx_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt("10.16.1"))
    backend = find_backend("auto", NO_GPU)
    assert backend.name == "tensorrt-rtx"
    assert backend.version == backend.module.__version__


def test_auto_chooses_tensorrt_if_it_is_installed_and_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt("10.16.1"))
    assert find_backend("auto", ORIN).name == "tensorrt"


def test_type_stubs_are_not_taken_for_tensorrt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))
    assert find_backend("auto", ORIN).name == "tensorrt-rtx"
    with pytest.raises(
        MissingDependencyError,
        match=r"found none; install it with sudo apt-get install nvidia-jetpack, .*--system-site-packages",
    ):
        find_backend("tensorrt", ORIN)


@pytest.mark.parametrize(
    ("machine", "advice"),
    [
        (NO_GPU, r"edge\[tensorrt-rtx\]'.*needs no GPU"),
        (ORIN, "sudo apt-get install nvidia-jetpack"),
        (L4, r"found neither; install one with pip install 'retina-edge\[tensorrt\]'"),
    ],
)
def test_without_a_backend_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, advice: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match=advice):
        find_backend("auto", machine)
    advice = "on a Jetson, build and run engines with the backend tensorrt" if machine.jetpack else "install it with"
    with pytest.raises(MissingDependencyError, match=f"found none; .*{advice}"):
        find_backend("tensorrt-rtx", machine)


def test_tensorrt_without_a_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt("10.16.1"))
    with pytest.raises(DeviceError, match=r"expected an NVIDIA GPU.*backend tensorrt-rtx"):
        find_backend("tensorrt", NO_GPU)


def test_an_old_tensorrt_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt("8.6.1.6"))
    for name in ("auto", "tensorrt"):
        with pytest.raises(DeviceError, match=r"expected 10\.3 or newer.*got 8\.6\.1\.6"):
            find_backend(name, ORIN)


def test_a_broken_installation_is_not_taken_for_a_missing_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "tensorrt"
    package.mkdir()
    (package / "__init__.py").write_text("import tensorrt_libs_that_are_missing")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(MissingDependencyError, match="tensorrt does not load: No module named"):
        find_backend("tensorrt", ORIN)


def test_the_lean_runtime_stands_in_for_tensorrt_only_if_tensorrt_is_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Machine("NVIDIA L4", "8.9")
    monkeypatch.setitem(sys.modules, "tensorrt_lean", lean("11.4.0.106"))
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt("10.16.1"))
    assert find_runtime("tensorrt", gpu, lean=True).name == "tensorrt"
    monkeypatch.setitem(sys.modules, "tensorrt", types.ModuleType("tensorrt"))  # type stubs
    backend = find_runtime("tensorrt", gpu, lean=True)
    assert (backend.name, backend.version, backend.is_lean) == ("tensorrt-lean", "11.4.0.106", True)
    # Its passport refuses an engine that is not version-compatible, so here it makes no difference.
    assert find_runtime("tensorrt", gpu, lean=False) == backend
    assert find_runtime("tensorrt-rtx", gpu, lean=False).name == "tensorrt-rtx"
    # It builds nothing.
    with pytest.raises(MissingDependencyError, match=r"backend tensorrt: expected TensorRT, found none"):
        find_backend("tensorrt", gpu)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", lean("8.6.1"))
    with pytest.raises(DeviceError, match=r"expected 10\.3 or newer.*got 8\.6\.1"):
        find_runtime("tensorrt", gpu, lean=True)


@pytest.mark.parametrize(
    ("compatible", "machine", "message"),
    [
        (
            True,
            Machine("NVIDIA L4", "8.9"),
            r"found neither; install the lean runtime with .*edge\[lean\]', or TensorRT",
        ),
        (False, Machine("NVIDIA L4", "8.9"), r"expected TensorRT, found none; install it with .*edge\[tensorrt\]'"),
        (True, ORIN, "expected TensorRT, found none; install it with sudo apt-get install nvidia-jetpack"),
    ],
)
def test_without_a_library_that_runs_the_engine_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, machine: Machine, message: str, *, compatible: bool
) -> None:
    for module in ("tensorrt", "tensorrt_lean"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=message):
        find_runtime("tensorrt", machine, lean=compatible)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="expected auto, tensorrt or tensorrt-rtx, got 'openvino'"):
        find_backend("openvino", NO_GPU)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf16"}, "precision: expected one of fp32, fp16, int8, got bf16"),
        ({"batch": 0}, "batch: expected at least 1, got 0"),
        ({"batch": 1.5}, "batch: expected an integer, got 1.5"),
        ({"max_batch": "8"}, "max_batch: expected an integer, got '8'"),
        ({"backend": "openvino"}, "backend: expected one of auto, tensorrt, tensorrt-rtx, got openvino"),
        ({"batch": 4, "max_batch": 2}, r"max_batch: expected at least 4 \(the batch\), got 2"),
        ({"targets": ("sm60",)}, "targets: expected one of sm75, .*portable, current, got sm60"),
        ({"targets": ("sm86", "portable")}, "at most once, and portable or current alone"),
        ({"targets": ("sm86", "sm86")}, "each architecture at most once"),
        ({"postprocess": "none"}, "postprocess: expected one of auto, plugin, kernels"),
        ({"workspace": 0}, "workspace: expected at least 1 MiB"),
        ({"optimization_level": 6}, "optimization_level: expected 0 to 5"),
        ({"without_runtime": True}, "without_runtime: expected version_compatible, .*, got an engine for one version"),
        ({"dla": -1}, "dla: expected at least 0, got -1"),
        ({"dla": 0}, "dla: expected precision fp16 or int8, which the core supports, got fp32"),
        ({"dla": 0, "precision": "fp16", "max_batch": 4}, "dla: expected a fixed batch size without max_batch, got 4"),
    ],
)
def test_invalid_or_contradictory_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        BuildOptions(**options)  # type: ignore[arg-type]


def test_options_have_one_form(tmp_path: Path) -> None:
    assert BuildOptions(targets="sm86") == BuildOptions(targets=["sm86"]) == BuildOptions(targets=("sm86",))
    assert BuildOptions(timing_cache=tmp_path / "cache").timing_cache == str(tmp_path / "cache")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ("current",)}, "targets: expected a GPU in this machine for current, found none; name .*sm86"),
        ({"postprocess": "plugin"}, "postprocess plugin: tensorrt-rtx does not support"),
        ({"timing_cache": "cache"}, "timing_cache: tensorrt-rtx does not support"),
        ({"dla": 0, "precision": "fp16"}, "dla: tensorrt-rtx does not support"),
        ({"version_compatible": True}, "version_compatible: tensorrt-rtx does not support"),
        ({"hardware_compatible": True}, "hardware_compatible: tensorrt-rtx does not support.*target portable"),
    ],
)
def test_an_option_that_tensorrt_rtx_does_not_support_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(BuildError, match=message):
        BuildOptions(**options).for_backend(RTX, NO_GPU)  # type: ignore[arg-type]


def test_open_choices_are_made_for_the_backend() -> None:
    assert BuildOptions().for_backend(RTX, NO_GPU) == BuildOptions(targets=("portable",), postprocess="kernels")
    assert BuildOptions().for_backend(RTX, L4).targets == ("current",)
    assert BuildOptions(targets=("sm86", "sm89")).for_backend(RTX, L4).targets == ("sm86", "sm89")
    assert BuildOptions().for_backend(TRT, ORIN) == BuildOptions(postprocess="plugin")
    assert BuildOptions(postprocess="kernels").for_backend(TRT, ORIN) == BuildOptions(postprocess="kernels")
    with pytest.raises(BuildError, match="targets: expected none with TensorRT"):
        BuildOptions(targets=("sm86",)).for_backend(TRT, ORIN)


@pytest.mark.parametrize(
    ("options", "version", "message"),
    [
        ({"max_batch": 8}, "10.13.3", "max_batch: expected a fixed batch size, because .*, got 1 to 8"),
        ({"version_compatible": True}, "10.13.3", "version_compatible"),
        ({"hardware_compatible": True}, "10.13.3", "hardware_compatible"),
        ({}, "10.3.0", "expected TensorRT 10.9 or newer for plugins, got 10.3.0"),
        ({}, "10.14.1.48", "plugins are broken in TensorRT 10.14"),
    ],
)
def test_auto_chooses_kernels_if_plugins_are_impossible(options: dict[str, Any], version: str, message: str) -> None:
    backend = dataclasses.replace(TRT, version=version)
    assert BuildOptions(**options).for_backend(backend, ORIN).postprocess == "kernels"
    with pytest.raises(BuildError, match=f"postprocess plugin: .*{message}.*postprocess kernels"):
        BuildOptions(**options, postprocess="plugin").for_backend(backend, ORIN)


def test_dla_is_refused_by_versions_of_tensorrt_without_it() -> None:
    options = BuildOptions(dla=0, precision="fp16")
    with pytest.raises(
        BuildError, match=r"^dla: .*got TensorRT 10\.16\.1\.11 on Orin, JetPack 6\.2; .*up to 10\.7, and"
    ):
        options.for_backend(TRT, ORIN)
    old = dataclasses.replace(TRT, version="10.3.0.30")
    assert options.for_backend(old, ORIN) == dataclasses.replace(options, postprocess="kernels")


def test_tensorrt_rtx_does_not_build_for_a_gpu_that_it_does_not_support() -> None:
    for options in (BuildOptions(), BuildOptions(targets=("current",))):
        with pytest.raises(
            DeviceError, match=r"compute capability 7\.5, .*NVIDIA H200 .*; use TensorRT on this GPU, or"
        ):
            options.for_backend(RTX, H200)
    for target in ("portable", "sm89"):  # built here, for another machine
        assert BuildOptions(targets=target).for_backend(RTX, H200).targets == (target,)
    assert BuildOptions().for_backend(TRT, H200).targets == ()
