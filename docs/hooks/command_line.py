"""The page of the command line, generated from the parsers of the verbs."""

from __future__ import annotations

import argparse
import html
import importlib
from pathlib import Path

from retina_edge.__main__ import VERBS

INTRODUCTION = """# Command line

Each verb is `retina-edge VERB` and `python -m retina_edge.VERB`. This page is generated from the parsers; `--help`
prints the same.

A verb returns 0 if it succeeds, 1 after an error, 2 for a wrong command line, and 130 after Ctrl-C or SIGTERM. `serve`
returns 0 after SIGTERM if no stream and no output failed. An error is one line on standard error that says what was
expected, what was given and what to do.
"""


def command_line_page() -> str:
    """Return the page as Markdown."""
    sections = [INTRODUCTION, "| Verb | Purpose |", "|---|---|"]
    sections += [f"| [`{verb}`](#{verb}) | {purpose} |" for verb, purpose in VERBS.items()]
    text = "\n".join(sections)
    for verb in VERBS:
        parser = importlib.import_module(f"retina_edge.{verb}").build_parser()
        text += f"\n\n## {verb}\n\n" + _parser_section(parser)
    # Defaults that depend on the user's home folder.
    return text.replace(str(Path.home()), "~")


def _parser_section(parser: argparse.ArgumentParser) -> str:
    subparsers = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    parts = [parser.description or ""]
    if not subparsers:
        parts.append(f"```text\n{_usage(parser)}\n```")
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if not isinstance(action, argparse._SubParsersAction)]
        rows = [
            _row(parser, action) for action in actions if action.help != argparse.SUPPRESS and action.dest != "help"
        ]
        if rows:
            note = f"{group.description}\n\n" if group.description else ""
            title = "arguments" if group.title == "positional arguments" else group.title
            parts.append(f"{note}| {title} | |\n|---|---|\n" + "\n".join(rows))
    for action in subparsers:
        purposes = {choice.dest: choice.help for choice in action._choices_actions}
        for name, subparser in action.choices.items():
            subparser.description = f"Write {purposes[name]}."
            parts.append(f"### {parser.prog.split()[-1]} {name}\n\n{_parser_section(subparser)}")
    if parser.epilog:
        parts.append(parser.epilog)
    return "\n\n".join(part for part in parts if part)


def _usage(parser: argparse.ArgumentParser) -> str:
    required = [action for action in parser._actions if action.required and action.option_strings]
    optional = len(parser._actions) > len(required) + 1
    words = [f"{action.option_strings[0]} {_value(action)}" for action in required]
    positional = [_value(action) for action in parser._actions if not action.option_strings]
    return " ".join([parser.prog, *(["[options]"] if optional else []), *words, *positional])


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    value = _value(action)
    names = [f"{option} {value}".strip() for option in action.option_strings] or [value]
    text = (action.help or "") % {**vars(action), "prog": parser.prog} if action.help else ""
    cells = "<br>".join(f"<code>{_escape(name)}</code>" for name in names), _escape(text)
    return f"| {cells[0]} | {cells[1]} |"


def _escape(text: str) -> str:
    """Return text for a cell of a table; Markdown would split a cell at a bar even inside code."""
    return html.escape(text, quote=False).replace("|", "&#124;").replace("*", "&#42;")


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    if action.metavar is not None:
        value = " ".join(action.metavar) if isinstance(action.metavar, tuple) else action.metavar
    elif action.choices:
        value = "|".join(map(str, action.choices))
    else:
        value = action.dest.upper().replace("_", "-")
    return f"{value} ..." if action.nargs == "+" else value
