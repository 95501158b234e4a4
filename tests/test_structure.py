"""The shape of the project: which package imports which, what the base install needs, how large files grow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from retina_edge.__main__ import VERBS

ROOT = Path(__file__).parents[1]
PACKAGES = ("engines", "export", "retina_edge")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
# What the base install does not have.
EXTRAS = frozenset(
    {
        "torch",
        "torchvision",
        "onnx",
        "onnxscript",
        "onnx_ir",
        "faster_coco_eval",
        "pycocotools",
        "supervision",
        "trackers",
        "paho",
        "fastapi",
        "uvicorn",
        "starlette",
        "prometheus_client",
    }
)
FORBIDDEN = {
    "engines": {"export", "retina_edge", *EXTRAS - {"onnx"}},
    "export": {"retina_edge"},
}
# Building an engine takes the ONNX apart; nothing else in engines does.
NEEDS_ONNX = ("engines/graph.py",)
# Run on a machine that only detects, for instance a Jetson without torch and onnx.
BASE_MODULES = (
    "engines.contract",
    "engines.errors",
    "engines.executor",
    "engines.letterbox",
    "engines.names",
    "engines.onnx_runtime",
    "engines.plugins.parameters",
    "engines.plugins.reference",
    "retina_edge",
    "retina_edge.__main__",
    "retina_edge.detect",
    "retina_edge.demo",
    "retina_edge.sample",
    "retina_edge.doctor",
    "retina_edge.tracking.counting",
    "retina_edge.tracking.tracker",
    "retina_edge.sinks.background",
    "retina_edge.sinks.table",
    "retina_edge.delivery.delivery",
    "retina_edge.delivery.mqtt",
    "retina_edge.delivery.webhook",
)
MAX_LINES = 350


def imports_of(path: Path) -> set[str]:
    """Top-level names of everything a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            names.add(path.relative_to(ROOT).parts[0])
    return names


def test_the_walk_sees_imports() -> None:
    assert {"torch", "export", "retina_edge", "engines"} <= imports_of(ROOT / "retina_edge" / "torch_executor.py")


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        wrong = imports_of(path) & FORBIDDEN[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_one_module_of_engines_knows_onnx() -> None:
    found = [path.relative_to(ROOT).as_posix() for path in SOURCES if "onnx" in imports_of(path)]
    assert tuple(path for path in found if path.startswith("engines/")) == NEEDS_ONNX


def test_no_package_imports_tests_or_benchmarks() -> None:
    for path in SOURCES:
        assert not imports_of(path) & {"tests", "benchmarks"}, path


def test_the_base_install_needs_neither_torch_nor_onnx() -> None:
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(EXTRAS)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
import importlib
for module in {BASE_MODULES!r}:
    importlib.import_module(module)
from retina_edge import Detector
from retina_edge.__main__ import main
try:
    main(["train", "--help"])
except SystemExit as stopped:
    assert not stopped.code
try:
    import torch
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("torch was not blocked")
try:
    Detector.load("model.pt")
except Exception as error:
    assert "pip install '.[train]'" in str(error), error
raise SystemExit(main(["train", "a.json", "--images", ".", "--val", "b.json", "-o", "c.pt"]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert run.stderr.startswith("error: ")
    assert "pip install '.[train]'" in run.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_a_module_that_answers_help(verb: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", f"retina_edge.{verb}", "--help"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(f"usage: retina-edge {verb} ")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_stay_small_and_say_what_they_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(text)), "a module docstring says its place"
    assert path.name not in ("utils.py", "misc.py", "helpers.py", "common.py")


def test_every_package_is_installed() -> None:
    # tomllib came with Python 3.11, so the list is read as text.
    section = re.search(r"^packages = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert section
    listed = set(re.findall(r'"([\w.]+)"', section.group(1)))
    assert listed == {".".join(path.parent.relative_to(ROOT).parts) for path in SOURCES}


def test_the_package_loads_its_classes_when_asked_for_them() -> None:
    code = (
        "import sys, retina_edge, retina_edge.doctor\n"
        "assert not {'cv2', 'numpy'} & set(sys.modules)\n"
        "from retina_edge import *\n"
        "assert Detector.__module__ == 'retina_edge.detector' and 'cv2' in sys.modules\n"
        "assert DetectorContract and Detections\n"
        "try: retina_edge.nothing\n"
        "except AttributeError as error: assert 'nothing' in str(error)\n"
        "else: raise SystemExit('no AttributeError')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_nothing_happens_at_import() -> None:
    code = (
        "import sys, threading; import retina_edge.detect, retina_edge.demo, retina_edge.doctor\n"
        "assert threading.active_count() == 1\n"
        "assert not set(sys.modules) & {'torch', 'onnx', 'tensorrt', 'pycuda'}"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == run.stderr == ""
