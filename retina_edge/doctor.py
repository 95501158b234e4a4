"""``retina-edge doctor``: check packages, runtimes and devices, and say how to fix problems."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from engines.core.machine import this_machine
from retina_edge.cli import running
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.environment.checks import BROKEN, MISSING, OK, Check, check_detection, check_devices, check_packages
from retina_edge.environment.platforms import Platform, recognize
from retina_edge.system.console import Console
from retina_edge.system.table import Table

STYLES = {OK: "green", MISSING: "yellow", BROKEN: "red"}


def build_parser() -> VerbParser:
    """Return the parser of the verb."""
    parser = VerbParser(
        "retina-edge doctor",
        "Check packages, runtimes and devices, and say how to fix problems.",
        example="retina-edge doctor",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code: 0 if detection works, else 1."""
    args = build_parser().parse_args(argv)
    return running.run(lambda: _doctor(as_json=args.json))


def _doctor(*, as_json: bool) -> int:
    # Some packages print messages when their import fails. Keep these messages out of the report on stdout.
    with contextlib.redirect_stdout(sys.stderr):
        groups = {
            "installed": check_packages(),
            "devices": check_devices(),
            "detection": [check_detection()],
        }
    works = groups["detection"][0].state == OK
    installed = {check.name for check in groups["installed"] if check.state == OK}
    platform = recognize(
        this_machine(),
        tensorrt="tensorrt" in installed,
        tensorrt_rtx="tensorrt-rtx" in installed,
        tensorrt_lean="tensorrt-lean" in installed,
    )
    if as_json:
        report: dict[str, Any] = {
            name: [dataclasses.asdict(check) for check in checks] for name, checks in groups.items()
        }
        report["platform"] = dataclasses.asdict(platform)
        print(json.dumps({**report, "detection_works": works}, indent=2))
    else:
        _print(Console(), groups, platform, works=works)
    return 0 if works else 1


def _print(console: Console, groups: dict[str, list[Check]], platform: Platform, *, works: bool) -> None:
    for name, checks in groups.items():
        table = Table("", "state", "found", "for", title=name)
        for check in checks:
            table.add_row(check.name, Text(check.state, STYLES[check.state]), check.found, check.purpose)
        console.print(table)
    for check in (check for checks in groups.values() for check in checks if check.fix):
        console.print(Text(f"{check.name} ({check.purpose}): {check.fix}"), soft_wrap=True)
    lines = [f"platform: {platform.name}", *(f"    {command}" for command in platform.commands)]
    lines.append(f"    decode and NMS run {platform.postprocess}; tested by this project: {platform.proven}")
    console.print(Text("\n".join(lines)), soft_wrap=True)
    console.print("[green]detection works" if works else "[red]detection does not work")


if __name__ == "__main__":
    raise SystemExit(main())
