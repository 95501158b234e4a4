"""Tests of the search for the fewest layers that must fall back. The models are stand-ins with a given AP."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from export.errors import ExportError
from export.precision.accuracy_budget import AccuracyBudget, Names, Trial, check_budget, check_fp32_ap, find_fallback

FP32 = 0.40
GROUPS = [("a", "b"), ("c",), ("d",), ("e", "f", "g"), ("h",), ("i",), ("j",)]


def budget(points: float, *, fallback: bool = True) -> AccuracyBudget:
    def never(_: object) -> float:
        raise AssertionError("find_fallback must measure only through its attempts")

    return AccuracyBudget(points, never, {}, (), fallback)


def attempts(ap: Callable[[int], float]) -> Callable[[Names], Trial]:
    """Return the attempts of a model whose AP depends on the number of groups that fall back."""

    def attempt(kept: Names) -> Trial:
        count = next(n for n in range(len(GROUPS) + 1) if kept == tuple(name for group in GROUPS[:n] for name in group))
        return Trial(kept, ap(count), 1 - len(kept) / 10)

    return attempt


def test_if_the_first_attempt_holds_no_layers_are_compared() -> None:
    def never() -> list[Names]:
        raise AssertionError("no layer needs to fall back")

    trials = find_fallback(FP32, budget(0.5), attempts(lambda _: 0.396), never)
    assert trials == (Trial((), 0.396, 1.0),)


@pytest.mark.parametrize("needed", range(1, len(GROUPS)))
def test_as_few_groups_as_possible_fall_back(needed: int) -> None:
    trials = find_fallback(FP32, budget(0.5), attempts(lambda count: 0.4 if count >= needed else 0.3), lambda: GROUPS)
    assert trials[-1].kept == tuple(name for group in GROUPS[:needed] for name in group)
    assert trials[-1].ap == 0.4
    assert trials[0].kept == ()
    assert len({trial.kept for trial in trials}) == len(trials) <= 2 + 2 * math.ceil(math.log2(len(GROUPS)))


def test_a_gain_in_accuracy_is_within_any_budget() -> None:
    assert find_fallback(FP32, budget(0.0), attempts(lambda _: 0.41), lambda: GROUPS)[-1].ap == 0.41


def test_without_fallback_the_first_attempt_decides() -> None:
    with pytest.raises(
        ExportError, match=r"at most 0\.5 AP points less than fp32's 40\.00, got 30\.00, which is 10\.00"
    ):
        find_fallback(FP32, budget(0.5, fallback=False), attempts(lambda _: 0.3), lambda: GROUPS)


@pytest.mark.parametrize("ap", [0.3, math.nan])
def test_the_search_fails_before_all_groups_fall_back(ap: float) -> None:
    """If all groups fell back, nothing would be INT8. NaN, if nothing can be measured, is never within the budget."""
    tried = []

    def attempt(kept: Names) -> Trial:
        tried.append(kept)
        return Trial(kept, ap, 0.5)

    with pytest.raises(ExportError, match="after the fallback of 6 of 7 groups of layers"):
        find_fallback(FP32, budget(0.5), attempt, lambda: GROUPS)
    assert max(map(len, tried)) == sum(map(len, GROUPS[:-1]))


@pytest.mark.parametrize("groups", [[], GROUPS[:1]])
def test_without_groups_that_can_fall_back_the_search_fails(groups: list[Names]) -> None:
    with pytest.raises(ExportError, match="accuracy budget"):
        find_fallback(FP32, budget(0.5), lambda kept: Trial(kept, 0.3, 1.0), lambda: groups)


@pytest.mark.parametrize("ap", [0.0, math.nan])
def test_an_fp32_model_without_detections_is_refused(ap: float) -> None:
    """Compared with an AP of 0 every model would be within the budget, and compared with NaN no model would be."""
    with pytest.raises(ExportError, match="expected fp32 to have an AP above 0"):
        check_fp32_ap(ap)


def test_fp16_is_checked_without_fallback() -> None:
    check_budget(FP32, 0.396, budget(0.5), "fp16")
    with pytest.raises(ExportError, match="in fp16, layers cannot fall back"):
        check_budget(FP32, 0.39, budget(0.5), "fp16")
