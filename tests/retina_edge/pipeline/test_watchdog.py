"""The watchdog counts the time in which the process ran, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from engines.core.errors import RetinaEdgeError
from retina_edge.pipeline.watchdog import Watchdog


class Clock:
    """A clock that is moved by hand, with a check every half second as a pipeline makes them."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.watchdog = Watchdog(60.0, 10.0, clock=lambda: self.now)

    def run(self, seconds: float) -> None:
        for _ in range(round(2 * seconds)):
            self.now += 0.5
            self.watchdog.check()

    def pause(self, seconds: float) -> None:
        self.now += seconds


def test_a_component_that_stays_busy_hangs() -> None:
    clock = Clock()
    with clock.watchdog.busy("detector"):
        clock.run(60)
        with pytest.raises(RetinaEdgeError, match="detector hangs: expected it to finish within 60 s"):
            clock.run(1)
    clock.run(100)


def test_a_paused_process_does_not_hang() -> None:
    clock = Clock()
    with clock.watchdog.busy("detector"):
        clock.run(50)
        clock.pause(3600)
        clock.run(9)
        clock.pause(66)
        clock.watchdog.stop()
        clock.pause(66)
        clock.run(1)
        with pytest.raises(RetinaEdgeError, match="within 60 s"):
            clock.run(2)


def test_after_the_stop_there_is_less_time() -> None:
    clock = Clock()
    with clock.watchdog.busy("output"):
        clock.run(20)
        assert not clock.watchdog.stopped
        clock.watchdog.stop()
        clock.run(5)
        clock.watchdog.stop()  # does not give more time
        clock.run(5)
        assert clock.watchdog.stopped
        with pytest.raises(RetinaEdgeError, match="output hangs: expected it to finish within 10 s of the stop"):
            clock.run(1)


def test_a_process_that_was_really_stopped_goes_on() -> None:
    code = (
        "import time\nfrom retina_edge.pipeline.watchdog import Watchdog\n"
        "watchdog = Watchdog(2.0, 2.0)\nwith watchdog.busy('detector'):\n"
        "    for _ in range(10):\n        print('check', flush=True)\n        time.sleep(0.1)\n"
        "        watchdog.check()\n"
        "print('finished')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(process.pid, signal.SIGCONT)
        rest = process.stdout.read()
    assert rest.endswith("finished\n")
