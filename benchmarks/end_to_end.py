"""Frame to detections: this project on ONNX Runtime against torchvision's own eager model, same weights and frame.

    python -m benchmarks.end_to_end

Torchvision's RetinaNet-R50 has random weights, scaled so that boxes come out; its own eval mode is run on the
letterboxed frame, as a user of torchvision would. Both start from the BGR frame in memory and use every core.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.record import interleaved, save
from benchmarks.torchvision_r50 import lively_r50
from engines.letterbox import Letterbox
from export.deployable import export_onnx
from retina_edge import Detector
from retina_edge.image_file import read_image
from retina_edge.model.torchvision_checkpoint import convert
from retina_edge.sample import FOREST

FRAME_SIZE = (1280, 720)  # width, height of a common camera
SIZES = (320, 800)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="counted runs of each (default: 15)")
    rounds = parser.parse_args(argv).rounds
    figures = [_measure(size, rounds) for size in SIZES]
    table = Table("input", "torchvision eager, ms", "retina_edge, ms", "times as fast", title="R50, 91 classes, FP32")
    for row in figures:
        size = f"{row['input']}x{row['input']}"
        table.add_row(size, f"{row['torchvision_ms']:.0f}", f"{row['retina_edge_ms']:.0f}", f"{row['ratio']:.2f}")
    Console().print(table)
    Console().print(f"written to {save('end_to_end', figures).name}")
    return 0


def _measure(size: int, rounds: int) -> dict[str, Any]:
    peer = lively_r50(size)
    frame = _frame()
    checkpoint = convert(peer.state_dict(), "retinanet_resnet50_fpn", input_size=(size, size))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r50.onnx"
        export_onnx(checkpoint.build_model(), checkpoint.contract, path, batch=1, images=[frame])
        detector = Detector.load(path)
    letterbox = Letterbox.fit((frame.shape[0], frame.shape[1]), (size, size))

    def torchvisions() -> list[dict[str, torch.Tensor]]:
        image = np.empty((size, size, 3), np.uint8)
        letterbox.apply(frame, image)
        tensor = torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).permute(2, 0, 1).float() / 255
        with torch.inference_mode():
            found: list[dict[str, torch.Tensor]] = peer([tensor])
        return found

    times = interleaved({"torchvision": torchvisions, "retina_edge": lambda: detector(frame)}, rounds=rounds)
    ours = len(detector(frame))
    theirs = len(torchvisions()[0]["scores"])
    return {
        "model": "retinanet_resnet50_fpn",
        "input": size,
        "torchvision_ms": round(times["torchvision"], 1),
        "retina_edge_ms": round(times["retina_edge"], 1),
        "ratio": round(times["torchvision"] / times["retina_edge"], 2),
        "detections": {"torchvision": theirs, "retina_edge": ours},
        "rounds": rounds,
    }


def _frame() -> npt.NDArray[np.uint8]:
    forest = read_image(FOREST)
    return cv2.resize(forest[:, : forest.shape[0] * 16 // 9], FRAME_SIZE).astype(np.uint8)


if __name__ == "__main__":
    raise SystemExit(main())
