"""The best model of a run so far, and the end of a run that gains nothing any more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engines.core.json_form import INTEGER, NUMBER, Form, require
from retina_edge.detections import Detections
from retina_edge.evaluation.coco_metrics import METRICS
from retina_edge.training.validation import Validated

# A smaller difference of AP is no gain: the log shows four digits.
MIN_GAIN = 1e-4
# The form of a state.
FORM: Form = {"metrics": {f"{name}?": NUMBER for name in METRICS}, "evaluations without gain": INTEGER}


class BestModel:
    """The best model so far, by AP on the validation images.

    Attributes:
        ap: AP of the best model; -1 before the first evaluation.
        metrics: metrics of the best model by name, without those that are NaN.
        without_gain: number of evaluations since the last one whose AP was better by more than ``MIN_GAIN``.
        detections: detections of the best model in each validation image; None if another process found them.

    Examples:
        >>> best = BestModel()
        >>> best.ap, best.state()
        (-1.0, {'metrics': {}, 'evaluations without gain': 0})
    """

    def __init__(self) -> None:
        self.ap = -1.0
        self.metrics: dict[str, float] = {}
        self.without_gain = 0
        self.detections: list[Detections] | None = None

    def count(self, result: Validated) -> None:
        """Count an evaluation, before ``take``."""
        gain = result.evaluation.metrics["AP"] > self.ap + MIN_GAIN
        self.without_gain = 0 if gain else self.without_gain + 1

    def take(self, result: Validated) -> bool:
        """Keep the results of a model if it is better than all before; return whether it is."""
        ap = result.evaluation.metrics["AP"]
        if not ap > self.ap:
            return False
        self.ap, self.detections = ap, result.detections
        self.metrics = {name: value for name, value in result.evaluation.metrics.items() if value == value}
        return True

    def state(self) -> dict[str, Any]:
        """Return what resuming needs, apart from the AP."""
        return {"metrics": self.metrics, "evaluations without gain": self.without_gain}

    def restore(self, ap: float, state: Mapping[str, Any] | None) -> None:
        """Restore a state.

        Args:
            ap: the AP.
            state: value of ``state`` with ``FORM``; None in the files of older runs.
        """
        self.ap, self.detections = ap, None
        self.metrics = dict(state["metrics"]) if state else {"AP": ap}
        self.without_gain = state["evaluations without gain"] if state else 0


def check_state(state: Mapping[str, Any]) -> None:
    """Check the numbers of a state that has the form ``FORM``.

    Raises:
        ContractError: if a number is out of range.
    """
    count = state["evaluations without gain"]
    require(count >= 0, "best.evaluations without gain", "0 or more", count)
