"""Results of tests stay out of the project's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import record


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that scripts write to."""
    folder = tmp_path / "results"
    monkeypatch.setattr(record, "RESULTS", folder)
    return folder
