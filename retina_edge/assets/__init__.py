"""The sample model and imagery that ship with the package."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
MODEL = FOLDER / "treecrowns.onnx"
CHECKPOINT = FOLDER / "treecrowns.pt"
FOREST = FOLDER / "forest.jpg"
