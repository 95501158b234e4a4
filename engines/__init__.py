"""The engine room: contract, executors, kernels, TensorRT. Needs neither torch nor (except to build engines) onnx."""

# The version of all three packages; pyproject.toml reads it from here.
__version__ = "0.1.0"
