"""The primary context of a GPU, with the driver's stand-in."""

from __future__ import annotations

import sys
import threading
import types

import pytest

from engines.cuda import primary_context
from tests.engines.plugins.pycuda_stand_in import Driver


def test_it_is_retained_once_whoever_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    driver, pycuda = Driver(), types.ModuleType("pycuda")
    pycuda.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", pycuda)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr("engines.cuda._retained", {})
    entered = []

    def enter() -> None:
        with primary_context() as found:
            entered.append(found.contexts.copy())

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (driver.retained, entered) == (1, [["primary"]] * 8)
