"""The arguments of ``retina-edge train`` for a small network that is trained for a few steps."""

from __future__ import annotations

from pathlib import Path

SMALL = (
    "--backbone resnet18 --backbone-weights none --backbone-levels 3 --fpn-channels 32 --head-depth 1 --input 96x128 "
    "--crop 96x128 --anchors 32 64 128 --epoch-samples 4 --batch 2 --workers 0 --amp off --device cpu"
).split()
# What a test replaces to interrupt a run after a step.
ON_STEP = "retina_edge.training.training_progress.TrainingProgress.on_step"


def training_data(tiny_coco: Path, treecrowns: Path, output: Path) -> list[str]:
    """Return the arguments for the data of ``tiny_coco``, which are trained and validated on, and for the output."""
    return [str(tiny_coco), "--images", str(treecrowns / "images"), "--val", str(tiny_coco), "-o", str(output)]
