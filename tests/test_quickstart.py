"""The commands of docs/quickstart.md take made pictures to boxes on a video, as they are printed."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

from retina_edge.api.training_data import TrainingData

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "quickstart.md"
MINUTES = "--minutes 8"
# Least AP50 after eight minutes on two CPU cores, from random weights.
AP50 = 0.6


def commands() -> list[str]:
    """Return the commands of the page, one for each block."""
    return [block.strip() for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)]


def run_all(lines: list[str], folder: Path) -> str:
    """Run commands in a copy of the parts of the repository that they name, and return what they print."""
    (folder / "examples").symlink_to(ROOT / "examples")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    printed = []
    for line in lines:
        done = subprocess.run(
            line, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout + done.stderr)
    return "".join(printed)


def test_every_command_is_one_that_its_verb_takes_and_the_script_makes_what_the_next_needs(tmp_path: Path) -> None:
    script, *verbs = commands()
    run_all([script], tmp_path)
    for line in verbs:
        _, verb, *arguments = shlex.split(line)
        importlib.import_module(f"retina_edge.{verb}").build_parser().parse_args(arguments)
    train, val = TrainingData(tmp_path / "shapes").load(lambda line: pytest.fail(line))
    assert (len(train), len(val)) == (18, 6)
    assert train.class_names == ("disc", "square", "triangle")
    for image in train.images:
        assert image.read().shape == (480, 640, 3)
    assert cv2.VideoCapture(str(tmp_path / "shapes" / "video.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 90


@pytest.mark.slow
def test_the_commands_lead_from_pictures_to_a_video_and_the_last_line_names_the_next(tmp_path: Path) -> None:
    lines = commands()
    assert sum(MINUTES in line for line in lines) == 1
    quick = [line.replace(MINUTES, "--minutes 0.1 --backbone-weights none") for line in lines]
    printed = run_all(quick, tmp_path)
    assert f"next: {lines[3]}" in printed  # the export
    source, annotated = (cv2.VideoCapture(str(tmp_path / name)) for name in ("shapes/video.mp4", "shapes_detected.mp4"))
    assert source.get(cv2.CAP_PROP_FRAME_COUNT) == annotated.get(cv2.CAP_PROP_FRAME_COUNT) > 0
    # After six seconds of training nothing is found, and the reason is said.
    assert "the best score was" in printed or "has not learn" in printed


@pytest.mark.timed
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="needs two processors")
def test_eight_minutes_of_training_find_most_shapes(tmp_path: Path) -> None:
    lines = commands()
    (train,) = (line for line in lines if MINUTES in line)
    random_weights = [f"{line} --backbone-weights none" if line == train else line for line in lines]
    measured = [f"{line} --json metrics.json" if " evaluate " in line else line for line in random_weights]
    run_all(measured, tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["AP50"] >= AP50
    results = [json.loads(line) for line in (tmp_path / "shapes.jsonl").read_text().splitlines()]
    assert sum(len(result["detections"]) for result in results) > len(results)
