"""RetinaNet, composed of torchvision's own parts."""

from retina_edge.model.config import ModelConfig
from retina_edge.model.retinanet import RetinaNet

__all__ = ["ModelConfig", "RetinaNet"]
