"""Quantization of a network by NVIDIA's ModelOpt, in a separate environment.

    python benchmarks/modelopt_peer.py heads.onnx images.npy max quantized.onnx

``benchmarks.calibrators --modelopt`` runs this script. It imports nothing of the project, because the project is not
installed in that environment; ModelOpt depends on hundreds of megabytes of other packages.
"""

from __future__ import annotations

import importlib.metadata
import sys

import numpy as np


def main() -> int:
    network, images, method, output = sys.argv[1:]
    from modelopt.onnx.quantization import quantize

    quantize(
        network,
        quantize_mode="int8",
        calibration_data={"images": np.load(images)},
        calibration_method=method,
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=output,
    )
    print(importlib.metadata.version("nvidia-modelopt"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
