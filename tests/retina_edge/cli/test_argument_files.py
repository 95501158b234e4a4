"""Files of arguments: what they may contain, and one line for what they may not."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.core.errors import RetinaEdgeError
from retina_edge.cli.argument_files import with_files
from retina_edge.detect import build_parser


def test_lines_are_arguments_and_files_may_name_files(tmp_path: Path) -> None:
    inner, outer = tmp_path / "inner.txt", tmp_path / "outer.txt"
    inner.write_text("yard=gst:videotestsrc ! videoconvert\n")
    outer.write_bytes("\ufeff--track\n\n# a comment\n  Küche.mp4  \r\n".encode() + f"@{inner}\n".encode())
    expected = ["m.onnx", "--track", "Küche.mp4", "yard=gst:videotestsrc ! videoconvert"]
    assert with_files(["m.onnx", f"@{outer}"]) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9.mp4\n", "expected arguments in UTF-8, got byte 0xe9 at position 3; save the file as UTF-8"),
        (b"@FILE\n", "inside one another at most 5 deep, got"),
        (b"x" * (2**20 + 1), "expected arguments of at most 1048576 bytes, got more"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, content: bytes, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "arguments.txt"
    path.write_bytes(content.replace(b"FILE", str(path).encode()))
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args(["m.onnx", f"@{path}"])
    lines = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert len(lines) == 2
    assert message in lines[0]


@pytest.mark.parametrize("name", ["/dev/zero", "none.txt", "/", "a\0b"])
def test_endless_missing_and_other_files_are_refused(name: str) -> None:
    with pytest.raises(RetinaEdgeError, match=r"expected (a file of arguments, cannot read it|arguments of at most)"):
        with_files([f"@{name}"])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.txt"
    path.write_bytes(content)
    try:
        arguments = with_files([f"@{path}"])
    except RetinaEdgeError:
        return
    assert all(argument == argument.strip() and argument for argument in arguments)


def test_files_that_multiply_are_refused(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(3)]
    for path, inner in itertools.pairwise(paths):
        path.write_text(f"@{inner}\n" * 300)
    paths[-1].write_text("x\n" * 300)
    with pytest.raises(RetinaEdgeError, match="expected at most 10000 arguments, got more"):
        with_files([f"@{paths[0]}"])
