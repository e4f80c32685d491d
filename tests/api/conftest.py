"""Fixtures for the client's tests: a scripted server, and a client that is impatient."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from stub_server import KEY, StubServer

from pictofs import Client


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with StubServer() as server:
        yield server


@pytest.fixture
def storage() -> Iterator[StubServer]:
    """Another origin than `stub`."""
    with StubServer() as server:
        yield server


@pytest.fixture
def client(stub: StubServer) -> Iterator[Client]:
    with Client(KEY, base_url=stub.url, timeout_s=5.0, backoff_base_s=0.001) as impatient:
        yield impatient
