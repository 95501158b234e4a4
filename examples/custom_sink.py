"""Save a crop of each confident detection, with a sink of your own at the end of the pipeline.

python examples/custom_sink.py model.onnx video.mp4 yard=0 --output crops
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2

from retina_edge.api import RunOptions, open_run
from retina_edge.pipeline.result import Result
from retina_edge.sinks.background_sink import BackgroundSink
from retina_edge.sinks.sink import Sink

parser = argparse.ArgumentParser()
parser.add_argument("model", type=Path, help=".onnx, .engine or .pt")
parser.add_argument("sources", nargs="+", help="video file, camera index, rtsp://...; NAME=SOURCE names the stream")
parser.add_argument("--score", type=float, default=0.6)
parser.add_argument("--output", type=Path, default=Path("crops"))
args = parser.parse_args()


class CropSink(Sink):
    def write(self, result: Result) -> None:
        for number, detection in enumerate(result.detections):
            x1, y1, x2, y2 = (round(side) for side in detection.box)
            crop = result.frame.image[y1:y2, x1:x2]
            if crop.size:
                name = f"{result.stream}-{result.frame.index:06}-{number:03}-{detection.name}.jpg"
                cv2.imwrite(str(args.output / name), crop)


args.output.mkdir(parents=True, exist_ok=True)
options = RunOptions(args.model, args.sources, score=args.score)
with BackgroundSink(CropSink(), capacity=8) as sink, open_run(options, strict=True, on_result=sink.write) as run:
    run.pipeline.run()  # the sink writes in its own thread, so a slow disk does not delay the detector
