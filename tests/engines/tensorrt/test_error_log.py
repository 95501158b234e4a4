"""One logger for each TensorRT library, that outlives every engine; with TensorRT-RTX itself."""

from __future__ import annotations

import subprocess
import sys

import tensorrt_rtx

from engines.tensorrt.error_log import QUOTED, messages_of

# TensorRT would go on with the first logger when it is gone.
SCRIPT = """
import gc
import tensorrt_rtx as trt
from engines.tensorrt.error_log import messages_of

def refuse():
    mark = messages_of(trt).count
    assert trt.Runtime(messages_of(trt).logger).deserialize_cuda_engine(b"no plan") is None
    assert messages_of(trt).since(mark) != "nothing"

first = trt.Runtime(messages_of(trt).logger)
second = trt.Runtime(messages_of(trt).logger)
del first
gc.collect()
refuse()
del second
gc.collect()
refuse()
trt.get_plugin_registry().load_library("none.so")
print("alive")
"""


def test_engines_may_come_and_go() -> None:
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout.strip()) == (0, "alive"), run.stderr


def test_only_what_came_after_the_mark_is_quoted() -> None:
    messages = messages_of(tensorrt_rtx)
    assert messages is messages_of(tensorrt_rtx)
    messages.logger.log(tensorrt_rtx.ILogger.ERROR, "  of another engine\n")
    mark = messages.count
    assert messages.since(mark) == "nothing"
    messages.logger.log(tensorrt_rtx.ILogger.WARNING, "not worth a word")
    messages.logger.log(tensorrt_rtx.ILogger.ERROR, "  no kernel image\n")
    assert messages.since(mark) == "no kernel image"
    for number in range(9):
        messages.logger.log(tensorrt_rtx.ILogger.INTERNAL_ERROR, str(number))
    assert messages.since(mark) == "6; 7; 8"
    assert QUOTED == 3
