"""The implementation of ``retina_edge.api.train_seeds``: the same run with several seeds, to tell gains from luck."""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.atomic_file import atomic_file
from engines.core.option_checks import check_integer
from retina_edge.api.training import TrainingResult, train
from retina_edge.api.training_data import TrainingData
from retina_edge.api.training_inputs import Fields, check_outputs, fields
from retina_edge.training.observer import TrainingObserver
from retina_edge.training.run_files import (
    check_resumable,
    claim_run_files,
    earlier_seed_paths,
    last_path,
    seed_paths,
    set_aside,
)
from retina_edge.training.train_options import MOST, TrainOptions

# Far more seeds than tell a gain from luck.
MAX_SEEDS = 1000
# Options that may differ between the runs: they do not affect the result, or a run with a time measures them.
FREE_OPTIONS = ("seed", "workers", "eval_every", "patience")
MEASURED_OPTIONS = ("epochs", "epoch_samples", "warmup_steps", "ema")


@dataclass(frozen=True)
class SeedsResult:
    """The results of the runs of several seeds.

    Attributes:
        checkpoint: path of a copy of the best checkpoint.
        runs: result of each run by its seed.

    Examples:
        >>> runs = {
        ...     seed: TrainingResult(Path(f"model.seed{seed}.pt"), ap, {"AP": ap, "AP50": 2 * ap})
        ...     for seed, ap in enumerate((0.25, 0.5, 0.375))
        ... }
        >>> result = SeedsResult(Path("model.pt"), runs)
        >>> result.best, result.mean("AP"), result.spread("AP")
        (1, 0.375, 0.125)
    """

    checkpoint: Path
    runs: dict[int, TrainingResult]

    @property
    def best(self) -> int:
        """The seed of the best run by AP; of equal ones the first."""
        return max(self.runs, key=lambda seed: self.runs[seed].best_ap)

    def values(self, metric: str) -> list[float]:
        """Return a metric of each run, such as ``AP50``; NaN if a run has none."""
        return [run.metrics.get(metric, math.nan) for run in self.runs.values()]

    def mean(self, metric: str) -> float:
        """Return the mean of a metric over the runs."""
        return statistics.fmean(self.values(metric))

    def spread(self, metric: str) -> float:
        """Return the sample standard deviation of a metric over the runs, with n - 1 in the denominator."""
        values = self.values(metric)
        return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


def train_seeds(
    data: TrainingData | Path | str,
    output: Path | str,
    options: TrainOptions | Fields | None = None,
    *,
    seeds: int,
    init: Path | str | None = None,
    qat: Path | str | None = None,
    teacher: Path | str | None = None,
    resume: bool = False,
    device: str = "auto",
    on_message: Callable[[str], None] = lambda _line: None,
    make_observer: Callable[[], TrainingObserver] = TrainingObserver,
    **others: Any,
) -> SeedsResult:
    """Train with several seeds, one run after the other, and copy the best checkpoint to ``output``.

    The runs write ``NAME.seed0.pt``, ``NAME.seed1.pt`` and so on, with the files of ``train`` beside each. The seeds
    begin with that of the options. Each run has all of its time, if the options give one. When the first run starts,
    the files of all earlier runs with a seed are set aside, as ``NAME.seed1.previous.pt`` and so on.

    Args:
        data: as for ``train``; all runs have the same data.
        output: path for a copy of the best checkpoint, which ends in ``.pt``.
        options: as for ``train``.
        seeds: number of runs, at least 2.
        init, qat, teacher, device, on_message: as for ``train``.
        resume: continue runs that were interrupted. Those that have ended are not repeated, and those that have not
            begun start with the options given here.
        make_observer: function that makes the observer of a run; used in the main process only.
        others: other arguments of ``train``.

    Raises:
        ContractError: if the number of seeds is out of range.
        RetinaEdgeError, OSError, KeyboardInterrupt: as for ``train``.
    """
    check_integer("seeds", seeds, 2, MAX_SEEDS)
    output = Path(output)
    data = data if isinstance(data, TrainingData) else TrainingData(data)
    given = fields(options, TrainOptions)
    first = given.get("seed", TrainOptions.seed)
    check_integer("seed", first, 0, MOST["seed"] - seeds + 1)
    paths = seed_paths(output, first, seeds)
    inputs = [("checkpoint", init), ("checkpoint", qat), ("teacher", teacher), *data.inputs()]
    # Those of the last run, too, before the first one takes its time, and those that are set aside.
    for path in {output, *paths.values(), *(() if resume else earlier_seed_paths(output))}:
        check_outputs(path, inputs)
    begun = {seed for seed, path in paths.items() if resume and last_path(path).is_file()}
    if resume and not begun:
        check_resumable(paths[first])

    from retina_edge.model.torch_executor import select_device
    from retina_edge.training.processes import process_group

    runs: dict[int, TrainingResult] = {}
    with process_group(select_device(device)) as group, ExitStack() as stack:

        def start() -> None:
            """Claim the name of the copy. A new start sets all earlier runs aside, so that resuming takes none."""
            lines = stack.enter_context(_claimed(output, resume=resume))
            for path in earlier_seed_paths(output) if not resume else ():
                if path != paths[first]:
                    lines += set_aside(path)
            for line in lines:
                on_message(line)

        if resume and group.is_main:
            start()
        group.wait()  # until all processes have seen which runs have begun
        for number, (seed, path) in enumerate(paths.items(), 1):
            if group.is_main:
                on_message(f"seed {seed}, run {number} of {seeds}: {path.name}")
            going_on = seed in begun
            runs[seed] = train(
                data,
                path,
                {**given, "seed": seed},
                init=None if going_on else init,
                qat=qat,
                teacher=teacher,
                resume=going_on,
                device=device,
                on_message=on_message,
                on_start=start if number == 1 and not resume else lambda: None,
                observer=make_observer(),
                **others,
            )
        result = SeedsResult(output, runs)
        if group.is_main:
            best = runs[result.best].checkpoint
            with best.open("rb") as source, atomic_file(output) as target:
                shutil.copyfileobj(source, target)
            if differing := _differing([run.checkpoint for run in runs.values()], found_rate=others.get("find_lr")):
                on_message(
                    f"warning: the runs differ in {', '.join(differing)}, so the spread is not that of luck alone; "
                    "resume with the options of the first start"
                )
    return result


@contextmanager
def _claimed(output: Path, *, resume: bool) -> Iterator[list[str]]:
    """Claim the name of the copy, as a run does that writes it itself; see ``claim_run_files``."""
    log, claimed = output.with_suffix(".csv"), False
    try:
        with claim_run_files(output, resume=resume) as lines:
            claimed = True
            yield lines
    finally:
        if claimed and log.is_file() and not log.stat().st_size:
            log.unlink()  # it only held the lock


def _differing(checkpoints: Sequence[Path], *, found_rate: bool | None) -> list[str]:
    """Return the names of the options that differ between runs, of those that affect the result."""
    from retina_edge.model.checkpoint import load_checkpoint

    recipes = [load_checkpoint(path).recipe for path in checkpoints]
    free = {*FREE_OPTIONS, *(["learning_rate"] if found_rate else [])}
    names: list[str] = []
    for group in ("model", "augment", "options"):
        values = [recipe[group] if recipe else {} for recipe in recipes]
        if values[0].get("minutes"):
            free.update(MEASURED_OPTIONS)
        every = dict.fromkeys(name for part in values for name in part if name not in free)
        names += [name for name in every if any(part.get(name) != values[0].get(name) for part in values)]
    return names
