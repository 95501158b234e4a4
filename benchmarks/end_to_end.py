"""Frame to detections: this project against the alternatives, with the same weights and thresholds.

    python -m benchmarks.end_to_end

Torchvision's RetinaNet-R50 has random weights, scaled so that it finds boxes. Every candidate starts from the same 720p
BGR frame in memory, letterboxes it into the same square, and ends with detections in memory. On a CPU the candidates
run in turn, on every core. On a GPU each candidate runs in turn with torchvision's eager model, so that the first rows
need not wait for the last compilation. All detections are compared with torchvision's in full FP32: an FP32 candidate
that does not find the same is rejected, and for a lower precision the agreement is reported beside the times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
from rich.table import Table
from torchvision.models.detection import RetinaNet

from benchmarks.agreement import FrameDetections, agreement, sure_agreement
from benchmarks.arguments import CPU, CUDA, run, script_parser
from benchmarks.building import build_once, convert_once
from benchmarks.comparison import Maker, Row, Work, compare, not_run
from benchmarks.forest_frame import forest_frame
from benchmarks.networks import (
    ARCHITECTURE,
    Frame,
    as_torch,
    class_logits,
    count_candidates,
    export_lively_r50,
    lively_r50,
)
from benchmarks.peers import onnx_by_hand, torchvision_detect
from engines.core.contract import CPU as FOR_CPU
from engines.core.letterbox import Letterbox
from engines.core.processor import cpu_extensions
from engines.onnx.deployable import heads_only
from retina_edge import Detector
from retina_edge.detections import Detections
from retina_edge.model.torchvision_checkpoint import convert

SIZES = (320, 800)
ROUNDS = {CPU: 10, CUDA: 200}
BASE = "torchvision eager, FP32"
STRICT = "torchvision eager, FP32 without TF32"
NO_BF16 = "this CPU has no arithmetic for BF16"
# Least share of sure boxes with a partner, and largest mean displacement of those, pixels, of a candidate in FP32.
# Rounding changes which of two overlapping boxes NMS suppresses, so the share may be less than 1.
LEAST_AGREEMENT, MOST_PIXELS = 0.95, 1.0


@dataclass(frozen=True)
class Case:
    """The device, size, frame and models that all candidates share.

    Attributes:
        device: ``cpu`` or ``cuda``.
        size: side of the square input, pixels.
        frame: frame to detect in, BGR uint8 [h, w, 3].
        model: torchvision's model, on the device.
        onnx: path of a deployable ONNX with the same weights.
    """

    device: str
    size: int
    frame: Frame
    model: RetinaNet
    onnx: Path


def main(argv: Sequence[str] | None = None) -> int:
    parser = script_parser(__doc__, ROUNDS)
    sizes = " ".join(map(str, SIZES))
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=SIZES, help=f"sides of the square input, pixels (default: {sizes})"
    )
    args = parser.parse_args(argv)

    def measure_sizes(device: str, rounds: int, work: Path) -> Iterator[list[Row]]:
        for size in args.sizes:
            yield from measure(device, size, rounds, work)

    return run("end_to_end", args, measure_sizes, _table)


def measure(device: str, size: int, rounds: int, work: Path) -> Iterator[list[Row]]:
    """Measure one device and input size, and yield rows as they are measured."""
    frame, model = forest_frame(), lively_r50(size)
    with torch.inference_mode():
        logits = [level.numpy() for level in class_logits(model, as_torch(frame, (size, size)))]
    common = {
        "model": ARCHITECTURE,
        "device": device,
        "input": size,
        "candidates": count_candidates(logits),
    }
    case = Case(device, size, frame, model.to(device), export_lively_r50(work / str(size) / "r50.onnx", size, frame))
    detect = torchvision_detect(case.model, frame, size, device=device, dtype=torch.float32, tf32=False)
    expected = _in_frame(detect(), case)
    makers = candidates(case)
    apart = [name for name in makers if name != BASE] if device == CUDA else []
    inspect = partial(_inspect, case=case, expected=expected)
    for rows in compare(makers, BASE, rounds=rounds, inspect=inspect, apart=apart):
        yield [{**common, **row} for row in rows]
    if device == CPU and not has_bf16():
        names = ("torchvision eager, BF16", "torchvision torch.compile, BF16")
        yield [{**common, **not_run(name, NO_BF16)} for name in names]


def candidates(case: Case) -> dict[str, Maker]:
    """Return functions that prepare the candidates, by name, the most important ones first."""
    if case.device == CPU:
        lower = {"BF16": torch.bfloat16} if has_bf16() else {}
        return {**_torchvision(case, lower), **_onnx_by_hand(case), **_on_onnx_runtime(case)}
    lower = {"FP16": torch.float16, "BF16": torch.bfloat16}
    torch_makers = _torchvision(case, lower)
    base = {BASE: torch_makers.pop(BASE)}
    eager = {name: maker for name, maker in torch_makers.items() if "compile" not in name}
    strict: dict[str, Maker] = {STRICT: partial(_torch_work, case, torch.float32, tf32=False)}
    return {
        **base,
        **_engines(case),
        **_runner_on_torch(case),
        **strict,
        **eager,
        **_onnx_by_hand(case),
        **torch_makers,
    }


def _torchvision(case: Case, lower: dict[str, torch.dtype]) -> dict[str, Maker]:
    dtypes = {"FP32": torch.float32, **lower}
    return {
        f"torchvision {how}, {name}": partial(_torch_work, case, dtype, compiled=how == "torch.compile")
        for how in ("eager", "torch.compile")
        for name, dtype in dtypes.items()
    }


def _torch_work(case: Case, dtype: torch.dtype, _: ExitStack, *, compiled: bool = False, tf32: bool = True) -> Work:
    return torchvision_detect(
        case.model, case.frame, case.size, device=case.device, dtype=dtype, compiled=compiled, tf32=tf32
    )


def _onnx_by_hand(case: Case) -> dict[str, Maker]:
    def make(_: ExitStack) -> Work:
        heads = heads_only(onnx.load(case.onnx)).SerializeToString()
        return onnx_by_hand(heads, case.model, case.frame, case.size, device=case.device)

    return {"ONNX Runtime by hand, FP32": make}


def _on_onnx_runtime(case: Case) -> dict[str, Maker]:
    paths: dict[str, Callable[[], Path]] = {
        "FP32": lambda: case.onnx,
        "INT8": lambda: convert_once(case.onnx, "int8", layout=FOR_CPU),
    }
    return {f"retina_edge on ONNX Runtime, {name}": _detector(path, case) for name, path in paths.items()}


def _engines(case: Case) -> dict[str, Maker]:
    return {
        f"retina_edge engine, {precision.upper()}": _detector(partial(build_once, case.onnx, precision), case)
        for precision in ("fp16", "fp32", "int8")
    }


def _runner_on_torch(case: Case) -> dict[str, Maker]:
    """Return the runner with torch in place of the engine, for a GPU on which no engine runs."""

    def make(stack: ExitStack) -> Work:
        from benchmarks.torch_network import TorchNetwork
        from engines.runner.gpu_executor import GpuExecutor

        checkpoint = convert(case.model.state_dict(), ARCHITECTURE, input_size=(case.size, case.size))
        executor = GpuExecutor(lambda _driver: TorchNetwork(checkpoint.build_model(), checkpoint.contract))
        return _all_detections(stack.enter_context(Detector(executor)), case)

    return {"retina_edge on torch, FP16": make}


def _detector(path: Callable[[], Path], case: Case) -> Maker:
    def make(stack: ExitStack) -> Work:
        return _all_detections(stack.enter_context(Detector.load(path())), case)

    return make


def _all_detections(detector: Detector, case: Case) -> Work:
    """Return the call of a detector with the threshold of the model, which the other candidates have, too."""
    return partial(detector, case.frame, score=detector.score_threshold)


def _inspect(name: str, result: Any, *, case: Case, expected: FrameDetections) -> Row:
    detections = _in_frame(result, case)
    share, pixels = sure_agreement(detections, expected)
    share, pixels = share or 0.0, pixels or 0.0
    if "FP32" in name and name != BASE and (share < LEAST_AGREEMENT or pixels > MOST_PIXELS):
        raise ValueError(
            f"detections: expected at least {LEAST_AGREEMENT:.0%} of the sure boxes of torchvision in FP32, at most "
            f"{MOST_PIXELS:g} px away on average, got {share:.0%}, {pixels:.1f} px away"
        )
    row: Row = {
        "detections": len(detections),
        "agreement": round(agreement(detections, expected), 3),
        "partners": round(share, 3),
        "displacement": round(pixels, 3),
    }
    if case.device == CUDA and name.startswith("torchvision") and "FP32" in name:
        row["cudnn_allow_tf32"] = torch.backends.cudnn.allow_tf32 and name != STRICT
    return row


def _in_frame(result: Any, case: Case) -> FrameDetections:
    """Return a candidate's detections with boxes in frame pixels; torchvision's boxes are in pixels of the square."""
    if isinstance(result, Detections):
        return FrameDetections(result.boxes, result.scores, result.labels)
    letterbox = Letterbox.fit((case.frame.shape[0], case.frame.shape[1]), (case.size, case.size))
    # Under autocast, boxes and scores have a lower precision, and NumPy has no BF16.
    boxes, scores = (result[name].float().numpy() for name in ("boxes", "scores"))
    return FrameDetections(letterbox.to_frame(boxes), scores, result["labels"].numpy())


def _table(figures: Sequence[Row]) -> Table:
    table = Table("candidate", "input", "on", "ms", "times as fast", "detections", "partners", title="R50, 91 classes")
    for row in figures:
        cells = ("", "", row.get("not_run", ""), "")
        if "ms" in row:
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            cells = (f"{row['ms']:.1f}", ratio, str(row["detections"]), f"{row['partners']:.0%}")
        table.add_row(row["candidate"], f"{row['input']}x{row['input']}", row["device"], *cells)
    return table


def has_bf16() -> bool:
    """True if the CPU has BF16 instructions; without them a network takes a hundred times as long."""
    return any("bf16" in name for name in cpu_extensions())


if __name__ == "__main__":
    raise SystemExit(main())
