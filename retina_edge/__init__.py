"""RetinaNet from PyTorch to real-time detection.

Examples:
    >>> from retina_edge import Detector
    >>> from retina_edge.assets import FOREST, MODEL
    >>> with Detector.load(MODEL) as detector:
    ...     detections = detector(FOREST)
    >>> detections[0].name
    'tree'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from engines import __version__
from engines.core.errors import RetinaEdgeError

if TYPE_CHECKING:
    from engines.core.contract import DetectorContract
    from engines.core.gpu_frame import GpuFrame
    from retina_edge.detections import Detection, Detections
    from retina_edge.detector import Detector
    from retina_edge.tiling import TiledDetector

__all__ = [
    "Detection",
    "Detections",
    "Detector",
    "DetectorContract",
    "GpuFrame",
    "RetinaEdgeError",
    "TiledDetector",
    "__version__",
]

# These modules are imported on first use, so that `retina-edge doctor` runs even if NumPy or OpenCV does not load.
_MODULES = {
    "Detection": "retina_edge.detections",
    "Detections": "retina_edge.detections",
    "Detector": "retina_edge.detector",
    "DetectorContract": "engines.core.contract",
    "GpuFrame": "engines.core.gpu_frame",
    "TiledDetector": "retina_edge.tiling",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
