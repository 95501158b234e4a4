"""The accuracy budget of a lower precision: AP is measured, and layers fall back until the budget holds."""

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
CALIBRATION_ADVICE = "Calibrate with more images as the camera will see them, try another calibrator"


@dataclass(frozen=True)
class AccuracyBudget:
    """The largest loss of accuracy that is allowed, and how accuracy is measured.

    Attributes:
        points: AP points (AP times 100) that may be lost against FP32.
        measure: function from a deployable ONNX to its AP, 0 to 1, or to NaN if AP cannot be measured.
        data: digests and counts of the data that AP is measured on, for the record.
        images: frames of the same data, uint8 [h, w, 3], BGR, on which layers are compared.
        fallback: True if INT8 layers may fall back to higher precision.
        tell: callback for progress, called with a description of each step.

    Examples:
        >>> budget = AccuracyBudget(0.5, measure=lambda model: 0.4, data={}, images=())
        >>> budget.holds(0.400, 0.396), budget.holds(0.400, 0.394)
        (True, False)
    """

    points: float
    measure: Callable[[onnx.ModelProto], float]
    data: Mapping[str, Any]
    images: Sequence[npt.NDArray[np.uint8]]
    fallback: bool = True
    tell: Callable[[str], None] = lambda _: None

    def lost(self, fp32: float, ap: float) -> float:
        """Return the AP points lost against FP32, negative if AP improved.

        Args:
            fp32: AP of the FP32 model, 0 to 1.
            ap: AP of the converted model, 0 to 1.
        """
        return 100 * (fp32 - ap)

    def holds(self, fp32: float, ap: float) -> bool:
        """True if the AP loss is within the budget; False for NaN.

        Args:
            fp32: AP of the FP32 model, 0 to 1.
            ap: AP of the converted model, 0 to 1.
        """
        return self.lost(fp32, ap) <= self.points


@dataclass(frozen=True)
class Trial:
    """One attempt at an INT8 model.

    Attributes:
        kept: names of the convolutions that fell back. Convolutions that are never quantized are not included.
        ap: AP of the model, 0 to 1.
        share: share of INT8 in the multiply-adds of all convolutions, 0 to 1.
    """

    kept: Names
    ap: float
    share: float


@dataclass(frozen=True)
class Accuracy:
    """The record of what a precision costs, stored in the ONNX metadata and in the engine's passport.

    Attributes:
        ap_fp32: AP of the FP32 model that was converted, 0 to 1.
        ap: AP of the converted model, 0 to 1.
        budget: AP points that the converted model was allowed to lose.
        data: description of the data that both were measured on, and of the runtime.
        trials: attempts at INT8, the chosen one last; empty for FP16.
        speed: speed relative to ``speed_against``, for instance 2.0 for twice as fast; None if unknown.
        speed_against: precision that ``speed`` is relative to, and the method of measurement or estimation.

    Examples:
        >>> Accuracy(ap_fp32=0.4, ap=0.397, budget=0.5, data={}).to_json()
        '{"ap_fp32": 0.4, "ap": 0.397, "budget": 0.5, "data": {}, "trials": [], "speed": null, "speed_against": ""}'
    """

    ap_fp32: float
    ap: float
    budget: float
    data: Mapping[str, Any]
    trials: tuple[Trial, ...] = ()
    speed: float | None = None
    speed_against: str = ""

    def to_json(self) -> str:
        """Return the record as a JSON object."""
        return json.dumps(asdict(self))


