"""The shape of the project: imports between rooms, packages that the base install needs, sizes of files."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

from tests.import_graph import ROOT, SOURCES, arrows, packages_of, room_arrows, room_of

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
        "matplotlib",
        "tensorboard",
    }
)
FORBIDDEN = {
    "engines": {"export", "retina_edge", *EXTRAS - {"onnx"}},
    "export": {"retina_edge"},
}
# Building an engine edits the ONNX; nothing else in engines needs the package onnx.
NEEDS_ONNX = ("engines/onnx/deployable.py",)
# The front door and the verbs; everything else has a room.
TOP_LEVEL = set(
    "__init__ __main__ api detector detections tiling "
    "anchors bench build convert demo deploy detect doctor evaluate export inspect serve train".split()
)
# Run on a machine that only detects, for instance a Jetson without torch and onnx.
BASE_MODULES = (
    "engines.core.contract",
    "engines.core.errors",
    "engines.core.executor",
    "engines.core.letterbox",
    "engines.core.tensor_names",
    "engines.onnx.onnx_executor",
    "engines.runner.engine_executor",
    "engines.plugins.parameters",
    "engines.plugins.specification",
    "retina_edge",
    "retina_edge.__main__",
    "retina_edge.api",
    "retina_edge.assets",
    "retina_edge.detect",
    "retina_edge.demo",
    "retina_edge.doctor",
    "retina_edge.tracking.counting",
    "retina_edge.tracking.tracker",
    "retina_edge.sinks.background_sink",
    "retina_edge.sinks.csv_sink",
    "retina_edge.delivery.delivery_worker",
    "retina_edge.delivery.mqtt",
    "retina_edge.delivery.webhook",
)
MAX_LINES = 350


def test_the_walk_sees_imports() -> None:
    executor = ROOT / "retina_edge" / "model" / "torch_executor.py"
    assert {"torch", "export", "retina_edge", "engines"} <= packages_of(executor)
    assert "retina_edge.sinks.outputs" in arrows()["retina_edge.api.running"]
    assert room_of("retina_edge.sinks.outputs") == "retina_edge.sinks"
    assert room_of("retina_edge.detector") == "retina_edge.detector"


@pytest.mark.parametrize("package", FORBIDDEN)
def test_packages_import_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        wrong = packages_of(path) & FORBIDDEN[package]
        assert not wrong, f"{path.relative_to(ROOT)} imports {', '.join(sorted(wrong))}"


def test_rooms_import_one_way() -> None:
    """There is no import cycle between files or between rooms; a CycleError names the members."""
    list(TopologicalSorter(arrows()).static_order())
    list(TopologicalSorter(room_arrows()).static_order())


def test_the_top_level_shows_the_front_door_and_the_verbs() -> None:
    found = {path.stem for path in (ROOT / "retina_edge").glob("*.py")}
    assert found == TOP_LEVEL - {"api"}  # api is a room
    assert len(found) <= 20


def test_one_module_of_engines_knows_onnx() -> None:
    found = [path.relative_to(ROOT).as_posix() for path in SOURCES if "onnx" in packages_of(path)]
    assert tuple(path for path in found if path.startswith("engines/")) == NEEDS_ONNX


def test_no_package_imports_tests_or_benchmarks() -> None:
    for path in SOURCES:
        assert not packages_of(path) & {"tests", "benchmarks"}, path


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
    assert "pip install 'retina-edge[train,export]'" in str(error), error
raise SystemExit(main(["train", "a.json", "--images", ".", "--val", "b.json", "-o", "c.pt"]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 1, run.stderr
    assert run.stderr.startswith("error: ")
    assert "pip install 'retina-edge[train,export]'" in run.stderr


def test_files_stay_small_and_say_what_they_are() -> None:
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= MAX_LINES, path
        assert ast.get_docstring(ast.parse(text)), f"{path}: expected a module docstring, found none"
        assert path.name not in ("utils.py", "misc.py", "helpers.py", "common.py")


def test_the_package_loads_its_classes_when_asked_for_them() -> None:
    code = (
        "import sys, retina_edge, retina_edge.doctor\n"
        "assert not {'cv2', 'numpy'} & set(sys.modules)\n"
        "from retina_edge import *\n"
        "assert Detector.__module__ == 'retina_edge.detector' and 'cv2' in sys.modules\n"
        "assert DetectorContract and Detections and Detection\n"
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
