"""The search for the fewest layers to put back, with models that are numbers."""

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
        raise AssertionError("hold measures by its attempts")

    return AccuracyBudget(points, never, {}, (), fallback)


def attempts(ap: Callable[[int], float]) -> Callable[[Names], Trial]:
    """Of a model whose AP depends on how many groups are put back."""

    def attempt(kept: Names) -> Trial:
        count = next(n for n in range(len(GROUPS) + 1) if kept == tuple(name for group in GROUPS[:n] for name in group))
        return Trial(kept, ap(count), 1 - len(kept) / 10)

    return attempt


def test_what_holds_at_once_is_compared_no_further() -> None:
    def never() -> list[Names]:
        raise AssertionError("no layer needs to be put back")

    trials = find_fallback(FP32, budget(0.5), attempts(lambda _: 0.396), never)
    assert trials == (Trial((), 0.396, 1.0),)


@pytest.mark.parametrize("needed", range(1, len(GROUPS)))
def test_as_few_as_hold_are_put_back(needed: int) -> None:
    trials = find_fallback(FP32, budget(0.5), attempts(lambda count: 0.4 if count >= needed else 0.3), lambda: GROUPS)
    assert trials[-1].kept == tuple(name for group in GROUPS[:needed] for name in group)
    assert trials[-1].ap == 0.4
    assert trials[0].kept == ()
    assert len({trial.kept for trial in trials}) == len(trials) <= 2 + 2 * math.ceil(math.log2(len(GROUPS)))


def test_a_gain_is_no_loss() -> None:
    assert find_fallback(FP32, budget(0.0), attempts(lambda _: 0.41), lambda: GROUPS)[-1].ap == 0.41


def test_without_fallback_it_fails_at_once() -> None:
    with pytest.raises(ExportError, match=r"at most 0\.5 AP points less than fp32's 40\.00, found 30\.00, 10\.00 less"):
        find_fallback(FP32, budget(0.5, fallback=False), attempts(lambda _: 0.3), lambda: GROUPS)


@pytest.mark.parametrize("ap", [0.3, math.nan])
def test_what_cannot_be_held_fails_before_nothing_is_int8(ap: float) -> None:
    """All groups put back would be no INT8; NaN, where nothing can be measured, is never inside."""
    tried = []

    def attempt(kept: Names) -> Trial:
        tried.append(kept)
        return Trial(kept, ap, 0.5)

    with pytest.raises(ExportError, match="6 of 7 groups of layers put back"):
        find_fallback(FP32, budget(0.5), attempt, lambda: GROUPS)
    assert max(map(len, tried)) == sum(map(len, GROUPS[:-1]))


@pytest.mark.parametrize("groups", [[], GROUPS[:1]])
def test_where_nothing_can_be_put_back(groups: list[Names]) -> None:
    with pytest.raises(ExportError, match="accuracy budget"):
        find_fallback(FP32, budget(0.5), lambda kept: Trial(kept, 0.3, 1.0), lambda: groups)


@pytest.mark.parametrize("ap", [0.0, math.nan])
def test_a_reference_that_finds_nothing_is_refused(ap: float) -> None:
    """Against 0 everything would hold, against NaN nothing."""
    with pytest.raises(ExportError, match="expected an AP above 0 of fp32"):
        check_fp32_ap(ap)


def test_fp16_is_checked_alone() -> None:
    check_budget(FP32, 0.396, budget(0.5), "fp16")
    with pytest.raises(ExportError, match="fp16 has no layers to put back"):
        check_budget(FP32, 0.39, budget(0.5), "fp16")
