"""The number of frames in a batch: what is asked for, what the engine takes, and what it is tuned for."""

from __future__ import annotations

import pytest

from engines.core.batch_choice import choose_batch
from engines.core.errors import RetinaEdgeError
from retina_edge.detector import Detector
from retina_edge.tiling import TiledDetector
from tests.stand_in import OpenBatch, StandIn, contract


@pytest.mark.parametrize(
    ("executor", "frames", "chosen"),
    [
        (StandIn(contract()), 1, 1),
        (StandIn(contract()), 5, 1),  # nobody knows how many it takes
        (StandIn(contract(), batch=4), 1, 4),
        (StandIn(contract(), batch=4), 9, 4),
        (OpenBatch(largest=8, tuned=3), 1, 1),
        (OpenBatch(largest=8, tuned=3), 5, 5),
        (OpenBatch(largest=8, tuned=3), 9, 8),
    ],
)
def test_without_a_request_a_batch_holds_the_frames_there_are(
    executor: StandIn, frames: int, chosen: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert choose_batch(executor, None, frames=frames) == chosen
    assert not caplog.records  # nobody asked for another number than the tuned one


def test_a_request_for_another_batch_than_the_tuned_one_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    assert choose_batch(OpenBatch(largest=8, tuned=4), 4, frames=9) == 4
    assert not caplog.records
    assert choose_batch(OpenBatch(largest=8, tuned=4), 2) == 2
    assert "the engine is tuned for 4, but runs 2, which may be slower; choose a batch of 4" in caplog.text


@pytest.mark.parametrize("number", [0, -1, 9])
def test_an_impossible_request_is_refused(number: int) -> None:
    with pytest.raises(RetinaEdgeError, match=f"batch: expected 1 to 8, got {number}"):
        choose_batch(OpenBatch(largest=8, tuned=8), number)


def test_tiles_of_several_streams_share_batches_image_by_image() -> None:
    detector = TiledDetector(Detector(OpenBatch(largest=8, tuned=8)), overlap=20)
    assert detector.choose_batch(None, frames=3) == 1
