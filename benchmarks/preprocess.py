"""Camera frame to the network's input: letterbox by OpenCV, by torch, and by the fused kernel on a GPU.

    python -m benchmarks.preprocess

Each candidate starts from a BGR frame in memory and ends with uint8 [H, W, 3]. On a GPU the frame is in GPU memory
already, as for the kernel inside the runner; ``retina-edge bench`` measures the copies. Each candidate's image is first
compared with OpenCV's, because the speed of a wrong kernel means nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table
from torch.nn import functional

from benchmarks.arguments import CPU, CUDA, run, script_parser
from benchmarks.comparison import Maker, Row, compare, not_run
from benchmarks.forest_frame import forest_frame
from benchmarks.gpu_clock import FLUSH_BYTES, GpuTimes, gpu_times, pycuda_stream, torch_stream
from engines.core.cuda_context import primary_context
from engines.core.letterbox import Letterbox, letterbox_batch
from engines.core.tensor_names import INPUT
from engines.plugins.kernels import launch_kernel, load_kernel
from engines.runner.packed_frames import FRAMES, layout_of, letterbox_launch

Image = npt.NDArray[np.uint8]
FRAME_SIZES = ((720, 1280), (1080, 1920), (2160, 3840))
INPUTS = ((416, 736), (800, 800))
BASES = {CPU: "OpenCV", CUDA: "torch, GPU"}
KERNEL = "fused kernel, GPU"
ROUNDS = {CPU: 50, CUDA: 200}
# Allowed difference from OpenCV, which interpolates with weights of 11 bits.
GRAY_LEVELS = 1


def main(argv: Sequence[str] | None = None) -> int:
    return run("preprocess", script_parser(__doc__, ROUNDS).parse_args(argv), measure_sizes, _table)


def measure_sizes(device: str, rounds: int, _work: Path) -> Iterator[list[Row]]:
    """Measure one device and yield the rows of each frame and input size."""
    for frame_size in FRAME_SIZES:
        for input_size in INPUTS:
            yield measure(device, frame_size, input_size, rounds)


def measure(device: str, frame_size: tuple[int, int], input_size: tuple[int, int], rounds: int) -> list[Row]:
    """Measure all candidates for one frame and input size; return a row for each."""
    frame = forest_frame(frame_size)
    expected = letterbox_batch([frame], input_size)[0][0]
    common = {"frame": list(frame_size), "input": list(input_size)}
    rows = _on_the_cpu if device == CPU else _on_the_gpu
    return [{**common, **row} for row in rows(frame, input_size, expected, rounds)]


def _on_the_cpu(frame: Image, size: tuple[int, int], expected: Image, rounds: int) -> Iterator[Row]:
    makers: dict[str, Maker] = {
        BASES[CPU]: lambda _: lambda: letterbox_batch([frame], size)[0][0],
        "torch, CPU": lambda _: lambda: _torch(torch.from_numpy(frame), size).numpy(),
    }

    def inspect(_: str, image: Image) -> Row:
        _check(image, expected)
        return {}

    for rows in compare(makers, BASES[CPU], rounds=rounds, inspect=inspect):
        yield from rows


def _on_the_gpu(frame: Image, size: tuple[int, int], expected: Image, rounds: int) -> Iterator[Row]:
    """Measure each candidate separately, so that torch has a row even if pycuda is missing."""
    ways: dict[str, Callable[[Image, tuple[int, int], Image, int], GpuTimes]] = {
        BASES[CUDA]: _torch_on_the_gpu,
        KERNEL: _kernel,
    }
    base = None
    for name, way in ways.items():
        try:
            measured = way(frame, size, expected, rounds)
        except Exception as error:
            yield not_run(name, error)
            continue
        base = measured.times.median if name == BASES[CUDA] else base
        ratio = {"ratio": round(base / measured.times.median, 3)} if base else {}
        yield {"candidate": name, **measured.row(), **ratio}


def _torch(frame: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Letterbox a frame with torch: bilinear without antialiasing, like OpenCV.

    The arithmetic is uint8 on a CPU and float on a GPU, where torch cannot interpolate uint8.
    """
    height, width = Letterbox.fit((frame.shape[0], frame.shape[1]), size).resized
    image = frame.permute(2, 0, 1)[None]
    if frame.is_cuda:
        image = image.float()
    resized = functional.interpolate(image, (height, width), mode="bilinear", align_corners=False)
    out = torch.zeros((*size, 3), dtype=torch.uint8, device=frame.device)
    out[:height, :width] = resized[0].permute(1, 2, 0).round() if frame.is_cuda else resized[0].permute(1, 2, 0)
    return out


def _torch_on_the_gpu(frame: Image, size: tuple[int, int], expected: Image, rounds: int) -> GpuTimes:
    on_gpu = torch.from_numpy(frame).cuda()
    _check(_torch(on_gpu, size).cpu().numpy(), expected)
    return gpu_times(torch_stream(), partial(_torch, on_gpu, size), runs=rounds)


def _kernel(frame: Image, size: tuple[int, int], expected: Image, rounds: int) -> GpuTimes:
    with primary_context() as driver:
        # A separate function, so that streams, events and modules are destroyed before the context.
        return _run_kernel(driver, frame, size, expected, rounds)


def _run_kernel(driver: Any, frame: Image, size: tuple[int, int], expected: Image, rounds: int) -> GpuTimes:
    layout = layout_of([frame], size, 1)
    packed = np.concatenate([layout.header, frame.reshape(-1)])
    launch = letterbox_launch(size, 1)
    with ExitStack() as stack:
        addresses = {}
        for name, count in ((FRAMES, packed.nbytes), (INPUT, expected.nbytes), ("flushed", FLUSH_BYTES)):
            allocation = driver.mem_alloc(count)
            stack.callback(allocation.free)
            addresses[name] = int(allocation)
        driver.memcpy_htod(addresses[FRAMES], packed)
        stream = driver.Stream()
        work = partial(launch_kernel, launch, load_kernel(driver, launch), addresses, stream)
        times = gpu_times(pycuda_stream(driver, stream, addresses["flushed"]), work, runs=rounds)
        image = np.empty_like(expected)
        driver.memcpy_dtoh(image, addresses[INPUT])
    _check(image, expected)
    return times


def _table(figures: Sequence[Row]) -> Table:
    table = Table("frame", "input", "candidate", "ms", "times as fast")
    for row in figures:
        sizes = ("x".join(map(str, row[name])) for name in ("frame", "input"))
        cells = (f"{row['ms']:.4f}", f"{row.get('ratio', 0):.2f}") if "ms" in row else ("", row["not_run"])
        table.add_row(*sizes, row["candidate"], *cells)
    return table


def _check(image: Image, expected: Image) -> None:
    """Compare an image with OpenCV's; raise ValueError if they differ."""
    worst = int(np.abs(image.astype(int) - expected).max())
    if worst > GRAY_LEVELS:
        raise ValueError(f"image: expected at most {GRAY_LEVELS} gray level of difference from OpenCV, got {worst}")


if __name__ == "__main__":
    raise SystemExit(main())
