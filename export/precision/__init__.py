"""Lower precision for a deployable ONNX: FP16, INT8 with calibration, accuracy budget. Needs onnx, but not torch."""
