"""The base package: contract, executors, kernels and TensorRT.

It never needs torch. It needs onnx only to build engines and to describe ONNX files.
"""

import os

# The version of all three packages; pyproject.toml reads it from here.
__version__ = "0.1.0"
# Most pixels of an image, so that a small file cannot take all memory: 3 bytes a pixel, and more to decode it.
MAX_PIXELS = 2**28
LIMIT_VARIABLE = "RETINA_EDGE_MAX_PIXELS"

# OpenCV reads its limit when it is loaded, which this package comes before. The limit also holds for files whose header
# says something else than their decoder finds.
_limit = os.environ.get(LIMIT_VARIABLE, "")
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", _limit if _limit.isdecimal() else str(MAX_PIXELS))
