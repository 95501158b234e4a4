"""Fuzzing of the API from its OpenAPI description: no crash, and no answer that the description lacks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from retina_edge.tracking.analysis import TrackingOptions
from retina_edge.web import access
from tests.retina_edge.web.serving import Served, serving_an_event


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Served]:
    """A server without a limit on the rate of changes, which ``test_access`` tests.

    On a fast machine the limit would refuse most changes, and the fuzzer would warn about them.
    """
    monkeypatch.setattr(access, "CHANGE_RATE", (1e6, 1e6))
    with serving_an_event(TrackingOptions(regions_file=tmp_path / "regions.json")) as server:
        yield server


@pytest.mark.slow
def test_schemathesis_finds_nothing(served: Served, tmp_path: Path) -> None:
    """Run the command line of schemathesis, without the route whose answer never ends."""
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [
        *(sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", "run"),
        *(f"{served.url}/openapi.json", "--checks", checks, "--max-examples", "25", "--seed", "1"),
        *("--exclude-path-regex", r"stream\.mjpg", "--phases", "examples,coverage,fuzzing", "--no-color"),
        # Without "validation_mismatch": a schema cannot say that the sides of a polygon must not cross.
        *("--warnings", "missing_auth,missing_test_data"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout, done.stdout[-3000:]
