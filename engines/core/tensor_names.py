"""The names of the tensors, the same in every ONNX, engine and kernel launch."""

from __future__ import annotations

# Domain of Decode and NMS in the ONNX, and namespace of the plugins in TensorRT.
DOMAIN = "retina_edge"
INPUT = "images"
PARAMETERS = "parameters"
CANDIDATES = ("candidate_logits", "candidate_boxes", "candidate_labels")
OUTPUTS = ("num_detections", "boxes", "scores", "labels")


def head_names(num_levels: int) -> list[str]:
    """Return the names of the raw heads in the order of Decode's inputs: ``cls_0 … cls_L-1, box_0 … box_L-1``.

    Examples:
        >>> head_names(2)
        ['cls_0', 'cls_1', 'box_0', 'box_1']
    """
    return [f"{head}_{level}" for head in ("cls", "box") for level in range(num_levels)]


# Keys of the records in the metadata of an ONNX. The first record says how INT8 was calibrated
# (export.precision.quantization). The second says what the precision costs, if an accuracy budget was set
# (export.precision.accuracy_budget).
QUANTIZATION_KEY, ACCURACY_KEY = "retina_edge.quantization", "retina_edge.accuracy"
