"""The runner of the verbs, which turns errors into one line on stderr and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engines.core.errors import RetinaEdgeError
from retina_edge.cli.verb_parser import one_line
from retina_edge.system.printable import printable
from retina_edge.system.stop_request import INTERRUPTED

# The extra that installs each optional package.
EXTRAS = {
    "torch": "train",
    "torchvision": "train",
    "faster_coco_eval": "train",
    "onnx": "export",
    "onnxscript": "export",
    "paho": "serve",
}
# Packages of the base install, by module. An installed package can fail to load, if a system library is missing.
BASE_PACKAGES = {"numpy": "numpy", "cv2": "opencv-python", "onnxruntime": "onnxruntime"}


def run(body: Callable[[], int]) -> int:
    """Run the body of a verb and return the exit code.

    Errors that a user can fix (``RetinaEdgeError``, ``OSError``, a missing or broken package) become one line on stderr
    and exit code 1. Ctrl-C becomes 130. Any other exception is a bug and keeps its traceback.

    Examples:
        >>> run(lambda: 0)
        0
    """
    _configure_log()
    try:
        return body()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (RetinaEdgeError, OSError) as error:
        temporary = "No usable temporary directory" in str(error)  # from the module tempfile
        return _print_error(f"{error}; set TMPDIR to a folder that can be written to" if temporary else error)
    except RuntimeError as error:
        # As torchvision fails beside a torch of another release or build.
        if not _ends_in_import_of("torchvision", error):
            raise
        return _print_error(f"torchvision cannot be imported ({error}); retina-edge doctor says how to fix it")
    except ImportError as error:
        if (package := _broken_package(error)) is not None:
            return _print_error(f"{package} cannot be imported ({error}); retina-edge doctor says how to fix it")
        package = (error.name or "").partition(".")[0]
        if not isinstance(error, ModuleNotFoundError) or package not in EXTRAS:
            raise
        return _print_error(
            f"this needs {package}, which is not installed: pip install 'retina-edge[{EXTRAS[package]}]'"
        )


class _SafeFormatter(logging.Formatter):
    """A formatter that escapes control characters in a message, which a file name may contain; tracebacks stay."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))


def _configure_log() -> None:
    """Print warnings on stderr, unless the program that called the verb has configured its own log."""
    handler = logging.StreamHandler()
    handler.setFormatter(_SafeFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


@contextmanager
def exit_if(hangs: Callable[[], bool]) -> Iterator[None]:
    """End the process at once if the block raises while a thread hangs: an ordinary exit would wait for the thread.

    Args:
        hangs: called after an error; True if a thread hangs.
    """
    try:
        yield
    except BaseException as error:
        if not hangs():
            raise
        failure = error

        def fail() -> int:
            raise failure

        code = run(fail)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _ends_in_import_of(package: str, error: BaseException) -> bool:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        frame.f_code.co_name == "<module>" and str(frame.f_globals.get("__name__")).partition(".")[0] == package
        for frame in frames
    )


def _broken_package(error: ImportError) -> str | None:
    """Return the base package that failed to load: the one in the error, else the innermost one in its traceback."""
    modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    for module in (error.name or "", *reversed(modules)):
        if module.partition(".")[0] in BASE_PACKAGES:
            return BASE_PACKAGES[module.partition(".")[0]]
    return None


def _print_error(error: object) -> int:
    print("error:", one_line(error), file=sys.stderr)
    return 1
