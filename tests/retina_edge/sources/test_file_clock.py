"""The times of frames from the positions of a decoder: valid, missing, disordered and restarted ones."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retina_edge.sources.file_clock import FileClock

NANOSECOND = 1e-9
milliseconds = st.lists(st.integers(1, 10_000_000), min_size=1, max_size=50)
quick = settings(deadline=None, database=None, derandomize=True)


def times(positions: list[float | None], *, fps: float = 10) -> list[float]:
    clock = FileClock(fps=fps)
    return [clock.tick(position) for position in positions]


@quick
@given(steps=milliseconds, start=st.integers(-10_000_000, 10_000_000))
def test_times_are_differences_of_positions(steps: list[int], start: int) -> None:
    positions = [(start + sum(steps[:count])) / 1000 for count in range(len(steps) + 1)]
    assert times([*positions]) == pytest.approx([position - positions[0] for position in positions], abs=NANOSECOND)


@quick
@given(st.lists(st.none() | st.floats(-1e6, 1e6) | st.floats() | st.just(0.0), min_size=1, max_size=50))
def test_times_begin_at_0_and_never_decrease(positions: list[float | None]) -> None:
    result = times(positions)
    assert result[0] == 0
    assert all(later >= earlier for earlier, later in itertools.pairwise(result))


@pytest.mark.parametrize("missing", [None, 0.0, -3.7e17, float("nan")])
def test_without_positions_the_rate_counts(missing: float | None) -> None:
    assert times([missing] * 4) == pytest.approx([0, 0.1, 0.2, 0.3])


def test_a_missing_position_between_others_does_not_move_them() -> None:
    assert times([5.0, 5.5, 0.0, 5.7, None, 6.0]) == pytest.approx([0, 0.5, 0.6, 0.7, 0.8, 1.0])


def test_frames_out_of_order_have_the_time_of_the_frame_before() -> None:
    assert times([1.0, 1.3, 1.2, 1.1, 1.4]) == pytest.approx([0, 0.3, 0.3, 0.3, 0.4])


def test_after_a_restart_the_times_go_on() -> None:
    assert times([1.0, 2.0, 3.5, 1.0, 2.0]) == pytest.approx([0, 1.0, 2.5, 2.6, 3.6])


def test_equal_positions_are_equal_times() -> None:
    assert times([1.0, 1.2, 1.2, 1.4]) == pytest.approx([0, 0.2, 0.2, 0.4])
