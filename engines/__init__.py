"""The base package: contract, executors, kernels and TensorRT.

It never needs torch. It needs onnx only to build engines and to describe ONNX files.
"""

# The version of all three packages; pyproject.toml reads it from here.
__version__ = "0.1.0"
