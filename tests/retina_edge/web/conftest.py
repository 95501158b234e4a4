"""Fixtures: servers that the tests of this folder share, and clients of them."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.retina_edge.web.serving import TOKEN, Served, serving, serving_an_event


@pytest.fixture(scope="package")
def served() -> Iterator[Served]:
    """A server without a token, shared by the tests of this folder."""
    with serving_an_event() as server:
        yield server


@pytest.fixture(scope="package")
def guarded() -> Iterator[Served]:
    """A server that requires the token, shared by the tests of this folder."""
    with serving(TOKEN) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    """A client of the server without a token."""
    with httpx.Client(base_url=served.url, timeout=10) as http:
        yield http


@pytest.fixture
def anonymous(guarded: Served) -> Iterator[httpx.Client]:
    """A client without the token that its server requires."""
    with httpx.Client(base_url=guarded.url, timeout=10) as http:
        yield http
