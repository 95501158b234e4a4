"""Makes ``ptx/*.ptx`` from the kernels' sources, with NVRTC of CUDA 12: ``python -m engines.plugins.compile``.

For whoever changes a kernel. Users need no compiler: the PTX is committed, and NVIDIA's driver finishes it for the GPU
at hand.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from engines.core.errors import MissingDependencyError
from engines.plugins.launch import LEVELS
from engines.plugins.ptx_files import FOLDER, PTX, ptx_file

# The oldest GPU served is a Turing; PTX for it runs on every later one.
ARCHITECTURE = "compute_75"
# The ISA that the PTX says it is of. NVRTC writes its own newest, 8.8, which only drivers of CUDA 12.9 and later take:
# JetPack 6 has one of 12.6. The kernels use nothing newer than 7.0 (CUDA 11.0); a test has ptxas hold them to it.
ISA = "7.0"
# Decode and IoU round as the specification does: no fused multiply-add.
OPTIONS = ("--std=c++17", "--fmad=false", "--device-as-default-execution-space")


class Nvrtc:
    """NVIDIA's run-time compiler, from the package ``nvidia-cuda-nvrtc-cu12``.

    Raises:
        MissingDependencyError: it is not installed.
    """

    def __init__(self) -> None:
        spec = importlib.util.find_spec("nvidia")
        places = (
            [Path(place) / "cuda_nvrtc" / "lib" for place in (spec.submodule_search_locations or ())] if spec else []
        )
        libraries = [file for place in places for file in place.glob("libnvrtc.so.12")]
        if not libraries:
            raise MissingDependencyError(
                "compiling the kernels: expected NVRTC of CUDA 12, found none; pip install nvidia-cuda-nvrtc-cu12"
            )
        self._library = ctypes.CDLL(str(libraries[0]))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    @property
    def version(self) -> tuple[int, int]:
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._check(self._library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
        return major.value, minor.value

    @property
    def architectures(self) -> tuple[int, ...]:
        """What it compiles for: 75, 80, ..."""
        count = ctypes.c_int()
        self._check(self._library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
        found = (ctypes.c_int * count.value)()
        self._check(self._library.nvrtcGetSupportedArchs(found))
        return tuple(found)

    def compile(self, source: str, header: str, options: Sequence[str], *, cubin: bool = False) -> tuple[bytes, str]:
        """PTX, or with ``cubin`` machine code, and what the compiler had to say.

        Raises:
            ValueError: the source does not compile; the message is the compiler's.
        """
        library, program = self._library, ctypes.c_void_p()
        names = (ctypes.c_char_p * 1)(b"block.cuh")
        headers = (ctypes.c_char_p * 1)(header.encode())
        self._check(library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 1, headers, names))
        try:
            arguments = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
            failed = library.nvrtcCompileProgram(program, len(options), arguments)
            log = self._text(program, "ProgramLog").decode().strip("\0\n ")
            if failed:
                raise ValueError(f"a kernel does not compile: {log}")
            return self._text(program, "CUBIN" if cubin else "PTX"), log
        finally:
            library.nvrtcDestroyProgram(ctypes.byref(program))

    def _text(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._check(getattr(self._library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
        text = ctypes.create_string_buffer(size.value)
        self._check(getattr(self._library, f"nvrtcGet{what}")(program, text))
        return text.raw

    def _check(self, status: int) -> None:
        if status:
            raise RuntimeError(f"NVRTC: {self._library.nvrtcGetErrorString(status).decode()}")


def entries() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name of each kernel, the file it comes from, and the macros it is made with."""
    for kernel in ("filter", "select"):
        for dtype, macros in (("f16", ("-DHALF",)), ("f32", ())):
            for levels in LEVELS:
                entry = f"{kernel}_{dtype}_{levels}"
                yield entry, f"{kernel}.cu", (*macros, f"-DLEVELS={levels}", f"-DENTRY={entry}")
    for kernel in ("nms", "letterbox"):  # the number of levels is an argument of the one, and nothing to the other
        yield kernel, f"{kernel}.cu", ("-DLEVELS=2", f"-DENTRY={kernel}")


def compile_entry(
    nvrtc: Nvrtc, file: str, macros: Sequence[str], *, architecture: str = ARCHITECTURE, options: Sequence[str] = ()
) -> tuple[bytes, str]:
    """PTX (``compute_75``) or machine code (``sm_75``) of one kernel, and the compiler's log."""
    source, header = ((FOLDER / name).read_text(encoding="utf-8") for name in (file, "block.cuh"))
    arguments = (f"--gpu-architecture={architecture}", *OPTIONS, *options, *macros)
    return nvrtc.compile(source, header, arguments, cubin=architecture.startswith("sm_"))


def clean(ptx: bytes) -> bytes:
    """The compiler's PTX as a text file, without the final zero byte, that says the oldest ISA it is of."""
    text, count = re.subn(rb"^\.version [0-9.]+$", f".version {ISA}".encode(), ptx.rstrip(b"\0\n"), flags=re.MULTILINE)
    assert count == 1
    return text + b"\n"


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m engines.plugins.compile", description=__doc__).parse_args(argv)
    nvrtc = Nvrtc()
    PTX.mkdir(exist_ok=True)
    for entry, file, macros in entries():
        ptx_file(entry).write_bytes(clean(compile_entry(nvrtc, file, macros)[0]))
        print(ptx_file(entry).name, ptx_file(entry).stat().st_size)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
