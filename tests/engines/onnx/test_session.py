"""A small ONNX file that asks for an enormous tensor is refused by node and size, and takes no such memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info

from engines.core.errors import ModelFileError
from engines.onnx import session

# Side of the tensors; a square of float32 takes 4 GB.
LARGE = 1 << 15
MEGABYTE = 1 << 20
# Each file is run in a process of its own, because all sessions of a process share a limit.
RUN = """
import json, resource, sys
from pathlib import Path
import numpy as np, onnxruntime
from engines.core.errors import ModelFileError
from engines.onnx import session
from engines.onnx.onnx_check import check_onnx_file

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

session.memory_limit = lambda: 256 << 20
results = {}
for path in map(Path, sys.argv[1:]):
    before, message = peak(), ""
    try:
        check_onnx_file(path)
        opened = session.open_session(path, onnxruntime.SessionOptions())
        session.run_session(opened, None, {"x": np.ones((1, 1, 8, 8), np.float32)})
    except ModelFileError as error:
        message = str(error)
    results[path.stem] = (peak() - before, message)
print(json.dumps(results))
"""


# A model of one tensor, which grows from run to run.
GROWING = """
import numpy as np, onnx, onnxruntime
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from engines.onnx import session

session.memory_limit = lambda: 256 << 20
x, y = (make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N"]) for name in "xy")
graph = make_graph([make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
model = make_model(graph, opset_imports=[make_opsetid("", 18)], ir_version=9)
opened = session.open_session(model.SerializeToString(), onnxruntime.SessionOptions())
for megabytes in (50, 75, 100, 140, 20):
    session.run_session(opened, None, {"x": np.ones(megabytes << 18, np.float32)})
    print(megabytes)
"""


def write(path: Path, operator: str, constants: dict[str, npt.NDArray[np.generic]], **attributes: Any) -> None:
    """Write a model of an operator, named ``grow``, and the largest value of its result."""
    inputs = [*([] if operator == "ConstantOfShape" else ["x"]), *constants]
    nodes = [
        make_node(operator, inputs, ["grown"], name="grow", **attributes),
        make_node("ReduceMax", ["grown"], ["largest"], keepdims=0),
        make_node("Add", ["x", "largest"], ["y"]),
    ]
    x, y = (make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 1, 8, 8]) for name in "xy")
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = make_graph(nodes, "g", [x], [y], weights)
    onnx.save(make_model(graph, opset_imports=[make_opsetid("", 18)], ir_version=9), path)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in kilobytes only on Linux")
def test_no_operator_takes_more_than_the_limit(tmp_path: Path) -> None:
    size = np.array([1, 1, LARGE, LARGE])
    growing: dict[str, tuple[dict[str, npt.NDArray[np.generic]], dict[str, Any]]] = {
        "ConstantOfShape": ({"size": size}, {}),
        "Tile": ({"size": size // [1, 1, 8, 8]}, {}),
        "Resize": ({"roi": np.ones(0, np.float32), "scales": (size / [1, 1, 8, 8]).astype(np.float32)}, {}),
        "Pad": ({"pads": np.array([0, 0, 0, 0, 0, 0, LARGE, LARGE])}, {}),
        "Conv": ({"w": np.ones((1, 1, 1, 1), np.float32)}, {"pads": [LARGE // 2] * 4}),
        "Expand": ({"size": np.array([LARGE, LARGE // 64, 1, 1])}, {}),
    }
    for operator, (constants, attributes) in growing.items():
        write(tmp_path / f"{operator}.onnx", operator, constants, **attributes)
    files = sorted(tmp_path.iterdir())
    command = [sys.executable, "-c", RUN, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert not done.stderr  # nothing of ONNX Runtime's own log
    results = json.loads(done.stdout)
    for operator in growing:
        kilobytes, message = results[operator]
        assert re.search(rf"run in 0\.2 GiB, .* but node 'grow\w*' \({operator}\) asks for \d+\.\d GiB more", message)
        assert kilobytes * 1024 < 64 * MEGABYTE, operator


def test_memory_of_earlier_runs_is_free_for_later_ones() -> None:
    """Each run alone is far below the limit of 256 MB, but the pool keeps a piece of memory for each size."""
    results = subprocess.run([sys.executable, "-c", GROWING], capture_output=True, text=True, check=True, timeout=120)
    assert results.stdout.split() == ["50", "75", "100", "140", "20"]


def test_the_limit_is_that_of_the_container_if_it_is_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "_CONTAINER_MEMORY", tmp_path / "memory.max")
    whole = session.memory_limit()
    assert whole > 0
    (tmp_path / "memory.max").write_text(f"{64 * MEGABYTE}\n")
    assert session.memory_limit() == 32 * MEGABYTE
    (tmp_path / "memory.max").write_text("max\n")
    assert session.memory_limit() == whole


def test_another_error_of_a_run_is_one_line() -> None:
    message = str(session.run_error(RuntimeError("Non-zero status code\x1b\nmore")))
    assert message == "the ONNX model cannot be run; ONNX Runtime says: RuntimeError Non-zero status code"
    assert isinstance(session.run_error(RuntimeError("")), ModelFileError)
