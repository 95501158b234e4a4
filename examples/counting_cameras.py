"""Track objects in several cameras or videos at once, and count the objects that cross a line.

python examples/counting_cameras.py model.onnx front=rtsp://camera/stream yard=0 --line "gate=0.5,0 0.5,1"

Tracking needs: pip install 'retina-edge[track]'
"""

from __future__ import annotations

import argparse

from retina_edge import Detector
from retina_edge.tracking.zones import line

parser = argparse.ArgumentParser()
parser.add_argument("model", help=".onnx, .engine or .pt")
parser.add_argument("sources", nargs="+", help="NAME=SOURCE: video file, camera index, rtsp://...")
parser.add_argument("--line", type=line, default="gate=0.5,0 0.5,1", help="NAME=X,Y X,Y as parts of the frame")
parser.add_argument("--score", type=float, default=0.4)
args = parser.parse_args()

totals: dict[str, dict[str, int]] = {}
with Detector.load(args.model) as detector:
    for item in detector.stream(args.sources, score=args.score, regions=[args.line]):
        for event in item.events:
            print(f"{item.stream} {item.time or 0:.2f} s: {event.class_name} {event.track} {event.kind} {event.region}")
        totals[item.stream] = {key: count for tally in item.tallies for key, count in tally.counts.items()}
for stream, counts in totals.items():
    print(f"{stream}: {counts}")
