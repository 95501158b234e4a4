"""Tests of the primary context of a GPU, with a stand-in for the driver."""

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
    """Replace pycuda with a stand-in in which no context has been retained."""
    driver, pycuda = Driver(), types.ModuleType("pycuda")
    pycuda.driver = driver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", pycuda)
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    monkeypatch.setattr("engines.core.cuda_context._retained", {})
    return driver


def test_objects_of_a_failed_block_are_freed_while_the_context_is_current(driver: Driver) -> None:
    contexts_when_freed: list[list[str]] = []

    def fail() -> None:
        stream = type("Stream", (), {})()
        weakref.finalize(stream, lambda: contexts_when_freed.append(driver.contexts.copy()))
        raise driver.Error("out of resources")

    with pytest.raises(DeviceError, match="out of resources") as caught, primary_context():
        fail()
    assert contexts_when_freed == [["primary"]]
    assert driver.contexts == []
    assert caught.value.__cause__ is not None


def test_concurrent_threads_retain_the_context_once(driver: Driver) -> None:
    contexts = []

    def enter() -> None:
        with primary_context() as module:
            contexts.append(module.contexts.copy())

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (driver.retained, contexts) == (1, [["primary"]] * 8)
