"""The deployable ONNX: taking the file apart, and running it with ONNX Runtime."""
