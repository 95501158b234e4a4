"""Speed of training, images per second: R50 at 800×800, with the loading of images and without.

    python -m benchmarks.training

The images are windows of the forest as a camera's frames, with painted boxes; JPEG files, read and augmented for each
sample. The row "steps alone" repeats one batch that lies in memory, so it is what the device could do.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np
import torch

from benchmarks.arguments import devices
from benchmarks.forest_frame import FRAME_SIZE, forest_frame
from benchmarks.record import SUFFIXES, begin, save
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.model.config import ModelConfig
from retina_edge.training.initialize import new_model
from retina_edge.training.processes import ProcessGroup
from retina_edge.training.train_options import TrainOptions
from retina_edge.training.trainer import Trainer

SIDE, IMAGES, OBJECTS = 800, 64, 20
# Steps before the clock starts: cuDNN chooses its algorithms, and the loading processes fill their queues.
WARM_UP = 8


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda", "auto"), default="auto", help="device (default: auto)")
    parser.add_argument("--seconds", type=float, default=15.0, help="seconds for each row (default: 15)")
    parser.add_argument("--batch", type=int, default=16, help="images in a batch (default: 16)")
    parser.add_argument("--size", type=int, default=SIDE, help=f"side of the crops, pixels (default: {SIDE})")
    parser.add_argument("--amp", nargs="+", default=["bf16", "off"], help="precisions (default: bf16 off)")
    workers = max(1, (os.cpu_count() or 1) - 1)
    parser.add_argument(
        "--workers", type=int, default=workers, help="processes that load (default: one less than CPUs)"
    )
    args = parser.parse_args(argv)
    for device in devices(args.device):
        before, rows = begin(), []
        with tempfile.TemporaryDirectory() as name:
            data = write_frames(Path(name))
            for amp in args.amp:
                for row in measure(data, Path(name), device, amp, args):
                    rows.append(row)
                    path = save("training", rows, suffix=SUFFIXES[device], before=before)
                    print(json.dumps(row), flush=True)
        print(f"written to {path.name}")
    return 0


def write_frames(folder: Path) -> DetectionDataset:
    """Write frames of 720p with painted boxes, and return them as a data set."""
    generator = np.random.default_rng(0)
    height, width = FRAME_SIZE
    annotations: list[dict[str, Any]] = []
    large = forest_frame((2 * height, 2 * width))
    for number in range(IMAGES):
        top, left = (int(generator.integers(0, side + 1)) for side in (height, width))
        frame = large[top : top + height, left : left + width].copy()
        for _ in range(OBJECTS):
            w, h = (int(value) for value in generator.integers(24, 160, 2))
            x, y = int(generator.integers(0, width - w)), int(generator.integers(0, height - h))
            cv2.rectangle(frame, (x, y), (x + w - 1, y + h - 1), generator.integers(0, 256, 3).tolist(), -1)
            annotations.append({"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": [x, y, w, h]})
        cv2.imwrite(str(folder / f"{number}.jpg"), frame)
    images = [{"id": i, "file_name": f"{i}.jpg", "height": height, "width": width} for i in range(IMAGES)]
    path = folder / "frames.json"
    categories = [{"id": 1, "name": "box"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return load_dataset(path, folder)


def measure(
    data: DetectionDataset, folder: Path, device: str, amp: str, args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yield the images per second with loading, and those of the steps alone."""
    size = (args.size, args.size)
    options = TrainOptions(
        batch=args.batch, amp=amp, workers=args.workers, epochs=1, epoch_samples=1_000_000, warmup_steps=0
    )
    model, contract = new_model(ModelConfig(len(data.class_names)), data, size, seed=0)
    trainer = Trainer(
        model,
        contract,
        data,
        data,
        augment=AugmentOptions().for_input(size),
        options=options,
        output=folder / "model.pt",
        group=ProcessGroup(0, 1, torch.device(device)),
    )
    trainer.parallel.train()
    batches = iter(trainer.loader)
    images, targets = next(batches)

    def timed(step: Any) -> dict[str, Any]:
        for _ in range(WARM_UP):
            step()
        count, start = 0, perf_counter()
        while perf_counter() - start < args.seconds:
            step()  # returns the losses as numbers, so it waits for the device
            count += 1
        return {"images_per_second": round(count * args.batch / (perf_counter() - start), 2), "steps": count}

    row = {"network": "R50", "size": args.size, "batch": args.batch, "amp": amp}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    alone = timed(lambda: trainer.train_step(images, targets))
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
    memory = {} if peak is None else {"peak_gib": round(peak, 2)}
    yield {**row, "what": "steps alone", **alone, **memory}
    yield {
        **row,
        "what": "with loading",
        "workers": args.workers,
        **timed(lambda: trainer.train_step(*next(batches))),
    }


if __name__ == "__main__":
    raise SystemExit(main())
