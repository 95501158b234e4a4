"""Everything that needs an NVIDIA GPU, inside ten minutes and without a network: tests, then benchmarks.

    python -m benchmarks.gpu

What matters most comes first, and each step has a limit, so that a step that hangs costs only itself. Results lie in
``benchmarks/results/*_gpu.json``; ``gpu.json`` says which steps ran, how they ended, and how long they took.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.record import RESULTS, save

ROOT = Path(__file__).parents[1]
LIMIT = 570.0
SIDE = 800


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=LIMIT, help=f"for everything (default: {LIMIT:.0f})")
    limit = parser.parse_args(argv).seconds
    start, figures = perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        for name, command, share in _steps(Path(folder)):
            left = limit - (perf_counter() - start)
            figures.append(_run(name, command, min(left, share)))
            print(f"{name}: {figures[-1]['ended']} after {figures[-1]['seconds']} s", flush=True)
            save("gpu", figures)  # after each: the machine may be gone before the last
    return 0 if all(step["ended"] == "ok" for step in figures) else 1


def _steps(folder: Path) -> list[tuple[str, list[str], float]]:
    """Name, arguments of Python, and the most seconds it may take."""
    onnx, engine = folder / "r50.onnx", folder / "r50.engine"
    bench = ["-m", "retina_edge.bench", "--seconds", "10", "--json"]
    return [
        ("tests", ["-m", "pytest", "-m", "gpu", "-q", "--tb=short"], 240),
        ("postprocess", ["-m", "benchmarks.postprocess", "--runs", "30"], 60),
        ("preprocess", ["-m", "benchmarks.preprocess", "--rounds", "20"], 60),
        ("export R50", ["-m", "benchmarks.networks", str(onnx), str(SIDE)], 90),
        ("build R50", ["-m", "retina_edge.build", str(onnx), "-o", str(engine), "--precision", "fp16"], 120),
        ("bench R50", [*bench, str(RESULTS / "bench_gpu.json"), str(engine)], 60),
        ("end_to_end", ["-m", "benchmarks.end_to_end", "--sizes", str(SIDE), "--rounds", "10"], 240),
        ("scaling", ["-m", "benchmarks.scaling"], 120),
        ("detectors", ["-m", "benchmarks.detectors"], 120),
    ]


def _run(name: str, arguments: list[str], seconds: float) -> dict[str, Any]:
    start = perf_counter()
    if seconds <= 0:
        return {"step": name, "ended": "no time left", "seconds": 0.0}
    try:
        code = subprocess.run([sys.executable, *arguments], cwd=ROOT, timeout=seconds, check=False).returncode
        ended = "ok" if code == 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        ended = "took too long"
    return {"step": name, "ended": ended, "seconds": round(perf_counter() - start, 1)}


if __name__ == "__main__":
    raise SystemExit(main())
