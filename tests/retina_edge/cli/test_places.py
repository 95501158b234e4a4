"""A user without a home, and a home that cannot be written to: only what needs a folder fails, and names the option."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from retina_edge.assets import FOREST, MODEL
from retina_edge.export import main

# What ``env -u HOME`` shows to a user without an entry in passwd, as containers run with any uid.
NO_HOME = (
    "import os, pwd, sys\n"
    "for name in ('HOME', 'XDG_CACHE_HOME', 'XDG_STATE_HOME', 'STATE_DIRECTORY'): os.environ.pop(name, None)\n"
    "def unknown(uid): raise KeyError(f'getpwuid(): uid not found: {uid}')\n"
    "pwd.getpwuid = unknown\n"
    "from retina_edge.__main__ import main\n"
    "raise SystemExit(main(sys.argv[1:]))\n"
)


def run_without_home(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[3])
    return subprocess.run(
        [sys.executable, "-c", NO_HOME, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("verb", ["detect", "serve", "export", "build", "train"])
def test_help_needs_no_home(tmp_path: Path, verb: str) -> None:
    run = run_without_home(verb, "--help", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert "example:" in run.stdout


def test_detection_needs_no_home_and_events_name_the_option(tmp_path: Path) -> None:
    run = run_without_home("detect", MODEL, FOREST, "--json", "out.jsonl", cwd=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads((tmp_path / "out.jsonl").read_text())["detections"]
    run = run_without_home("detect", MODEL, FOREST, "--events", "https://localhost/x", cwd=tmp_path)
    assert run.returncode == 1
    assert run.stderr == (
        "error: --events: expected a folder where events wait for delivery, found no home folder of this user; name "
        "one with --spool\n"
    )


def test_calibration_goes_on_without_a_cache(
    checkpoint: Path,
    treecrowns: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cache = tmp_path / "cache"
    cache.write_text("a file, so that no folder can be made here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    words = [checkpoint, "-o", tmp_path / "int8.onnx", "--precision", "int8", "--calibration", treecrowns / "images"]
    assert main([*map(str, words), "--calibration-images", "8"]) == 0
    assert (tmp_path / "int8.onnx").is_file()
    assert "the measured ranges cannot be kept for the next run" in caplog.text
