"""The doctor reports packages and devices, and how to fix what is missing or broken."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from engines.core.machine import Machine
from retina_edge import assets, doctor
from retina_edge.detector import Detector
from retina_edge.environment import checks as diagnosis
from retina_edge.environment.checks import BROKEN, MISSING, OK, Check, Package
from tests.stand_in import StandIn, contract

ROOT = Path(__file__).parents[2]
WORKS = Check("shipped model", OK, "12 detections in 80 ms", "detection")
BASE_PACKAGES = ("numpy", "opencv-python", "onnxruntime")
FAILS = Check("shipped model", BROKEN, "reason", "detection", "install again")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip the packages that take seconds to import."""
    packages = [package for package in diagnosis._packages() if package.name in BASE_PACKAGES]
    monkeypatch.setattr(diagnosis, "_packages", lambda: packages)


@pytest.mark.parametrize(("check", "code"), [(WORKS, 0), (FAILS, 1)])
@pytest.mark.usefixtures("quick")
def test_the_exit_code_is_1_if_detection_does_not_run(
    check: Check, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "check_detection", lambda: check)
    assert doctor.main([]) == code
    text = capsys.readouterr().out
    for word in ("numpy", "onnxruntime", "CPU", "shipped model", check.fix):
        assert word in text
    assert ("does not work" in text) is (code == 1)


@pytest.mark.usefixtures("quick")
def test_json_lists_packages_and_devices(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "check_detection", lambda: WORKS)
    assert doctor.main(["--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["detection_works"] is True
    assert {item["name"]: item["state"] for item in report["installed"]} == {
        "python": OK,
        "retina-edge": OK,
        "numpy": OK,
        "opencv-python": OK,
        "onnxruntime": OK,
        "GStreamer": diagnosis.check_gstreamer().state,
    }
    assert report["devices"][0]["name"] == "CPU"


def test_base_packages_are_found_with_details() -> None:
    checks = {check.name: check for check in map(diagnosis._check_package, diagnosis._packages()[:3])}
    assert "FFMPEG" in checks["opencv-python"].found
    assert "CPU" in checks["onnxruntime"].found


def check_of(module: str, attribute: str = "Builder") -> Check:
    """Check a package with a module and an attribute of these names."""
    return diagnosis._check_package(Package("some-package", module, "engines", "pip install it", attribute))


def test_a_missing_package_says_how_to_install_it() -> None:
    check = check_of("no_such_module_at_all")
    assert (check.state, check.purpose, check.fix) == (MISSING, "engines", "pip install it")


@pytest.mark.parametrize("jetson", ["", "NVIDIA Jetson AGX Orin"])
def test_install_hints_name_existing_extras(monkeypatch: pytest.MonkeyPatch, jetson: str) -> None:
    """The hints work for a wheel and for a checkout, because pip adds the packages of an extra to the installation."""
    monkeypatch.setattr(diagnosis, "_jetson", lambda: jetson)
    extras = re.findall(r"^([\w-]+) = \[", (ROOT / "pyproject.toml").read_text(), flags=re.M)
    hints = " ".join(package.fix for package in diagnosis._packages())
    assert "pip install ." not in hints
    assert "'." not in hints
    named = set(re.findall(r"retina-edge\[([\w-]+)\]", hints))
    assert {"train", "export", "track", "serve"} | ({"lean"} if not jetson else set()) <= named <= set(extras)


def test_every_package_of_the_extra_serve_is_checked() -> None:
    (extra,) = re.findall(r"^serve = (\[.*\])", (ROOT / "pyproject.toml").read_text(), flags=re.M)
    names = {requirement.partition(">")[0] for requirement in json.loads(extra)}
    packages = [package for package in diagnosis._packages() if package.fix == "pip install 'retina-edge[serve]'"]
    assert {package.name for package in packages} == names
    assert [diagnosis._check_package(package).state for package in packages] == [OK] * len(names)


def test_type_stubs_alone_are_not_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Like tensorrt-stubs: a folder of .pyi files, which can be imported as an empty namespace package.
    (tmp_path / "stub_only").mkdir()
    (tmp_path / "stub_only" / "__init__.pyi").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    check = check_of("stub_only")
    assert (check.state, check.found) == (MISSING, "only type stubs or leftover files")


@pytest.mark.parametrize("error", ["OSError('libcuda.so.1: cannot open shared object file')", "RuntimeError('x')"])
def test_a_broken_package_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str) -> None:
    name = f"broken_{abs(hash(error))}"
    (tmp_path / f"{name}.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(str(tmp_path))
    check = check_of(name)
    assert check.state == BROKEN
    assert error.partition("(")[0] in check.found


def test_the_version_comes_from_the_module_or_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("versioned")
    module.Builder = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "versioned", module)
    assert check_of("versioned").found == "unknown version"
    module.__version__ = "1.2.3"  # type: ignore[attr-defined]
    assert check_of("versioned").found == "1.2.3"


@pytest.mark.parametrize(
    ("machine", "found"),
    [
        (Machine(), "1.7"),
        (Machine("NVIDIA L4", "8.9"), "1.7"),
        (
            Machine("NVIDIA H200", "9.0"),
            r"1\.7 \(expected a GPU of .* found NVIDIA H200 .*; use TensorRT on this GPU\)",
        ),
    ],
)
def test_tensorrt_rtx_is_reported_with_the_gpu_that_it_does_not_support(
    machine: Machine, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnosis, "this_machine", lambda: machine)
    module = SimpleNamespace(__version__="1.7", Builder=object)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", module)
    (package,) = [package for package in diagnosis._packages() if package.name == "tensorrt-rtx"]
    check = diagnosis._check_package(package)
    assert (check.state, bool(re.fullmatch(found, check.found))) == (OK, True)


def test_a_missing_gpu_is_reported_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_nvidia_smi", list)
    monkeypatch.setattr(diagnosis, "_torch_gpus", list)
    monkeypatch.setattr(diagnosis, "_jetson", str)
    checks = diagnosis.check_devices()
    assert [(check.name, check.state) for check in checks] == [("CPU", OK), ("NVIDIA GPU", MISSING)]
    assert "driver" in checks[1].fix


def test_gpus_and_jetsons_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_nvidia_smi", lambda: ["NVIDIA A, 8.7", "NVIDIA B, 9.0"])
    monkeypatch.setattr(diagnosis, "_jetson", lambda: "NVIDIA Jetson AGX Orin")
    checks = diagnosis.check_devices()
    assert [check.name for check in checks] == ["CPU", "NVIDIA GPU", "NVIDIA GPU", "Jetson"]
    assert all(check.state == OK for check in checks)


@pytest.mark.parametrize("command", [("no-such-program-at-all",), (sys.executable, "-c", "raise SystemExit(9)")])
def test_a_missing_or_failing_nvidia_smi_gives_no_gpu(
    monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.setattr(diagnosis, "NVIDIA_SMI", command)
    assert diagnosis._nvidia_smi() == []


def test_each_line_of_nvidia_smi_is_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "NVIDIA_SMI", (sys.executable, "-c", "print('A, 8.9\\n\\nB, 9.0')"))
    assert diagnosis._nvidia_smi() == ["A, 8.9", "B, 9.0"]


def test_detection_is_checked_with_the_shipped_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Detector, "load", lambda _path, **_options: Detector(StandIn(contract())))
    check = diagnosis.check_detection()
    assert check.state == OK
    assert " detections in " in check.found


