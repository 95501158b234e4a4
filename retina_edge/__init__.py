"""RetinaNet from PyTorch to real-time detection.

Example:
    >>> from retina_edge import Detector
    >>> detector = Detector.load("model.onnx")
    >>> detections = detector(frame)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from engines.errors import RetinaEdgeError

if TYPE_CHECKING:
    from engines.contract import DetectorContract
    from retina_edge.detections import Detections
    from retina_edge.detector import Detector

__version__ = "0.1.0"
__all__ = ["Detections", "Detector", "DetectorContract", "RetinaEdgeError", "__version__"]

# Loaded when first asked for, so that `retina-edge doctor` runs where NumPy or OpenCV does not.
_HOMES = {
    "Detections": "retina_edge.detections",
    "Detector": "retina_edge.detector",
    "DetectorContract": "engines.contract",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
