"""What tensors are called, the same in every ONNX, engine and kernel launch."""

from __future__ import annotations

# The domain of Decode and NMS in the ONNX, and of the plugins in TensorRT.
DOMAIN = "retina_edge"
INPUT = "images"
PARAMETERS = "parameters"
CANDIDATES = ("candidate_logits", "candidate_boxes", "candidate_labels")
OUTPUTS = ("num_detections", "boxes", "scores", "labels")


def head_names(num_levels: int) -> list[str]:
    """The raw heads as Decode takes them: ``cls_0 … cls_L-1, box_0 … box_L-1``."""
    return [f"{head}_{level}" for head in ("cls", "box") for level in range(num_levels)]


# JSON objects in an ONNX's metadata: how INT8 was calibrated (export.precision.quantization), and what the precision
# costs of a model that was made inside a budget (export.precision.accuracy_budget).
QUANTIZATION_KEY, ACCURACY_KEY = "retina_edge.quantization", "retina_edge.accuracy"
