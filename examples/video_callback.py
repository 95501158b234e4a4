"""Call a function whenever many objects are in view, in a video file, a camera or a stream.

python examples/video_callback.py model.onnx video.mp4 --at-least 20
"""

from __future__ import annotations

import argparse

from retina_edge import Detections, Detector


def alarm(seconds: float, detections: Detections) -> None:
    """Replace this function by your own: send a message, switch a relay, save the frame."""
    print(f"{seconds:7.2f} s: {detections}")


parser = argparse.ArgumentParser()
parser.add_argument("model", help=".onnx, .engine or .pt")
parser.add_argument("source", help="video file, camera index, rtsp://..., image folder")
parser.add_argument("--score", type=float, default=0.4)
parser.add_argument("--at-least", type=int, default=20)
args = parser.parse_args()

with Detector.load(args.model) as detector:
    for item in detector.stream(args.source, score=args.score):
        if len(item.detections) >= args.at_least:
            alarm(item.time or 0.0, item.detections)
