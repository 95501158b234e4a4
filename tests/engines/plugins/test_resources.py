"""Tests of the registers and the shared memory that the kernels need on each generation of GPUs.

The numbers are those of the compiler's machine code. The driver compiles the committed PTX itself, and its machine code
may differ a little.
"""

from __future__ import annotations

import re

import pytest

from engines.plugins.compile import Nvrtc, compile_entry, entries
from engines.plugins.launch import FILTER_THREADS, NMS_THREADS, SELECT_THREADS
from engines.runner.packed_frames import THREADS as THREADS_OF_LETTERBOX

pytestmark = pytest.mark.start_first

# Registers of a thread for Filter, Select, NMS and letterbox: the maximum over the variants of each kernel.
REGISTERS = {
    75: (64, 54, 64, 59),
    80: (32, 56, 64, 48),
    87: (40, 56, 64, 48),
    90: (40, 64, 64, 48),
    100: (40, 64, 64, 48),
    120: (40, 62, 62, 48),
}
# Bytes of static shared memory of a block. TensorRT's plugins must use less than 48 KiB.
SHARED = {"filter": 9356, "select": 29840, "nms": 44640, "letterbox": 0}
THREADS = {
    "filter": FILTER_THREADS,
    "select": SELECT_THREADS,
    "nms": NMS_THREADS,
    "letterbox": THREADS_OF_LETTERBOX,
}
REGISTERS_OF_A_MULTIPROCESSOR = 65536


@pytest.fixture(scope="module")
def nvrtc() -> Nvrtc:
    return Nvrtc()


# Each architecture compiles every kernel again, so only Orin's is not slow.
@pytest.mark.parametrize(
    "architecture", [pytest.param(sm, marks=() if sm == 87 else pytest.mark.slow) for sm in REGISTERS]
)
def test_registers_spills_and_shared_memory_are_as_expected(nvrtc: Nvrtc, architecture: int) -> None:
    largest = dict.fromkeys(SHARED, 0)
    for entry, file, macros in entries():
        options = ("--ptxas-options=-v",)
        code, log = compile_entry(nvrtc, file, macros, architecture=f"sm_{architecture}", options=options)
        assert code.startswith(b"\x7fELF")
        (smem,) = re.findall(r"(\d+) bytes smem", log) or ["0"]
        kernel = entry.partition("_")[0]
        assert int(smem) == SHARED[kernel] < 48 * 1024
        # NMS has functions, which are reported one by one.
        spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", log)
        assert spills
        assert not any(map(int, spills)), entry
        (registers,) = map(int, re.findall(r"Used (\d+) registers", log))
        assert registers * THREADS[kernel] <= REGISTERS_OF_A_MULTIPROCESSOR
        largest[kernel] = max(largest[kernel], registers)
    assert tuple(largest.values()) == REGISTERS[architecture]
