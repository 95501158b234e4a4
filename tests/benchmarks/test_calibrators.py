"""The benchmark of calibrators: the project's own rows, and those of ModelOpt in another environment."""

from __future__ import annotations

import json
import stat
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from benchmarks import calibrators
from benchmarks.tables import TABLES
from engines.core.contract import LAYOUTS
from engines.onnx.deployable import contract_of
from export.precision.calibration import CALIBRATORS


def fake_interpreter(path: Path, code: str) -> Path:
    """Write an executable in place of a Python with ModelOpt: it ignores the script that it is given and runs code."""
    path.write_text(f"#!{sys.executable}\n{code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[onnx.ModelProto]:
    """The models that were evaluated; the evaluation is replaced by one that takes no time."""
    models: list[onnx.ModelProto] = []

    def accuracy(model: onnx.ModelProto, *_: object) -> dict[str, float]:
        models.append(model)
        return {"AP": 0.25, "AP50": 0.7}

    def measure(_model: object, _images: object, layout: str, calibrator: str, *_: object) -> dict[str, Any]:
        return {"calibrator": calibrator, "layout": layout, "AP": 0.24, "AP50": 0.69, "decibels": 20.0}

    monkeypatch.setattr(calibrators, "_accuracy", accuracy)
    monkeypatch.setattr(calibrators, "measure", measure)
    return models


def test_every_calibrator_layout_and_modelopt_method_has_a_row(
    results: Path, tmp_path: Path, evaluated: list[onnx.ModelProto]
) -> None:
    code = "import shutil, sys; shutil.copy(sys.argv[2], sys.argv[5]); print('noise'); print('0.47.0')"
    python = fake_interpreter(tmp_path / "python", code)
    assert calibrators.main(["--modelopt", str(python)]) == 0
    record = json.loads((results / "calibrators.json").read_text())
    rows = record["figures"]
    assert [(row["calibrator"], row["layout"]) for row in rows] == [
        ("fp32", ""),
        *((calibrator, layout) for layout in LAYOUTS for calibrator in CALIBRATORS),
        ("NVIDIA ModelOpt 0.47.0, max", "tensorrt"),
        ("NVIDIA ModelOpt 0.47.0, entropy", "tensorrt"),
    ]
    assert contract_of(evaluated[-1]).precision == "int8"
    table = TABLES["calibrators"](record)
    assert "| minmax | `--for cpu` | 0.2400 | +1.00 | 0.6900 | 20.0 |" in table
    assert "| NVIDIA ModelOpt 0.47.0, max | `--for tensorrt` | 0.2500 | +0.00 | 0.7000 |  |" in table


def test_an_error_of_modelopt_is_raised_and_the_rows_before_it_are_kept(
    results: Path, tmp_path: Path, evaluated: list[onnx.ModelProto]
) -> None:
    python = fake_interpreter(tmp_path / "python", "raise SystemExit('no modelopt here')")
    with pytest.raises(RuntimeError, match="modelopt: expected a quantized network, got an error: no modelopt here"):
        calibrators.main(["--modelopt", str(python)])
    assert len(evaluated) == 1
    assert len(json.loads((results / "calibrators.json").read_text())["figures"]) == 1 + len(LAYOUTS) * len(CALIBRATORS)
