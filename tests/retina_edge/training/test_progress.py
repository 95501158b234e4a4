"""A run with a time keeps to it, and its progress is shown on a terminal and elsewhere."""

from __future__ import annotations

import dataclasses
import io

from retina_edge.evaluation.coco_metrics import METRICS, Evaluation
from retina_edge.system.console import Console
from retina_edge.training.observer import EpochReport, StepReport
from retina_edge.training.progress import TimeBudget
from retina_edge.training.training_progress import TrainingProgress


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_progress_of_a_time_goes_from_what_was_spent_to_one() -> None:
    clock = Clock()
    budget = TimeBudget(100.0, spent=20.0, clock=clock)
    budget.start()
    assert budget.progress() == 0.2
    clock.now += 40
    assert budget.progress() == 0.6
    budget.evaluated(20.0)  # reserved for the evaluation at the end
    assert budget.progress() == 0.75
    clock.now += 1000
    assert budget.progress() == 1.0
    assert not TimeBudget(0.0)


def test_evaluations_stop_if_they_take_too_much_of_the_time() -> None:
    clock = Clock()
    budget = TimeBudget(1000.0, clock=clock)
    budget.start()
    clock.now += 50
    assert budget.has_time_to_evaluate()
    budget.evaluated(20.0)
    assert not budget.has_time_to_evaluate()
    clock.now += 100
    assert budget.has_time_to_evaluate()


def test_the_times_of_evaluations_go_on_with_a_resumed_run() -> None:
    budget = TimeBudget(1000.0, spent=50.0, evaluating=20.0, clock=lambda: 0.0)
    budget.start()
    assert not budget.has_time_to_evaluate()


def step(number: int) -> StepReport:
    return StepReport(0, number, 50, number, 400, {"classification": 1.0 / number}, 0.001, images=8)


def test_the_time_left_of_a_run_with_a_time_is_that_of_the_clock() -> None:
    clock, stream = Clock(), io.StringIO()
    with TrainingProgress(Console(file=stream, width=160), clock) as progress:
        for number in range(1, 51):
            clock.now += 2.0
            progress.on_step(dataclasses.replace(step(number), seconds_left=300.0 - 2 * number))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "2 s a step: an epoch takes about 2 min, the run ends in 5 min"
    assert lines[1].startswith("step 15  epoch 1  ")  # how many it will be is not known
    assert lines[1].endswith("4 min left")


def shown(*, terminal: bool) -> str:
    clock, stream = Clock(), io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=160)
    with TrainingProgress(console, clock) as progress:
        for number in range(1, 51):
            clock.now += 2.0
            progress.on_step(step(number))
        metrics = dict.fromkeys(METRICS, 0.25)
        evaluation = Evaluation(metrics, {}, images=6, detections=30)
        progress.on_epoch(EpochReport(1, 8, 50, 400, {"classification": 0.5}, 4.0, evaluation, 12, 40))
        better = Evaluation(metrics | {"AP50": 0.5}, {}, images=6, detections=30)
        progress.on_epoch(EpochReport(2, 8, 100, 400, {"classification": 0.4}, 4.0, better, 22, 40))
        progress.on_stop()
    return stream.getvalue()


def test_without_a_terminal_there_is_a_line_at_intervals() -> None:
    lines = shown(terminal=False).splitlines()
    assert lines[0].startswith("2 s a step: an epoch takes about 2 min, the rest of the run 13 min")
    steps = [line for line in lines if line.startswith("step ")]
    assert [line.split()[1] for line in steps] == ["15/400", "30/400", "45/400"]  # every 30 seconds
    assert steps[0].endswith("classification 0.067  rate 0.001  4.0 images/s  13 min left")
    assert "epoch 1/8  classification 0.500  4.0 images/s  AP 0.250  AP50 0.250  AP75 0.250" in lines[-3]
    assert lines[-3].endswith("found 12 of 40 objects")
    assert "AP50 0.500 (+0.250)" in lines[-2]
    assert lines[-1] == "stopping after this step; again to stop now"


def test_on_a_terminal_the_bar_shows_the_same() -> None:
    output = shown(terminal=True)
    assert "classification 0.020  rate 0.001  4.0 images/s" in output
    assert "step 50/400" in output
    assert "\nstep 15" not in output
