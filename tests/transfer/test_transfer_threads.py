"""The uploader with its threads and the real clock: it moves by itself, stops when told, and never hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from transfer_fakes import FakeService, Room, live_names

from pictofs.api.errors import AuthError, NetworkError, ServerError
from pictofs.transfer.journal import Fate
from pictofs.transfer.pacing import SYSTEM_CLOCK

WAIT_S = 30.0  # far beyond what anything here takes; a hang is a failure, not a wait


class RealTime:
    """Stands in for FakeClock where threads need the real one."""

    clock = SYSTEM_CLOCK
    now_s = 0.0


@pytest.fixture
def live_room(folder: Path) -> Iterator[Room]:
    service = FakeService(folder / "service.sqlite")
    room = Room(folder / "state", service, RealTime())  # type: ignore[arg-type]
    room.uploader.start()
    room.changes.start()
    yield room
    room.uploader.stop()
    room.changes.stop()
    room.close()
    service.close()
    assert [t.name for t in threading.enumerate() if t.name.startswith("pictofs-")] == []


def test_a_lone_file(live_room: Room) -> None:
    started_s = time.monotonic()
    row = live_room.add("a.jpg", b"a")
    assert live_room.journal.wait_until_idle(WAIT_S)
    assert live_room.journal.wait(row.id, 0).fate is Fate.LANDED
    assert time.monotonic() - started_s < 2


def test_many_writers_and_a_service_in_trouble(live_room: Room) -> None:
    calls = 0
    lock = threading.Lock()

    def trouble(operation: str, arguments: Any) -> None:
        nonlocal calls
        with lock:
            calls += 1
            number = calls
        if number % 7 == 3:
            raise NetworkError("reset") if number % 2 else ServerError("busy", status=503)

    live_room.service.before = trouble
    live_room.service.after = lambda operation, _: trouble(operation, _) if operation != "put" else None
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: live_room.add(f"{n}.jpg", b"bytes of %d" % n), range(200)))
    assert live_room.uploader.drain(WAIT_S)
    assert live_names(live_room.service) == {f"/{n}.jpg": b"bytes of %d" % n for n in range(200)}
    assert live_room.service.total() == 200
    live_room.uploader.stop()  # bytes go after their rows
    assert list(live_room.spool.names()) == []


def test_the_changes_of_many_threads(live_room: Room) -> None:
    """Rewrites, renames and removals while everything is on its way."""

    def life(number: int) -> None:
        journal = live_room.journal
        row = live_room.add(f"{number}.jpg", b"first %d" % number)
        if number % 4 == 1:
            journal.replace(row.id, live_room.new(f"{number}.jpg", b"second %d" % number))
        if number % 4 == 2:
            journal.wait(row.id, WAIT_S)
            journal.replace(row.id, live_room.new(f"{number}.jpg", b"second %d" % number))
        if number % 4 == 3:
            journal.remove(row.id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(life, range(120)))
    assert live_room.uploader.drain(WAIT_S)
    words = {0: b"first", 1: b"second", 2: b"second"}
    assert live_names(live_room.service) == {
        f"/{n}.jpg": words[n % 4] + b" %d" % n for n in range(120) if n % 4 != 3
    }


def test_a_stuck_put_blocks_neither_the_others_nor_the_end(live_room: Room) -> None:
    stuck, release = threading.Event(), threading.Event()

    def hang(operation: str, arguments: Any) -> None:
        if operation == "put" and "stuck" in arguments[0]:
            stuck.set()
            release.wait(WAIT_S)

    live_room.service.before = hang
    live_room.add("stuck.jpg", b"x")
    assert stuck.wait(WAIT_S)
    rows = [live_room.add(f"{n}.jpg", b"%d" % n) for n in range(50)]
    for row in rows:
        assert live_room.journal.wait(row.id, WAIT_S).landed
    assert live_room.states() == {"/stuck.jpg": "sending"}
    started_s = time.monotonic()
    live_room.uploader.stop(timeout_s=0.2)
    assert time.monotonic() - started_s < 2
    release.set()
    live_room.uploader.stop()


def test_drain_gives_up_in_time_and_kick_goes_on(live_room: Room) -> None:
    refused = threading.Event()

    def refuse(operation: str, arguments: Any) -> None:
        refused.set()
        raise AuthError("bad key", status=401)

    live_room.service.before = refuse
    live_room.add("a.jpg", b"a")
    assert refused.wait(WAIT_S)
    assert not live_room.uploader.drain(0.2)
    assert live_room.uploader.status().needs_person
    live_room.service.before = lambda operation, arguments: None
    live_room.uploader.kick()
    assert live_room.journal.wait_until_idle(WAIT_S)
    status = live_room.uploader.status()
    assert (status.landed_files, status.landed_bytes, status.waiting) == (1, 1, None)


def test_stopping_in_the_middle_and_going_on(live_room: Room) -> None:
    for number in range(100):
        live_room.add(f"{number}.jpg", b"%d" % number)
    live_room.uploader.stop()
    live_room.changes.stop()
    live_room.restart()
    live_room.uploader.start()
    live_room.changes.start()
    assert live_room.uploader.drain(WAIT_S)
    assert len(live_names(live_room.service)) == live_room.service.total() == 100
