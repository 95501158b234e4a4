"""The API against what a fuzzer makes of its own description: no crash, no answer it does not describe."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from retina_edge.web import access
from tests.retina_edge.web.conftest import Served, serving_an_event


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    """One that takes changes at any rate: a fast machine makes so many that most would be refused, of which the fuzzer
    warns. ``test_access`` has the rate."""
    monkeypatch.setattr(access, "CHANGE_RATE", (1e6, 1e6))
    with serving_an_event() as server:
        yield server


def test_schemathesis_finds_nothing(served: Served, tmp_path: Path) -> None:
    """As its users run it. Endless answers are left out."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"),
        *(f"{served.url}/openapi.json", "--checks", checks, "--max-examples", "25", "--seed", "1"),
        *("--exclude-path-regex", r"stream\.mjpg", "--phases", "examples,coverage,fuzzing", "--no-color"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout, done.stdout[-3000:]
