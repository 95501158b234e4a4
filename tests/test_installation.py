"""The wheel: built without a warning, complete, and enough to detect in an environment that holds nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.conftest import made_once
from tests.import_graph import PACKAGES, ROOT

# The wheel contains no byte code in any case, but setuptools warns if Python is told not to write byte code.
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
}
# Leftovers that are not part of the packages.
CACHE = "__pycache__"


def run(*command: object, folder: Path) -> str:
    """Run a command in a folder outside the checkout, and return what it prints."""
    result = subprocess.run(
        [*map(str, command)], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=600
    )
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the wheel and the output of the build, ``log.txt``.

    The wheel is built from the source distribution, outside the checkout, where it would leave a folder ``build``.
    """

    def build(folder: Path) -> None:
        log = run(sys.executable, "-m", "build", "--outdir", folder, ROOT, folder=folder)
        (folder / "log.txt").write_text(log, encoding="utf-8")

    return made_once(tmp_path_factory, "wheel", build)


def test_the_build_warns_of_nothing(wheel: Path) -> None:
    log = (wheel / "log.txt").read_text(encoding="utf-8")
    assert "Successfully built retina_edge-" in log
    # Notes of pip on its own configuration say nothing about the project.
    lines = [line for line in log.splitlines() if not line.startswith("WARNING: Location")]
    assert not [line for line in lines if "warning" in line.lower() or "deprecat" in line.lower()]


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    (path,) = wheel.glob("*.whl")
    packed = {name for name in zipfile.ZipFile(path).namelist() if ".dist-info/" not in name}
    expected = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and CACHE not in file.parts
    }
    assert packed == expected


@pytest.mark.slow
def test_an_empty_environment_detects(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True)
    programs = environment / "bin"
    (path,) = wheel.glob("*.whl")
    run(programs / "python", "-m", "pip", "install", "--quiet", path, folder=tmp_path)
    run(programs / "retina-edge", "demo", "--frames", 3, "-o", tmp_path / "demo", folder=tmp_path)
    lines = (tmp_path / "demo" / "demo.jsonl").read_text(encoding="utf-8").splitlines()
    assert [len(json.loads(line)["detections"]) > 3 for line in lines] == [True] * 3
    report = json.loads(run(programs / "retina-edge", "doctor", "--json", folder=tmp_path))
    assert "pip install 'retina-edge[train]'" in json.dumps(report)
    code = "import retina_edge; print(retina_edge.__file__); retina_edge.Detector.load('model.pt')"
    result = subprocess.run(
        [programs / "python", "-c", code], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert Path(result.stdout.strip()).is_relative_to(environment), "the checkout must not be imported"
    assert "pip install 'retina-edge[train,export]'" in result.stderr
