"""The deployable ONNX: reading it, taking it apart, and running it with ONNX Runtime."""
