"""The console script: verbs, exit codes, errors in one line, argument types."""

from __future__ import annotations

import argparse
import contextlib
import errno
import logging
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from engines.core.errors import MissingDependencyError, RetinaEdgeError
from retina_edge import __version__
from retina_edge.__main__ import VERBS, main
from retina_edge.cli import argument_types, running


def fail(error: BaseException) -> Callable[[], int]:
    """Return the body of a verb that raises an error."""

    def body() -> int:
        raise error

    return body


@pytest.mark.parametrize("code", [0, 1, 7])
def test_the_exit_code_of_the_body_is_returned(code: int) -> None:
    assert running.run(lambda: code) == code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RetinaEdgeError("one\n  and two"), "error: one and two\n"),
        (RetinaEdgeError("\x1b[31mred\x07 caf\udce9"), "error: \\x1b[31mred\\x07 caf\\udce9\n"),
        (MissingDependencyError("pip install it"), "error: pip install it\n"),
        (OSError(errno.ENOSPC, "No space left on device"), "error: [Errno 28] No space left on device\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "a.pt"), "error: [Errno 2] No such file: 'a.pt'\n"),
    ],
)
def test_errors_that_a_user_can_fix_are_one_line(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert running.run(fail(error)) == 1
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(
    "argument",
    [
        "--evnts=mqtt://me:hunter2@host/a",
        "rtsp//me:hunter2@host/a",
        "me:hunter2@host",
        "--tokn=hunter2",
        "gst:rtspsrc location=rtsp://me:hunter2@host user-pw=hunter2",
        "rtsp://me:hunter2@[host/a",
        "rtsp//me:h@hunter2@host",
        "rtsp//:hunter2@host",
        "rtsp://me:my hunter2@host",
        'gst:rtspsrc user-pw="my hunter2"',
    ],
)
@pytest.mark.parametrize("verb", ["detect", "serve", "bench", "train", "nothing"])
def test_a_password_in_a_mistyped_argument_is_never_quoted(
    verb: str, argument: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"train": ["a.json", "-o", "a.pt"], "bench": ["m.onnx"]}.get(verb, ["m.onnx", "a.png"])
    for arguments in ([verb, *words, argument], [verb, argument, *words], [argument]):
        with contextlib.suppress(SystemExit):
            main(arguments)
    assert "hunter2" not in "".join(capsys.readouterr())


def test_redaction_leaves_other_messages_whole(capsys: pytest.CaptureFixture[str]) -> None:
    text = r"expected [STREAM:]NAME[@CLASS,...]=X,Y X,Y; C:\data\x@2x.png; rtsp://camera/live and a@b"
    assert running.run(fail(RetinaEdgeError(text))) == 1
    assert capsys.readouterr().err == f"error: {text}\n"


def test_control_characters_of_others_never_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert running.run(fail(RetinaEdgeError("\x1b[2Jcleared\x07\x9b\u202e: café"))) == 1
    assert capsys.readouterr().err == "error: \\x1b[2Jcleared\\x07\\x9b\\u202e: café\n"
    record = logging.LogRecord("x", logging.WARNING, "", 0, "a\nforged line\x1b[0m", None, None)
    assert running._SafeFormatter().format(record) == "a\\nforged line\\x1b[0m"


@pytest.mark.parametrize(
    ("module", "extra"),
    [("torch", "train"), ("torchvision.models", "train"), ("onnx", "export"), ("onnxscript.rewriter", "export")],
)
def test_a_missing_extra_says_how_to_install_it(module: str, extra: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert running.run(fail(ModuleNotFoundError(f"No module named {module!r}", name=module))) == 1
    assert f"pip install 'retina-edge[{extra}]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "package"),
    [("cv2", "opencv-python"), ("numpy._core._multiarray", "numpy"), ("onnxruntime", "onnxruntime")],
)
def test_a_base_package_that_does_not_load_is_one_line(
    name: str, package: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert running.run(fail(ImportError("lib.so: cannot open shared object file", name=name))) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {package} cannot be imported (lib.so: ")
    assert "retina-edge doctor" in error


def test_an_import_error_without_a_name_belongs_to_the_package_that_was_running(
    capsys: pytest.CaptureFixture[str],
) -> None:
    package = {"__name__": "onnxruntime.capi"}
    exec("def load(): raise ImportError('no library')", package)
    assert running.run(package["load"]) == 1  # type: ignore[arg-type]
    assert capsys.readouterr().err.startswith("error: onnxruntime cannot be imported (no library)")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bug"),
        ModuleNotFoundError("x", name="retina_edge.nothing"),
        ImportError("cannot import name", name="retina_edge.detector"),
        SystemExit(5),
    ],
)
def test_bugs_keep_their_traceback(error: BaseException) -> None:
    with pytest.raises(type(error)):
        running.run(fail(error))


def test_ctrl_c_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert running.run(fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(("text", "size"), [("416x736", (416, 736)), ("320X320", (320, 320)), ("032x64", (32, 64))])
def test_input_sizes_are_parsed(text: str, size: tuple[int, int]) -> None:
    assert argument_types.input_size(text) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("416", "HEIGHTxWIDTH"),
        ("a x b", "HEIGHTxWIDTH"),
        ("-32x32", "HEIGHTxWIDTH"),
        ("1x2x3", "HEIGHTxWIDTH"),
        ("", "HEIGHTxWIDTH"),
        ("500x800", "512x800"),
        ("0x32", "32x32"),
    ],
)
def test_wrong_input_sizes_are_refused(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        argument_types.input_size(text)


def test_only_positive_integers_are_accepted() -> None:
    assert argument_types.positive_int("12") == 12
    for text in ("0", "-1", "x", "", "1.5"):
        with pytest.raises(argparse.ArgumentTypeError, match="at least 1"):
            argument_types.positive_int(text)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"retina-edge {__version__}\n"


def test_help_has_a_line_for_each_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for verb, purpose in VERBS.items():
        assert any(line.split() == [verb, *purpose.split()] for line in lines)


def test_the_help_is_shown_without_a_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "verbs:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["--nonsense"], ["--nonsense", "detect"]])
def test_unknown_verbs_and_options_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[1:] == ["see retina-edge --help"]


def test_a_misspelled_verb_is_corrected(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["trian"])
    assert (
        capsys.readouterr().err == "error: expected a verb, got 'trian'; did you mean train?\nsee retina-edge --help\n"
    )


def test_a_verb_gets_the_arguments_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[list[str]] = []

    def verb_main(argv: list[str]) -> int:
        received.append(argv)
        return 3

    module = ModuleType("retina_edge.detect")
    module.main = verb_main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "retina_edge.detect", module)
    assert main(["detect", "m.onnx", "--version", "--help", "detect"]) == 3
    assert received == [["m.onnx", "--version", "--help", "detect"]]


def test_only_the_chosen_verb_is_imported() -> None:
    code = (
        "import sys; from retina_edge.__main__ import main\n"
        "try: main(['doctor', '--help'])\n"
        "except SystemExit: pass\n"
        "assert 'retina_edge.doctor' in sys.modules\n"
        "assert not {'retina_edge.train', 'retina_edge.export', 'torch', 'onnx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_torchvision_of_another_build_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Beside a torch of another build, torchvision raises a RuntimeError while it is imported."""
    code = compile("raise RuntimeError('operator torchvision::nms does not exist')", "torchvision/__init__.py", "exec")

    def body() -> int:
        exec(code, {"__name__": "torchvision"})
        return 0

    assert running.run(body) == 1
    error = capsys.readouterr().err
    assert error == (
        "error: torchvision cannot be imported (operator torchvision::nms does not exist); retina-edge doctor says how "
        "to fix it\n"
    )
    with pytest.raises(RuntimeError, match="a bug"):  # any other one keeps its traceback
        running.run(fail(RuntimeError("a bug")))
