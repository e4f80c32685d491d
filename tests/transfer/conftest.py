"""Fixtures of the transfer room's tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from download_house import LARGE, SMALL, House
from transfer_fakes import FakeClock, FakeService, Room

_MEMORY = Path("/dev/shm")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A scratch folder, in memory where there is one: fsync is what these tests would wait for."""
    if not os.access(_MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="pictofs-test-", dir=_MEMORY) as memory:
        yield Path(memory)


@pytest.fixture
def small(tmp_path: Path) -> House:
    return House(tmp_path, SMALL)


@pytest.fixture
def large(tmp_path: Path) -> House:
    return House(tmp_path, LARGE)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def service(folder: Path, clock: FakeClock) -> Iterator[FakeService]:
    service = FakeService(folder / "service.sqlite", clock=clock)
    yield service
    service.close()


@pytest.fixture
def room(folder: Path, service: FakeService, clock: FakeClock) -> Iterator[Room]:
    room = Room(folder / "state", service, clock)
    yield room
    room.close()
