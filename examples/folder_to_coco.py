"""Detect in all images of a COCO data set or a folder, and write COCO's results JSON.

python examples/folder_to_coco.py model.onnx images results.json --annotations val.json

The image ids come from the annotations; without them the images are numbered in the order of their names.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.progress import track

from retina_edge import Detector
from retina_edge.imaging.image_file import IMAGE_SUFFIXES

parser = argparse.ArgumentParser()
parser.add_argument("model", help=".onnx, .engine or .pt")
parser.add_argument("images", type=Path)
parser.add_argument("output", type=Path)
parser.add_argument("--annotations", type=Path)
args = parser.parse_args()

if args.annotations:
    entries = json.loads(args.annotations.read_text(encoding="utf-8"))["images"]
    ids = {args.images / entry["file_name"]: entry["id"] for entry in entries}
else:
    paths = sorted(path for path in args.images.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    ids = {path: number for number, path in enumerate(paths, start=1)}
if not ids:
    parser.error(f"images: expected images in {args.images}, got none")

with Detector.load(args.model) as detector:
    score = detector.score_threshold  # average precision counts all detections
    results = [row for path, n in track(ids.items()) for row in detector(path, score=score).to_coco(image_id=n)]
args.output.write_text(json.dumps(results), encoding="utf-8")
print(f"{args.output}: {len(results)} detections in {len(ids)} images")
