"""Sessions of ONNX Runtime whose memory is limited, because a small file can ask for tensors of any size.

Tensors of a run come from one pool of all sessions, which has a limit. Results that ONNX Runtime computes when it loads
a model lie outside of the pool: each has a limit, and ``check_onnx`` limits their number.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from engines.core.errors import ModelFileError, reason_of
from engines.core.json_form import short
from engines.core.processor import machine_memory

# Share of the memory of this machine or container that all sessions may take together.
MEMORY_SHARE = 0.5
# Largest size of a result that is computed when a model is loaded, bytes. A layer's weights take less.
MAX_FOLDED_BYTES = 64 * 2**20
_CONTAINER_MEMORY = Path("/sys/fs/cgroup/memory.max")  # control groups of version 2
_TOO_LARGE = re.compile(r"running (\w+) node\. Name:'([^']*)'.* smaller than requested bytes of (\d+)")


def open_session(model: Path | bytes, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """Load a checked ONNX model for the CPU, with limits of memory.

    Args:
        model: path or content of a model that ``check_onnx`` accepts.
        options: options of the session, which are changed.

    Raises:
        Exception: ONNX Runtime's own and built-in ones, if it refuses the model.
    """
    _limit_memory()
    size = model.stat().st_size if isinstance(model, Path) else len(model)
    # A stored integer becomes at most four bytes. A megabyte is for constants of Decode and NMS.
    folded = min(MAX_FOLDED_BYTES, 4 * size + 2**20)
    options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(folded))
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = 4  # errors are raised, too
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def run_session(
    session: onnxruntime.InferenceSession, outputs: Sequence[str] | None, inputs: Mapping[str, npt.NDArray[Any]]
) -> list[npt.NDArray[Any]]:
    """Run a model and return its outputs.

    Args:
        session: session from ``open_session``.
        outputs: names of the outputs; None for all.
        inputs: arrays by the name of the input.

    Raises:
        ModelFileError: if a node needs more memory than sessions may take, or fails.
    """
    # The pool keeps the memory of earlier runs, in pieces that may be too small for this one. A run with this option
    # gives back those that are free, also if it fails, so that the run after it has all of the memory.
    clearing = onnxruntime.RunOptions()
    clearing.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    for options in (None, clearing, None):
        try:
            return [np.asarray(array) for array in session.run(outputs, inputs, options)]
        except Exception as error:  # ONNX Runtime raises its own and built-in exceptions
            failure = error
            if not _TOO_LARGE.search(str(error)):
                break
    raise run_error(failure) from failure


def run_error(error: Exception) -> ModelFileError:
    """Return the error of a run in our words; if there was too little memory, with the node and its size.

    Args:
        error: exception of ONNX Runtime.
    """
    if match := _TOO_LARGE.search(str(error)):
        operator, name, size = match.groups()
        return ModelFileError(
            f"the ONNX model: expected to run in {memory_limit() / 2**30:.1f} GiB, {MEMORY_SHARE:.0%} of the memory, "
            f"but node {short(name)} ({operator}) asks for {int(size) / 2**30:.1f} GiB more; use a smaller batch or "
            "input, or export the model again"
        )
    return ModelFileError(f"the ONNX model cannot be run; ONNX Runtime says: {reason_of(error)}")


def memory_limit() -> int:
    """Return the memory that all sessions of this process may take together, bytes; 0 if it is unknown.

    Examples:
        >>> memory_limit() >= 0
        True
    """
    total = machine_memory()
    with contextlib.suppress(OSError, ValueError):  # no control groups of version 2, or no limit
        total = min(total, int(_CONTAINER_MEMORY.read_text()))
    return int(MEMORY_SHARE * total)


@functools.cache
def _limit_memory() -> None:
    """Make the pool of all sessions, unless the program has made one."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    try:
        # 0 is no limit, and -1 the default.
        onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(memory_limit(), -1, -1, -1))
    except RuntimeError:
        return
