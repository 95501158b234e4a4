"""Run the kernels on the CPU: g++ compiles their sources with a header that runs the threads of a block as fibers.

The compiled kernels are kept in pytest's cache, so a later run compiles only those whose source, options or compiler
changed.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock

from engines.core.executor import RawDetections
from engines.core.tensor_names import CANDIDATES, OUTPUTS, PARAMETERS, head_names
from engines.plugins.compile import entries
from engines.plugins.launch import Geometry, Launch, postprocess_launches
from engines.plugins.ptx_files import FOLDER

Arrays = list[npt.NDArray[Any]]
EMULATOR = Path(__file__).parent / "emulator"
# No fused multiply-add, as with NVRTC, and no option that changes how NaN or -0 behave.
OPTIONS = ("-O2", "-std=c++17", "-ffp-contract=off", "-fPIC", "-shared", "-Wno-unknown-pragmas")
# Every output is filled and surrounded with POISON before a kernel runs, which reveals elements that the kernel does
# not write, and writes outside of the output.
POISON, GUARD = 0x5A, 64
_folder: Path | None = None

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ to run the kernels on the CPU")


def compile_into(folder: Path) -> None:
    """Set the folder for the compiled kernels, which all workers of a test run share."""
    global _folder
    _folder = folder


@functools.cache
def library(entry: str) -> ctypes.CDLL:
    """Return the library of one kernel; compile it if the folder has none of the same source, options and compiler."""
    assert _folder is not None
    (file, macros), *_ = [(file, macros) for name, file, macros in entries() if name == entry]
    options = (*OPTIONS, f"-D{Path(file).stem.upper()}", *macros)
    target = _folder / f"{entry}-{_digest(file, options)}.so"
    with FileLock(_folder / f"{entry}.lock"):
        if not target.exists():
            partial = _folder / f"{entry}.partial"
            command = ["g++", *options, f'-DSOURCE="{FOLDER / file}"', str(EMULATOR / "emulator.cpp")]
            subprocess.run([*command, "-o", str(partial)], check=True)
            for outdated in _folder.glob(f"{entry}-*.so"):
                outdated.unlink()
            partial.rename(target)
        return ctypes.CDLL(str(target))  # under the lock, because another run may delete the file as outdated


def _digest(file: str, options: Sequence[str]) -> str:
    """Return a digest of everything that the compiled kernel depends on."""
    sources = [FOLDER / file, FOLDER / "block.cuh", *sorted(EMULATOR.iterdir())]
    parts = [_compiler(), " ".join(options).encode(), *(source.read_bytes() for source in sources)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


@functools.cache
def _compiler() -> bytes:
    """Return the description that g++ prints of itself: version, target and configuration."""
    return subprocess.run(["g++", "-v"], capture_output=True, check=True).stderr


def run_kernel(launch: Launch, inputs: Sequence[npt.NDArray[Any]], *, seed: int = 0) -> Arrays:
    """Run one launch of the plan on the CPU, and check that it writes nothing outside of its outputs.

    Args:
        launch: launch to run.
        inputs: arrays of its inputs.
        seed: seed that shuffles the order of threads and blocks; 0 for the natural order.

    Returns:
        The arrays of its outputs.
    """
    arrays = [np.ascontiguousarray(array) for array in inputs]
    buffers, outputs = [], []
    for output in launch.outputs:
        size = int(np.prod(output.shape)) * np.dtype(output.dtype).itemsize
        buffer = np.full(size + 2 * GUARD, POISON, np.uint8)
        buffers.append(buffer)
        outputs.append(buffer[GUARD : GUARD + size].view(output.dtype).reshape(output.shape))
    library(launch.entry).set_order(seed)
    failed = library(launch.entry).run(
        *launch.grid,
        launch.block,
        (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays)),
        (ctypes.c_int * len(launch.integers))(*launch.integers),
        (ctypes.c_void_p * len(outputs))(*(array.ctypes.data for array in outputs)),
    )
    assert not failed, f"{launch.entry}: not all threads reach a barrier"
    for buffer in buffers:
        assert (buffer[:GUARD] == POISON).all(), f"{launch.entry} writes before an output"
        assert (buffer[-GUARD:] == POISON).all(), f"{launch.entry} writes past an output"
    return outputs


def barriers(launch: Launch) -> int:
    """Return the largest number of barriers that a block passed in the last run of a kernel."""
    return int(library(launch.entry).barriers())


def exchanges(launch: Launch) -> int:
    """Return the largest number of times that the lanes of a warp waited for each other in the last run of a kernel."""
    return int(library(launch.entry).exchanges())


def run_kernels(
    cls_logits: Sequence[npt.NDArray[Any]],
    box_deltas: Sequence[npt.NDArray[Any]],
    parameters: npt.NDArray[np.float32],
    geometry: Geometry,
    *,
    seed: int = 0,
) -> tuple[Arrays, RawDetections]:
    """Run Filter, Select and NMS; return the candidates of Select (logits, boxes, labels) and the detections."""
    heads = [*cls_logits, *box_deltas]
    tensors = {**dict(zip(head_names(len(cls_logits)), heads, strict=True)), PARAMETERS: parameters}
    for launch in postprocess_launches(geometry, len(cls_logits[0])):
        outputs = run_kernel(launch, [tensors[name] for name in launch.inputs], seed=seed)
        tensors.update(zip((output.name for output in launch.outputs), outputs, strict=True))
    return [tensors[name] for name in CANDIDATES], RawDetections(*(tensors[name] for name in OUTPUTS))
