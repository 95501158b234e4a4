"""The primary context of a GPU, with the driver's stand-in."""

from __future__ import annotations

import sys
import threading
import types
import weakref

import pytest

from engines.core.cuda_context import primary_context
from engines.core.errors import DeviceError
from tests.engines.plugins.pycuda_stand_in import Driver


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    """In pycuda's place, with no context retained yet."""
    driver, pycuda = Driver(), types.ModuleType("pycuda")
    pycuda.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", pycuda)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr("engines.core.cuda_context._retained", {})
    return driver


def test_what_an_error_leaves_is_freed_while_the_context_is_current(driver: Driver) -> None:
    current: list[list[str]] = []

    def fails() -> None:
        held = type("Stream", (), {})()
        weakref.finalize(held, lambda: current.append(driver.contexts.copy()))
        raise driver.Error("out of resources")

    with pytest.raises(DeviceError, match="out of resources") as caught, primary_context():
        fails()
    assert current == [["primary"]]
    assert driver.contexts == []
    assert caught.value.__cause__ is not None


def test_it_is_retained_once_whoever_comes_first(driver: Driver) -> None:
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
