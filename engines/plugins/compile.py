"""Compile the CUDA kernels to ``ptx/*.ptx`` with NVRTC of CUDA 12: ``python -m engines.plugins.compile``.

This is needed only after a change to a kernel. Users need no compiler: the PTX is committed, and NVIDIA's driver
compiles it for the GPU of the machine.
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

# The oldest supported GPU generation is Turing. PTX for Turing runs on every later generation.
ARCHITECTURE = "compute_75"
# The ISA version that the PTX declares. NVRTC would declare its newest, 8.8, which only drivers of CUDA 12.9 and later
# accept, but JetPack 6 has a driver of CUDA 12.6. The kernels use nothing newer than ISA 7.0 (CUDA 11.0). A test
# assembles them with ptxas to prove it.
ISA = "7.0"
# Without fused multiply-add, decode and IoU round as in the specification.
OPTIONS = ("--std=c++17", "--fmad=false", "--device-as-default-execution-space")


class Nvrtc:
    """NVIDIA's run-time compiler, from the package ``nvidia-cuda-nvrtc-cu12``.

    Raises:
        MissingDependencyError: if the package is not installed.
    """

    def __init__(self) -> None:
        spec = importlib.util.find_spec("nvidia")
        folders = (spec.submodule_search_locations or ()) if spec else ()
        libraries = [file for folder in folders for file in Path(folder).glob("cuda_nvrtc/lib/libnvrtc.so.12")]
        if not libraries:
            raise MissingDependencyError(
                "compiling the kernels: expected NVRTC of CUDA 12, found none; "
                "install it with pip install nvidia-cuda-nvrtc-cu12"
            )
        self._library = ctypes.CDLL(str(libraries[0]))
        self._library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def compile(self, source: str, header: str, options: Sequence[str], *, cubin: bool = False) -> tuple[bytes, str]:
        """Compile the source of a kernel.

        Args:
            source: text of the ``.cu`` file.
            header: text of ``block.cuh``, which the source includes.
            options: command-line options of NVRTC.
            cubin: True for machine code, False for PTX.

        Returns:
            The PTX or the machine code, and the log of the compiler.

        Raises:
            ValueError: if the source does not compile; the message contains the log.
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
    """Yield the name, the source file and the compiler macros of each kernel.

    Examples:
        >>> next(entries())
        ('filter_f16_2', 'filter.cu', ('-DHALF', '-DLEVELS=2', '-DENTRY=filter_f16_2'))
    """
    for kernel in ("filter", "select"):
        for dtype, macros in (("f16", ("-DHALF",)), ("f32", ())):
            for levels in LEVELS:
                entry = f"{kernel}_{dtype}_{levels}"
                yield entry, f"{kernel}.cu", (*macros, f"-DLEVELS={levels}", f"-DENTRY={entry}")
    # The macro LEVELS has no effect here: NMS takes the number of levels as an argument, and letterbox has no levels.
    for kernel in ("nms", "letterbox"):
        yield kernel, f"{kernel}.cu", ("-DLEVELS=2", f"-DENTRY={kernel}")


def compile_entry(
    nvrtc: Nvrtc, file: str, macros: Sequence[str], *, architecture: str = ARCHITECTURE, options: Sequence[str] = ()
) -> tuple[bytes, str]:
    """Compile one kernel to PTX (``compute_75``) or machine code (``sm_75``).

    Args:
        nvrtc: the compiler.
        file: name of the source file in this folder.
        macros: compiler macros of the kernel, from ``entries``.
        architecture: architecture to compile for; its prefix selects PTX or machine code.
        options: further options of the compiler.

    Returns:
        The PTX or the machine code, and the log of the compiler.
    """
    source, header = ((FOLDER / name).read_text(encoding="utf-8") for name in (file, "block.cuh"))
    arguments = (f"--gpu-architecture={architecture}", *OPTIONS, *options, *macros)
    return nvrtc.compile(source, header, arguments, cubin=architecture.startswith("sm_"))


def clean(ptx: bytes) -> bytes:
    r"""Turn the compiler's PTX into the content of a text file that declares the oldest sufficient ISA.

    Examples:
        >>> clean(b".version 8.8\n.target sm_75\n\0")
        b'.version 7.0\n.target sm_75\n'
    """
    text, count = re.subn(rb"^\.version [0-9.]+$", f".version {ISA}".encode(), ptx.rstrip(b"\0\n"), flags=re.MULTILINE)
    assert count == 1
    return text + b"\n"


def main(argv: Sequence[str] | None = None) -> int:
    description = "Compile the CUDA kernels to PTX with NVRTC of CUDA 12. Needed only after a change to a kernel."
    argparse.ArgumentParser(prog="python -m engines.plugins.compile", description=description).parse_args(argv)
    nvrtc = Nvrtc()
    PTX.mkdir(exist_ok=True)
    for entry, file, macros in entries():
        ptx_file(entry).write_bytes(clean(compile_entry(nvrtc, file, macros)[0]))
        print(ptx_file(entry).name, ptx_file(entry).stat().st_size)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
