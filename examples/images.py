"""Detect in a few images, print the detections, and save annotated copies.

python examples/images.py model.onnx photo.jpg other.png --score 0.4
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2

from retina_edge import Detector

parser = argparse.ArgumentParser()
parser.add_argument("model", help=".onnx, .engine or .pt")
parser.add_argument("images", nargs="+", type=Path)
parser.add_argument("--score", type=float, default=0.4)
parser.add_argument("--output", type=Path, default=Path("out"))
args = parser.parse_args()

for path in args.images:
    if (args.output / path.name).resolve() == path.resolve():
        parser.error(f"--output: expected another folder than that of {path}, which would be overwritten")
args.output.mkdir(parents=True, exist_ok=True)
with Detector.load(args.model) as detector:
    print(detector)
    for path, detections in zip(args.images, detector(args.images, score=args.score), strict=True):
        print(f"{path.name}: {detections}")
        for detection in detections[:3]:
            print(f"  {detection.name} {detection.score:.2f} at {[round(side) for side in detection.box]}")
        cv2.imwrite(str(args.output / path.name), detections.plot())
