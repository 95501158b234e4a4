"""Places for frames: the newest of a camera, all of a file, and nobody left waiting."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from retina_edge.pipeline.slots import Slot
from retina_edge.sources.frames import Frame


def frame(index: int) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), index, None, "made")


def take(slot: Slot, ready: threading.Condition) -> int | None:
    with ready:
        found = slot.take()
    return None if found is None else found.index


def test_the_newest_wins() -> None:
    ready = threading.Condition()
    slot = Slot(ready, keeps_all=False)
    assert take(slot, ready) is None
    assert [slot.put(frame(index)) for index in range(5)] == [True] * 5
    assert take(slot, ready) == 4
    assert take(slot, ready) is None
    assert slot.dropped == 4
    slot.put(frame(5))
    slot.close()
    assert not slot.put(frame(6))
    with ready:
        assert not slot.ended
    assert take(slot, ready) == 5
    with ready:
        assert slot.ended


def test_a_queue_waits_for_room_and_loses_nothing() -> None:
    ready = threading.Condition()
    slot = Slot(ready, keeps_all=True, size=2)
    filler = threading.Thread(target=lambda: [slot.put(frame(index)) for index in range(50)])
    filler.start()
    taken: list[int] = []
    while len(taken) < 50:
        found = take(slot, ready)
        if found is None:
            time.sleep(0.001)
        else:
            taken.append(found)
    filler.join()
    assert taken == list(range(50))
    assert slot.dropped == 0


def test_closing_frees_who_waits_for_room() -> None:
    ready = threading.Condition()
    slot = Slot(ready, keeps_all=True, size=1)
    slot.put(frame(0))
    answers: list[bool] = []
    filler = threading.Thread(target=lambda: answers.append(slot.put(frame(1))))
    filler.start()
    time.sleep(0.05)
    slot.close()
    filler.join(5)
    assert answers == [False]
    assert take(slot, ready) == 0  # what was in it can still be taken


@pytest.mark.parametrize("keeps_all", [False, True])
def test_after_its_limit_it_closes(keeps_all: bool) -> None:
    ready = threading.Condition()
    slot = Slot(ready, keeps_all=keeps_all, limit=2)
    slot.put(frame(0))
    assert take(slot, ready) == 0
    slot.put(frame(1))
    if keeps_all:
        slot.put(frame(2))
    assert take(slot, ready) == 1
    assert not slot.put(frame(3))
    assert take(slot, ready) is None
    with ready:
        assert slot.ended
        assert slot.taken == 2
