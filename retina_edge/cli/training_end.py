"""What ``retina-edge train`` prints at its end: the table of several seeds, and how an interrupted run goes on."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from functools import partial
from math import nan
from pathlib import Path

from retina_edge.api.training_seeds import SeedsResult
from retina_edge.system.console import Console
from retina_edge.system.table import Table
from retina_edge.training.run_files import kept_path, last_path, seed_paths
from retina_edge.training.train_options import TrainOptions

# Columns of the table of several seeds.
METRICS = ("AP", "AP50", "AP75")


def run_outputs(args: argparse.Namespace) -> list[Path]:
    """Return the path of the best checkpoint of each run."""
    if args.seeds == 1:
        return [args.output]
    first = TrainOptions.seed if args.seed is None else args.seed
    return list(seed_paths(args.output, first, args.seeds).values())


def print_seeds(console: Console, result: SeedsResult) -> None:
    """Print a row for each run, then mean and spread, and what the copied checkpoint is."""
    table = Table("seed", "checkpoint", *METRICS)
    for seed, run in result.runs.items():
        table.add_row(str(seed), run.checkpoint.name, *(f"{run.metrics.get(name, nan):.4f}" for name in METRICS))
    for label, value in (("mean", result.mean), ("spread", result.spread)):
        table.add_row(label, "", *(f"{value(name):.4f}" for name in METRICS))
    console.print(table)
    say = partial(console.print, highlight=False, soft_wrap=True, markup=False)
    say("spread: the sample standard deviation over the seeds")
    best = result.runs[result.best].checkpoint.name
    say(
        f"{result.checkpoint} is a copy of {best}, the best of {len(result.runs)} on the validation images, on which "
        "its AP is optimistic; as the result of this recipe, quote mean and spread"
    )


def way_on_from_a_full_disk(arguments: Sequence[str], args: argparse.Namespace) -> str:
    """Return what is whole on a full disk, and how to go on, as text for the user."""
    lasts = [last for last in map(last_path, run_outputs(args)) if last.is_file()]
    kept = kept_path(args.output)
    if lasts:
        return f"an earlier state is whole in {lasts[-1]}; free some space, then {way_on(arguments, args)}"
    earlier = f"; the model of the run before is whole in {kept}" if kept.is_file() else ""
    return f"the run has saved nothing yet{earlier}; free some space, then start the run again"


def way_on(arguments: Sequence[str], args: argparse.Namespace) -> str:
    """Return the command that resumes the run, as text for the user."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return "start the run again in the same way, with --resume"
    # A resumed run has its weights from its own checkpoint; of several, some may not have begun.
    kept = [word for word in arguments if args.seeds > 1 or word != f"--init={args.init}"]
    if "--init" in kept and args.seeds == 1:
        del kept[kept.index("--init") : kept.index("--init") + 2]
    return f"go on with: {shlex.join(['retina-edge', 'train', *kept, *([] if args.resume else ['--resume'])])}"