def find_fallback(
    fp32: float,
    budget: AccuracyBudget,
    attempt: Callable[[Names], Trial],
    worst_first: Callable[[], Sequence[Names]],
) -> tuple[Trial, ...]:
    """Find the smallest number of groups of layers that must fall back to stay within the budget.

    The most harmful groups fall back first. Their number is doubled until the budget holds, and then reduced by
    bisection. To evaluate the whole data set for each layer would take hours.

    Args:
        fp32: AP of the FP32 model, 0 to 1.
        budget: accuracy budget; only ``points`` and ``fallback`` are used.
        attempt: function that builds and measures the INT8 model in which the given layers fall back.
        worst_first: function that returns the groups of layers that can fall back, the most harmful first. It is called
            only if the first attempt exceeds the budget.

    Returns:
        All attempts, the chosen one last.

    Raises:
        ExportError: if the budget cannot be held.

    Examples:
        >>> budget = AccuracyBudget(0.5, measure=lambda model: 0.4, data={}, images=())
        >>> def attempt(kept):  # only with layer "b" in FP16 is the accuracy good enough
        ...     return Trial(kept, ap=0.40 if "b" in kept else 0.35, share=1 - len(kept) / 4)
        >>> find_fallback(0.40, budget, attempt, lambda: [("a",), ("b",), ("c",), ("d",)])[-1]
        Trial(kept=('a', 'b'), ap=0.4, share=0.5)
    """
    trials = [attempt(())]
    if budget.holds(fp32, trials[0].ap):
        return tuple(trials)
    if not budget.fallback:
        reason, fix = "layers may not fall back", f"Let layers fall back. {CALIBRATION_ADVICE}"
        raise ExportError(_missed(fp32, budget, trials, reason, fix))
    groups = worst_first()
    # At least one group stays quantized: if all fell back, the model would be INT8 in name only.
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
        reason = f"even after the fallback of {most} of {len(groups)} groups of layers"
        raise ExportError(_missed(fp32, budget, trials, reason, CALIBRATION_ADVICE))
    while good[0] - failed > 1:
        middle = (good[0] + failed) // 2
        trials.append(attempt(_first(groups, middle)))
        if budget.holds(fp32, trials[-1].ap):
            good = middle, trials[-1]
        else:
            failed = middle
    trials.remove(good[1])
    return (*trials, good[1])


def check_budget(fp32: float, ap: float, budget: AccuracyBudget, precision: str) -> None:
    """Check the accuracy of a precision in which layers cannot fall back.

    Args:
        fp32: AP of the FP32 model, 0 to 1.
        ap: AP of the converted model, 0 to 1.
        budget: accuracy budget.
        precision: precision of the converted model, for the error message.

    Raises:
        ExportError: if the AP loss is not within the budget.

    Examples:
        >>> budget = AccuracyBudget(0.5, measure=lambda model: 0.4, data={}, images=())
        >>> check_budget(0.40, 0.39, budget, "fp16")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        export.errors.ExportError: accuracy budget: expected at most 0.5 AP points less than fp32's 40.00, got ...
    """
    if not budget.holds(fp32, ap):
        reason, fix = f"in {precision}, layers cannot fall back", "Stay with fp32"
        raise ExportError(_missed(fp32, budget, [Trial((), ap, 0.0)], reason, fix))


def check_fp32_ap(fp32: float) -> None:
    """Check that the AP of FP32 is above 0, so that a loss against FP32 means something.

    Raises:
        ExportError: if the AP is 0 (every model would be within the budget) or NaN (no model would be).
    """
    if not fp32 > 0:
        raise ExportError(
            f"accuracy budget: expected fp32 to have an AP above 0 on the labeled images, got {100 * fp32:.2f}; use "
            "labeled images with objects that the model knows, and check that the images belong to the annotations"
        )


def _first(groups: Sequence[Names], count: int) -> Names:
    return tuple(name for group in groups[:count] for name in group)


def _missed(fp32: float, budget: AccuracyBudget, trials: Sequence[Trial], reason: str, fix: str) -> str:
    best = max(trials, key=lambda trial: trial.ap)
    return (
        f"accuracy budget: expected at most {budget.points:g} AP points less than fp32's {100 * fp32:.2f}, got "
        f"{100 * best.ap:.2f}, which is {budget.lost(fp32, best.ap):.2f} less ({reason}); nothing is written. {fix}, "
        "or allow a larger budget"
    )
