"""The README's table of figures: a few rows out of many result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OWN, OWN_INT8 = "retina_edge on ONNX Runtime, FP32", "retina_edge on ONNX Runtime, INT8"
SIDE = 800


def summary(results: Path) -> str:
    """Return the table. Rows of a GPU appear once their files exist.

    Args:
        results: folder of the result files.
    """
    rows = [*_cpu_rows(results), *_gpu_rows(results)]
    return "\n".join(
        ["| What | Figure | Measured on |", "| --- | --- | --- |", *(f"| {' | '.join(row)} |" for row in rows)]
    )


def _cpu_rows(results: Path) -> list[tuple[str, str, str]]:
    end_to_end, precisions = _read(results, "end_to_end"), _read(results, "precisions")
    machine = end_to_end["machine"]
    cpu = f"{machine['processor']}, {machine['cores']} cores"
    speed = {row["candidate"]: row["ratio"] for row in end_to_end["figures"] if row["input"] == SIDE and "ratio" in row}
    ap = {row["model"]: row["AP"] for row in precisions["figures"]["accuracy"]}
    loop = {row["model"]: row["share"] for row in _read(results, "detect_loop")["figures"]}
    return [
        (
            f"Speed from frame to detections, R50 {SIDE}×{SIDE}, torchvision eager = 1",
            f"{speed[OWN]:.2f} FP32, {speed[OWN_INT8]:.2f} INT8",
            f"{cpu}, ONNX Runtime",
        ),
        (
            "AP of the sample model, which was fine-tuned for INT8: FP32, FP16, INT8 for TensorRT",
            f"{ap['fp32']:.3f}, {ap['fp16']:.3f}, {ap['int8 for tensorrt']:.3f}",
            "ONNX Runtime",
        ),
        (
            "Speed from video to annotated video and JSON, bare ONNX Runtime session = 1",
            f"{min(loop.values()):.2f}",
            f"{cpu}, ONNX Runtime",
        ),
    ]


def _gpu_rows(results: Path) -> list[tuple[str, str, str]]:
    rows = []
    if (results / "runner_gpu.json").is_file():
        runner = _read(results, "runner_gpu")
        stages, network = runner["figures"]["milliseconds"], runner["figures"]["network"]
        height, width = runner["figures"]["frame"]
        rows.append(
            (
                f"Time from {width}×{height} frame to detections, R50 {SIDE}×{SIDE}, p50: whole frame, GPU alone",
                f"{stages['whole frame']['p50']:.2f} ms, {stages['GPU']['p50']:.2f} ms",
                f"{runner['machine']['gpu']}, network run by {network}",
            )
        )
    if (results / "postprocess_gpu.json").is_file():
        postprocess = _read(results, "postprocess_gpu")
        first = [row for row in postprocess["figures"] if (row["classes"], row["batch"]) == (91, 1) and "ms" in row]
        own = min(row["ms"] for row in first if row["candidate"] == "kernels")
        other = min(row["ms"] for row in first if row["candidate"].startswith("torchvision postprocess"))
        rows.append(
            (
                "Time of decode and NMS, 91 classes: kernels, torchvision",
                f"{own:.2f} ms, {other:.2f} ms",
                f"{postprocess['machine']['gpu']}",
            )
        )
    return rows


def _read(results: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
    return content
