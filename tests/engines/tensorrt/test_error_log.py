"""Tests of the one logger for each TensorRT library, which outlives every engine, with TensorRT-RTX itself."""

from __future__ import annotations

import subprocess
import sys

import tensorrt_rtx

from engines.tensorrt.error_log import MAX_QUOTED_ERRORS, error_log

# TensorRT keeps using its first logger, and crashes if this logger has been freed.
SCRIPT = """
import gc
import tensorrt_rtx as trt
from engines.tensorrt.error_log import error_log

def refuse():
    mark = error_log(trt).count
    assert trt.Runtime(error_log(trt).logger).deserialize_cuda_engine(b"no plan") is None
    assert error_log(trt).since(mark) != "nothing"

first = trt.Runtime(error_log(trt).logger)
second = trt.Runtime(error_log(trt).logger)
del first
gc.collect()
refuse()
del second
gc.collect()
refuse()
trt.get_plugin_registry().load_library("none.so")
print("alive")
"""


def test_runtimes_may_be_freed_in_any_order() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "alive"), run.stderr


def test_only_errors_after_the_mark_are_quoted() -> None:
    messages = error_log(tensorrt_rtx)
    assert messages is error_log(tensorrt_rtx)
    messages.logger.log(tensorrt_rtx.ILogger.ERROR, "  of another engine\n")
    mark = messages.count
    assert messages.since(mark) == "nothing"
    messages.logger.log(tensorrt_rtx.ILogger.WARNING, "only a warning")
    messages.logger.log(tensorrt_rtx.ILogger.ERROR, "  no kernel image\n")
    assert messages.since(mark) == "no kernel image"
    for number in range(9):
        messages.logger.log(tensorrt_rtx.ILogger.INTERNAL_ERROR, str(number))
    assert messages.since(mark) == "6; 7; 8"
    assert MAX_QUOTED_ERRORS == 3
