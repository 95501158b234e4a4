"""A lower precision inside a budget of accuracy: measured, and where it costs too much, taken back layer by layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from export.errors import ExportError

Names = tuple[str, ...]
CALIBRATE = "Calibrate with more images as the camera sees them, try another --calibrator"


@dataclass(frozen=True)
class AccuracyBudget:
    """How much a precision may cost, and what tells.

    Attributes:
        points: AP points (AP times 100) that may be lost against FP32.
        measure: AP of a deployable ONNX, 0 to 1; NaN where nothing can be measured.
        data: what it is measured on, for the record: digests and counts.
        images: frames of the same data, BGR uint8 [h, w, 3], on which layers are compared.
        fallback: INT8: layers may be put back into higher precision.
        tell: told what is being done.
    """

    points: float
    measure: Callable[[onnx.ModelProto], float]
    data: Mapping[str, Any]
    images: Sequence[npt.NDArray[np.uint8]]
    fallback: bool = True
    tell: Callable[[str], None] = lambda _: None

    def lost(self, fp32: float, here: float) -> float:
        """AP points lost; negative where it became better."""
        return 100 * (fp32 - here)

    def holds(self, fp32: float, here: float) -> bool:
        """Whether that is inside the budget; of what is no number, never."""
        return self.lost(fp32, here) <= self.points


@dataclass(frozen=True)
class Trial:
    """One attempt.

    Attributes:
        kept: names of the convolutions put back, beside those that no INT8 model quantizes.
        ap: 0 to 1.
        share: of the multiply-adds of all convolutions, those in INT8, 0 to 1.
    """

    kept: Names
    ap: float
    share: float


@dataclass(frozen=True)
class Accuracy:
    """What was measured; stands in the ONNX metadata and in the engine's passport.

    Attributes:
        ap_fp32: AP of the FP32 model it was made of, 0 to 1.
        ap: of this one.
        budget: AP points that it might lose.
        data: what both were measured on, and by what.
        trials: of INT8, every attempt, the one taken at the end.
        speed: how many times as fast as ``speed_against``, None where nothing is known.
        speed_against: of what, and whether measured or estimated.
    """

    ap_fp32: float
    ap: float
    budget: float
    data: Mapping[str, Any]
    trials: tuple[Trial, ...] = ()
    speed: float | None = None
    speed_against: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def find_fallback(
    fp32: float,
    budget: AccuracyBudget,
    attempt: Callable[[Names], Trial],
    worst_first: Callable[[], Sequence[Names]],
) -> tuple[Trial, ...]:
    """Tries INT8, and puts back as few groups of layers as hold the budget, the most harmful first.

    Groups are doubled until the budget holds, and then halved between: an evaluation of the whole data set for each
    layer would take hours.

    Args:
        fp32: AP of the FP32 model.
        budget: of which ``points`` and ``fallback`` are asked.
        attempt: makes and measures the model with these layers put back.
        worst_first: the groups that can be put back; only asked where the first attempt fails.

    Returns:
        All attempts, the one to take at the end.

    Raises:
        ExportError: it cannot be held.
    """
    trials = [attempt(())]
    if budget.holds(fp32, trials[0].ap):
        return tuple(trials)
    if not budget.fallback:
        why, mend = "the fallback that puts layers back is off", f"Leave out --no-fallback. {CALIBRATE}"
        raise ExportError(_missed(fp32, budget, trials, why, mend))
    groups = worst_first()
    # With all of them put back it is INT8 by name only.
    failed, most, count = 0, len(groups) - 1, 1
    good: tuple[int, Trial] | None = None
    while good is None and failed < most:
        count = min(count, most)
        trials.append(attempt(_first(groups, count)))
        if budget.holds(fp32, trials[-1].ap):
            good = count, trials[-1]
        else:
            failed, count = count, 2 * count
    if good is None:
        why = f"nor with {most} of {len(groups)} groups of layers put back"
        raise ExportError(_missed(fp32, budget, trials, why, CALIBRATE))
    while good[0] - failed > 1:
        middle = (good[0] + failed) // 2
        trials.append(attempt(_first(groups, middle)))
        if budget.holds(fp32, trials[-1].ap):
            good = middle, trials[-1]
        else:
            failed = middle
    trials.remove(good[1])
    return (*trials, good[1])


def check_budget(fp32: float, here: float, budget: AccuracyBudget, precision: str) -> None:
    """For a precision that has no layers to put back.

    Raises:
        ExportError: it is outside the budget.
    """
    if not budget.holds(fp32, here):
        why, mend = f"{precision} has no layers to put back", "Stay with fp32"
        raise ExportError(_missed(fp32, budget, [Trial((), here, 0.0)], why, mend))


def check_fp32_ap(fp32: float) -> None:
    """Raises ExportError where FP32 itself finds nothing: everything would be inside the budget, or nothing."""
    if not fp32 > 0:
        raise ExportError(
            f"accuracy budget: expected an AP above 0 of fp32 on the images of --val, found {100 * fp32:.2f}; give "
            "images with objects that the model knows, labeled, and the images that belong to the annotations"
        )


def _first(groups: Sequence[Names], count: int) -> Names:
    return tuple(name for group in groups[:count] for name in group)


def _missed(fp32: float, budget: AccuracyBudget, trials: Sequence[Trial], why: str, mend: str) -> str:
    best = max(trials, key=lambda trial: trial.ap)
    return (
        f"accuracy budget: expected at most {budget.points:g} AP points less than fp32's {100 * fp32:.2f}, found "
        f"{100 * best.ap:.2f}, {budget.lost(fp32, best.ap):.2f} less ({why}); nothing is written. {mend}, or allow "
        "a larger budget"
    )
