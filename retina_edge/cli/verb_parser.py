"""The parser of a verb: grouped help that ends with an example, and errors of two lines."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from retina_edge.system.printable import printable
from retina_edge.system.redaction import redact_text


class VerbParser(argparse.ArgumentParser):
    """A parser whose help ends with an example, and whose errors have two lines.

    Options cannot be abbreviated: an abbreviation in a script would break when a verb gets another option. For an
    unknown option, the error names the option that resembles it most.

    Args:
        prog: the command, such as ``retina-edge detect``.
        description: purpose of the verb.
        example: one complete command, which the parser accepts.
        options: further arguments of ``ArgumentParser``.

    Examples:
        >>> parser = VerbParser("retina-edge export", "Export a model.", example="retina-edge export a.pt -o a.onnx")
        >>> _ = parser.add_argument("model", metavar="MODEL.pt")
        >>> _ = parser.add_argument("-o", "--output", required=True, metavar="MODEL.onnx")
        >>> parser.format_usage()
        'usage: retina-edge export MODEL.pt -o MODEL.onnx [options]\\n'
    """

    def __init__(self, prog: str, description: str | None = None, *, example: str, **options: Any) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, **options)
        self.example = example

    def format_usage(self) -> str:
        """Return the usage: the arguments that every command needs."""
        self.usage = self._short_usage()
        return super().format_usage()

    def format_help(self) -> str:
        """Return the help: usage, description, groups of options, and the example."""
        self.usage = self._short_usage()
        return f"{super().format_help()}\nexample:\n  {self.example}\n"

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments that the parser knows, but refuse an unknown option before anything else.

        argparse itself would report a missing argument instead, although a misspelled option is the reason.
        """
        arguments = list(sys.argv[1:] if args is None else args)
        if self._subparsers is None:  # a parser with subparsers does not know their options
            self._refuse_unknown(arguments)
        return super().parse_known_args(arguments, namespace)

    def error(self, message: str) -> NoReturn:
        """Print two lines on stderr, the error and where to find help, and exit with code 2."""
        self.exit(2, f"error: {one_line(message)}\nsee {self.prog} --help\n")

    def _short_usage(self) -> str:
        words = [self.prog, *(_needed(action) for action in self._actions if action.required), "[options]"]
        return " ".join(words).replace("%", "%%")

    def _refuse_unknown(self, arguments: Sequence[str]) -> None:
        known = self._option_string_actions
        for argument in arguments:
            if argument == "--":  # only positional arguments follow
                return
            option = argument.partition("=")[0]
            if option.startswith("--") and " " not in argument and option not in known:
                self.error(f"unknown option {option}{did_you_mean(option, known)}")


def one_line(message: object) -> str:
    r"""Return a message for the terminal in one line, without passwords and without control characters.

    Examples:
        >>> one_line("no such file:\n  rtsp//me:secret@camera\x07")
        'no such file: rtsp//***@camera\\x07'
    """
    return printable(redact_text(" ".join(str(message).split())))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return text that names the known word that resembles ``word``; empty text if none does.

    Examples:
        >>> did_you_mean("--scor", ["--save", "--score"])
        '; did you mean --score?'
        >>> did_you_mean("--xyz", ["--save", "--score"])
        ''
    """
    similar = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {similar[0]}?" if similar else ""


def _needed(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    if action.option_strings:
        return f"{action.option_strings[0]} {name}"
    return f"{name} ..." if action.nargs in (argparse.ONE_OR_MORE, argparse.PARSER) else name
