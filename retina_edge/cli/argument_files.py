"""Files of arguments: ``@FILE`` on the command line stands for the arguments in the file, one per line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from engines.core.errors import RetinaEdgeError

# Bounds: arguments are short, and a file may name another one, even itself.
MAX_BYTES = 2**20
MAX_DEPTH = 5
MAX_ARGUMENTS = 10_000


def with_files(arguments: Sequence[str]) -> list[str]:
    """Return arguments with each ``@FILE`` replaced by the arguments in the file.

    A line is one argument, so that names and pipelines may contain spaces. Empty lines and lines that begin with ``#``
    are skipped. The file is UTF-8, and may begin with a byte order mark.

    Raises:
        RetinaEdgeError: if a file cannot be read, is larger than 1 MiB, or names files in a circle, or if there are
            more than 10,000 arguments.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "cameras.txt")
        ...     _ = path.write_text("# the yard\\nyard=rtsp://camera/1\\n")
        ...     with_files(["model.onnx", f"@{path}"])
        ['model.onnx', 'yard=rtsp://camera/1']
    """
    found = list(itertools.islice(_expanded(arguments, ()), MAX_ARGUMENTS + 1))
    if len(found) > MAX_ARGUMENTS:
        raise RetinaEdgeError(f"files of arguments: expected at most {MAX_ARGUMENTS} arguments, got more; correct them")
    return found


def _expanded(arguments: Sequence[str], inside: tuple[str, ...]) -> Iterator[str]:
    for argument in arguments:
        if not argument.startswith("@"):
            yield argument
            continue
        name = argument[1:]
        if len(inside) >= MAX_DEPTH:
            raise RetinaEdgeError(
                f"@{name}: expected files of arguments inside one another at most {MAX_DEPTH} deep, got "
                f"{' in '.join(reversed((*inside, name)))}; remove the circle"
            )
        lines = (line.strip() for line in _read(name).splitlines())
        yield from _expanded([line for line in lines if line and not line.startswith("#")], (*inside, name))


def _read(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = error.strerror if isinstance(error, OSError) else error
        raise RetinaEdgeError(f"@{name}: expected a file of arguments, cannot read it ({reason})") from error
    if len(content) > MAX_BYTES:
        raise RetinaEdgeError(f"@{name}: expected arguments of at most {MAX_BYTES} bytes, got more; correct the name")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RetinaEdgeError(
            f"@{name}: expected arguments in UTF-8, got byte {content[error.start]:#04x} at position {error.start}; "
            "save the file as UTF-8"
        ) from error
