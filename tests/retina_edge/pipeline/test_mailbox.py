"""Mailboxes: the newest frame of a camera, all frames of a file, and no thread that waits forever."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from retina_edge.pipeline.mailbox import Mailbox
from retina_edge.sources.frames import Frame


def frame(index: int) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), index, None, "made")


def take(mailbox: Mailbox, ready: threading.Condition) -> int | None:
    with ready:
        taken = mailbox.take()
    return None if taken is None else taken.index


def test_the_newest_frame_wins() -> None:
    ready = threading.Condition()
    mailbox = Mailbox(ready, keep_all=False)
    assert take(mailbox, ready) is None
    assert [mailbox.put(frame(index)) for index in range(5)] == [True] * 5
    assert take(mailbox, ready) == 4
    assert take(mailbox, ready) is None
    assert mailbox.dropped == 4
    mailbox.put(frame(5))
    mailbox.close()
    assert not mailbox.put(frame(6))
    with ready:
        assert not mailbox.ended
    assert take(mailbox, ready) == 5
    with ready:
        assert mailbox.ended


def test_put_waits_for_room_if_all_frames_are_kept() -> None:
    ready = threading.Condition()
    mailbox = Mailbox(ready, keep_all=True, size=2)
    filler = threading.Thread(target=lambda: [mailbox.put(frame(index)) for index in range(50)])
    filler.start()
    taken: list[int] = []
    while len(taken) < 50:
        index = take(mailbox, ready)
        if index is None:
            time.sleep(0.001)
        else:
            taken.append(index)
    filler.join()
    assert taken == list(range(50))
    assert mailbox.dropped == 0


def test_closing_ends_a_put_that_waits_for_room() -> None:
    ready = threading.Condition()
    mailbox = Mailbox(ready, keep_all=True, size=1)
    mailbox.put(frame(0))
    answers: list[bool] = []
    filler = threading.Thread(target=lambda: answers.append(mailbox.put(frame(1))))
    filler.start()
    time.sleep(0.05)
    mailbox.close()
    filler.join(5)
    assert answers == [False]
    assert take(mailbox, ready) == 0  # a waiting frame can still be taken


@pytest.mark.parametrize("keep_all", [False, True])
def test_a_mailbox_closes_itself_at_its_limit(keep_all: bool) -> None:
    ready = threading.Condition()
    mailbox = Mailbox(ready, keep_all=keep_all, limit=2)
    mailbox.put(frame(0))
    assert take(mailbox, ready) == 0
    mailbox.put(frame(1))
    if keep_all:
        mailbox.put(frame(2))
    assert take(mailbox, ready) == 1
    assert not mailbox.put(frame(3))
    assert take(mailbox, ready) is None
    with ready:
        assert mailbox.ended
        assert mailbox.taken == 2
