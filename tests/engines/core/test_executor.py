"""Tests of the base class of executors in host memory."""

from __future__ import annotations

import pytest

from engines.core.executor import NETWORK, PREPROCESS, HostTicket, Ticket
from tests.stand_in import StandIn, contract, patch_frame


def test_a_foreign_ticket_is_refused() -> None:
    """A ticket of another kind of executor holds no images."""
    executor = StandIn(contract())
    own = executor.submit([patch_frame((64, 96), (8, 8))])
    with pytest.raises(ValueError, match=r"ticket: expected one from .* submit, got <engines\.core\.executor\.Ticket"):
        executor.result(Ticket(own.letterboxes))
    assert executor.calls == []
    assert executor.result(own).num_detections.tolist() == [1]


def test_a_submission_is_filled_up_to_the_batch() -> None:
    executor = StandIn(contract(), batch=3)
    ticket = executor.submit([patch_frame((64, 96), (8, 8))])
    assert isinstance(ticket, HostTicket)
    assert (executor.max_batch, ticket.images.shape, len(ticket.letterboxes)) == (3, (3, 64, 96, 3), 1)
    assert not ticket.images[1:].any()


def test_more_frames_than_the_batch_are_refused() -> None:
    executor = StandIn(contract(), batch=1)
    with pytest.raises(ValueError, match="frames: expected at most 1, the model's batch, got 2"):
        executor.submit([patch_frame((64, 96), (8, 8))] * 2)


def test_the_stages_of_one_submission_are_measured() -> None:
    executor = StandIn(contract())
    times = executor.measure([patch_frame((64, 96), (8, 8))] * 2)
    assert list(times) == [PREPROCESS, NETWORK]
    assert min(times.values()) > 0
    assert executor.calls == [(2, 64, 96, 3)]
