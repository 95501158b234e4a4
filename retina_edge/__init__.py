"""RetinaNet from PyTorch to real-time detection.

Example:
    >>> from retina_edge import Detector
    >>> detector = Detector.load("model.onnx")
    >>> detections = detector(frame)
"""

from engines.contract import DetectorContract
from engines.errors import RetinaEdgeError
from retina_edge.detections import Detections
from retina_edge.detector import Detector

__version__ = "0.1.0"
__all__ = ["Detections", "Detector", "DetectorContract", "RetinaEdgeError", "__version__"]
