"""Short runs of ``retina-edge train``: the arguments for a small network, and runs in two processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from retina_edge.model.checkpoint import load_checkpoint

SMALL = (
    "--backbone resnet18 --backbone-weights none --backbone-levels 3 --fpn-channels 32 --head-depth 1 "
    "--head-norm group --input 96x128 --crop 96x128 --anchors 32 64 128 --epoch-samples 4 "
    "--batch 2 --workers 0 --amp off --device cpu"
).split()
# What a test replaces to interrupt a run after a step.
ON_STEP = "retina_edge.training.training_progress.TrainingProgress.on_step"


def training_data(tiny_coco: Path, treecrowns: Path, output: Path) -> list[str]:
    """Return the arguments for the data of ``tiny_coco``, which are trained and validated on, and for the output."""
    return [str(tiny_coco), "--images", str(treecrowns / "images"), "--val", str(tiny_coco), "-o", str(output)]


def train_in_two_processes(arguments: Sequence[str], program: Sequence[str] = ("-m", "retina_edge.train")) -> str:
    """Train in two processes, which must succeed, and return what they print.

    Args:
        arguments: arguments of ``retina-edge train``.
        program: the program to run with them, as for ``python``.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*torchrun, *program, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


def assert_same_training(one: Path, two: Path, *, steps: int, tolerance: float) -> None:
    """Assert that two runs reached the same weights.

    Args:
        one, two: outputs of the runs.
        steps: steps that both have trained.
        tolerance: largest difference of a weight.
    """
    first, second = (load_checkpoint(path.with_suffix(".last.pt")).training for path in (one, two))
    assert first is not None
    assert second is not None
    assert first["step"] == second["step"] == steps
    for name, value in first["model"].items():
        torch.testing.assert_close(second["model"][name], value, atol=tolerance, rtol=0, msg=name)
