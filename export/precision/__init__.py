"""Convert a deployable ONNX to lower precision: FP16, INT8 with calibration, accuracy budget.

This package needs onnx, but not torch.
"""
