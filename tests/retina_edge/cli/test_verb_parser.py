"""Tests of the help and the errors of every verb."""

from __future__ import annotations

import argparse
import importlib
import shlex
from collections.abc import Iterator

import pytest

from retina_edge.__main__ import VERBS
from retina_edge.cli.verb_parser import VerbParser

# The nargs of options without a value.
SWITCH = 0


def parsers_of(verb: str) -> Iterator[VerbParser]:
    """Yield the parser of a verb, and those of its subcommands."""
    parser = importlib.import_module(f"retina_edge.{verb}").build_parser()
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


PARSERS = [pytest.param(parser, id=parser.prog) for verb in VERBS for parser in parsers_of(verb)]


@pytest.mark.parametrize("parser", PARSERS)
def test_the_help_states_purpose_and_default_of_every_option(parser: VerbParser) -> None:
    assert parser.description
    for action in parser._actions:
        names = action.option_strings or action.metavar
        assert action.help, names
        if action.option_strings and action.nargs != SWITCH and not action.required:
            assert "(default: " in action.help, names


@pytest.mark.parametrize("parser", PARSERS)
def test_the_help_ends_with_an_example_that_the_verb_accepts(parser: VerbParser) -> None:
    assert parser.format_help().endswith(f"\nexample:\n  {parser.example}\n")
    assert parser.example.startswith(f"{parser.prog} ") or parser.example == parser.prog
    # A command of a subparser is complete only with the name of the subcommand.
    parser.parse_args(shlex.split(parser.example.removeprefix(parser.prog)))


@pytest.mark.parametrize("parser", PARSERS)
def test_many_options_are_grouped(parser: VerbParser) -> None:
    for group in parser._action_groups:
        assert len(group._group_actions) <= 15, group.title
    ungrouped = [action for action in parser._optionals._group_actions if not action.required]
    assert len(ungrouped) <= 8, [action.dest for action in ungrouped]


@pytest.mark.parametrize("parser", PARSERS)
def test_the_usage_is_one_line_and_names_what_is_needed(parser: VerbParser) -> None:
    (usage,) = parser.format_usage().splitlines()
    words = usage.removeprefix(f"usage: {parser.prog}").removesuffix(" [options]").split()
    needed = [action for action in parser._actions if action.required]
    assert len([word for word in words if not word.startswith("-") and word != "..."]) == len(needed)
    assert all((action.metavar or action.dest) in words for action in needed)


def refused(parser: VerbParser, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the first line of the error that a parser ends with."""
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(arguments)
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    error, hint = printed.err.splitlines()
    assert printed.out == ""
    assert hint == f"see {parser.prog} --help"
    return error


@pytest.mark.parametrize("parser", PARSERS)
def test_unknown_and_abbreviated_options_are_refused_in_two_lines(
    parser: VerbParser, capsys: pytest.CaptureFixture[str]
) -> None:
    if parser._subparsers is not None:  # the parser of the subcommand refuses the options after it
        return
    assert refused(parser, ["--0123456789", "3"], capsys) == "error: unknown option --0123456789"
    for option in parser._option_string_actions:
        if option.startswith("--"):
            misspelled = f"{option[:-2]}{option[-1]}{option[-2]}"  # the last two letters exchanged
            if misspelled not in parser._option_string_actions:
                error = refused(parser, [misspelled], capsys)
                assert error.startswith(f"error: unknown option {misspelled}; did you mean --"), error
            abbreviated = option[:-1]
            if abbreviated not in (*parser._option_string_actions, "--"):
                assert refused(parser, [f"{abbreviated}=1"], capsys).startswith(f"error: unknown option {abbreviated}")


def parser() -> VerbParser:
    parser = VerbParser("retina-edge export", "Export.", example="retina-edge export a.pt -o a.onnx")
    parser.add_argument("model", metavar="MODEL.pt")
    parser.add_argument("-o", "--output", required=True, metavar="MODEL.onnx")
    parser.add_argument("--score", type=float, metavar="S")
    return parser


def test_a_misspelled_option_is_reported_instead_of_the_missing_one(capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(parser(), ["a.pt", "--outptu", "a.onnx"], capsys)
    assert error == "error: unknown option --outptu; did you mean --output?"


def test_an_error_of_several_lines_becomes_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().error("expected one line,\n  got two")
    assert capsys.readouterr().err == "error: expected one line, got two\nsee retina-edge export --help\n"


@pytest.mark.parametrize(
    "arguments",
    [["a.pt", "-o", "a.onnx", "--score", "-0.5"], ["-o", "--output.onnx x", "a.pt"], ["-o", "b", "--", "--score.pt"]],
)
def test_values_that_look_like_options_are_left_to_argparse(arguments: list[str]) -> None:
    assert parser().parse_args(arguments).output