def test_a_missing_model_is_reported_as_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "MODEL", tmp_path / "none.onnx")
    check = diagnosis.check_detection()
    assert check.state == BROKEN
    assert "none.onnx" in check.found
    assert check.fix


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise ImportError("libGL.so.1: cannot open shared object file", name=name)
sys.meta_path.insert(0, Block())
from retina_edge.__main__ import main
{code}
"""
# Skips the packages that take seconds to import.
BASE_PACKAGES_ONLY = """
from retina_edge.environment import checks
packages = [package for package in checks._packages() if package.name in {names!r}]
checks._packages = lambda: packages
checks._torch_gpus = list
"""
DOCTOR = "sys.exit(main(['doctor', '--json']))"
OTHER_VERBS = "print([main([verb, '--help']) for verb in ('detect', 'demo', 'evaluate')])"


def run_without(module: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process in which a module cannot be imported."""
    script = BLOCK.format(module=module, code=code)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("module", "package"), [("cv2", "opencv-python"), ("numpy", "numpy")])
@pytest.mark.parametrize(
    "code",
    [
        pytest.param(BASE_PACKAGES_ONLY.format(names=BASE_PACKAGES) + DOCTOR, id="base packages"),
        pytest.param(DOCTOR, id="all packages", marks=pytest.mark.slow),
    ],
)
def test_the_doctor_reports_a_base_package_that_does_not_load(code: str, module: str, package: str) -> None:
    run = run_without(module, code)
    assert run.returncode == 1, run.stderr
    report = json.loads(run.stdout)
    (check,) = [item for item in report["installed"] if item["name"] == package]
    assert (check["state"], "libGL.so.1" in check["found"]) == (BROKEN, True)
    if module == "cv2":
        assert "libgl1" in check["fix"]
        assert "opencv-python-headless" in check["fix"]
    assert report["detection_works"] is False
    assert report["detection"][0]["fix"] == "first fix the packages that it needs"


@pytest.mark.parametrize(("module", "package"), [("cv2", "opencv-python"), ("numpy", "numpy")])
def test_other_verbs_refer_to_the_doctor_if_a_package_does_not_load(module: str, package: str) -> None:
    run = run_without(module, OTHER_VERBS)
    line = (
        f"error: {package} cannot be imported (libGL.so.1: cannot open shared object file); "
        "retina-edge doctor says how to fix it\n"
    )
    assert (run.stdout, run.stderr) == ("[1, 1, 1]\n", 3 * line)


class BrokenCuda:
    """The module torch.cuda if the driver is too old for it."""

    def __getattr__(self, name: str) -> object:
        raise RuntimeError("the driver is too old")


def test_a_torch_that_does_not_load_has_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert diagnosis._torch_gpus() == []


def test_a_torch_that_fails_to_count_devices_is_broken_and_has_no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch")
    module.__dict__.update(nn=object, cuda=BrokenCuda(), version=ModuleType("version"))
    module.version.cuda = "12.6"
    monkeypatch.setitem(sys.modules, "torch", module)
    assert diagnosis._torch_gpus() == []
    (package,) = [package for package in diagnosis._packages() if package.name == "torch"]
    check = diagnosis._check_package(package)
    assert (check.state, check.found) == (BROKEN, "RuntimeError: the driver is too old")
