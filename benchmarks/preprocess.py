"""Camera frame to the network's input: letterbox and resize by OpenCV, by torch, and by the fused kernel on a GPU.

    python -m benchmarks.preprocess

Each starts from a BGR frame in memory and ends with uint8 [H, W, 3]; torch's way is a resize of its own. On a GPU the
frame is there already, as it is for the kernel inside the runner: copies are measured apart, by ``retina-edge bench``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional

from benchmarks.record import interleaved, save
from engines.cuda import primary_context
from engines.letterbox import Letterbox, letterbox_batch
from engines.names import INPUT
from engines.plugins.kernels import load_kernel, put
from engines.runner.frames import FRAMES, letterbox_launch, pack, packed_bytes
from retina_edge.image_file import read_image
from retina_edge.sample import FOREST

FRAME_SIZES = ((720, 1280), (1080, 1920), (2160, 3840))
INPUTS = ((416, 736), (800, 800))
BASE = "OpenCV"
GPU_RUNS, WARM_UP = 200, 20


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=50, help="counted runs of each (default: 50)")
    rounds = parser.parse_args(argv).rounds
    figures = []
    for frame_size in FRAME_SIZES:
        for input_size in INPUTS:
            frame = _frame(frame_size)
            times = interleaved(_on_the_cpu(frame, input_size), rounds=rounds)
            if torch.cuda.is_available():
                times |= _on_the_gpu(frame, input_size)
            row = {"frame": list(frame_size), "input": list(input_size), "rounds": rounds}
            for name, ms in times.items():
                figures.append({**row, "candidate": name, "ms": round(ms, 5), "ratio": round(times[BASE] / ms, 3)})
    table = Table("frame", "input", "", "ms", "times as fast")
    for row in figures:
        sizes = ("x".join(map(str, row[name])) for name in ("frame", "input"))
        table.add_row(*sizes, row["candidate"], f"{row['ms']:.3f}", f"{row['ratio']:.2f}")
    Console().print(table)
    Console().print(f"written to {save('preprocess', figures).name}")
    return 0


def _on_the_cpu(frame: npt.NDArray[np.uint8], size: tuple[int, int]) -> dict[str, Callable[[], object]]:
    return {BASE: lambda: letterbox_batch([frame], size), "torch, CPU": lambda: _torch(torch.from_numpy(frame), size)}


def _torch(frame: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear, without antialiasing, as OpenCV does it; in uint8 on a CPU, in float on a GPU, which has no uint8."""
    height, width = Letterbox.fit((frame.shape[0], frame.shape[1]), size).resized
    image = frame.permute(2, 0, 1)[None]
    if frame.is_cuda:
        image = image.float()
    resized = functional.interpolate(image, (height, width), mode="bilinear", align_corners=False)
    out = torch.zeros((*size, 3), dtype=torch.uint8, device=frame.device)
    out[:height, :width] = resized[0].permute(1, 2, 0).round() if frame.is_cuda else resized[0].permute(1, 2, 0)
    return out


def _on_the_gpu(frame: npt.NDArray[np.uint8], size: tuple[int, int]) -> dict[str, float]:
    """Medians between CUDA events, after a check that both give the CPU's image to a grey level."""
    expected, _ = letterbox_batch([frame], size)
    there = torch.from_numpy(frame).cuda()
    found = _torch(there, size).cpu().numpy()
    assert np.abs(found.astype(int) - expected[0]).max() <= 1
    make: Callable[[], Any] = partial(torch.cuda.Event, enable_timing=True)
    events = [(make(), make()) for _ in range(GPU_RUNS)]
    for begun, ended in events:
        begun.record()
        _torch(there, size)
        ended.record()
    torch.cuda.synchronize()
    times = [begun.elapsed_time(ended) for begun, ended in events[WARM_UP:]]
    with primary_context() as driver:
        kernel = _kernel(driver, frame, size, expected)
    return {"torch, GPU": float(np.median(times)), "fused kernel, GPU": kernel}


def _kernel(driver: Any, frame: npt.NDArray[np.uint8], size: tuple[int, int], expected: npt.NDArray[np.uint8]) -> float:
    letterbox = Letterbox.fit((frame.shape[0], frame.shape[1]), size)
    packed = np.zeros(packed_bytes([letterbox.frame_size], 1), np.uint8)
    pack([frame], [letterbox], 1, packed)
    launch = letterbox_launch(size, 1)
    with ExitStack() as stack:
        addresses = {}
        for name, count in ((FRAMES, packed.nbytes), (INPUT, expected.nbytes)):
            allocation = driver.mem_alloc(count)
            stack.callback(allocation.free)
            addresses[name] = int(allocation)
        driver.memcpy_htod(addresses[FRAMES], packed)
        stream = driver.Stream()
        run = partial(put, launch, load_kernel(driver, launch), addresses, stream)
        pairs = []
        for _ in range(GPU_RUNS):
            begun = driver.Event().record(stream)
            run()
            pairs.append((begun, driver.Event().record(stream)))
        stream.synchronize()
        found = np.empty_like(expected)
        driver.memcpy_dtoh(found, addresses[INPUT])
        assert np.abs(found.astype(int) - expected).max() <= 1
        return float(np.median([begun.time_till(ended) for begun, ended in pairs[WARM_UP:]]))


def _frame(size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.resize(read_image(FOREST), (size[1], size[0])), np.uint8)


if __name__ == "__main__":
    raise SystemExit(main())
