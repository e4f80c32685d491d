"""Removing images: batched, durable, undone when refused. How changes go together: test_transfer_changes."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
from transfer_fakes import DATASET, FakeClock, FakeService, Room, fail, live_names, lose_answer

from pictofs.api.errors import (
    AuthError,
    ForbiddenError,
    NetworkError,
    NotFoundError,
    ServerError,
    ValidationError,
)
from pictofs.api.models import BatchFailure, BatchResult
from pictofs.transfer.changes import Became
from pictofs.transfer.records import Batch, Change, ChangeKind


def remove(room: Room, image_id: str, name: str, dataset_id: str = DATASET) -> None:
    room.archive(image_id, f"/{name}", dataset_id)


def test_what_comes_together_goes_together(room: Room, service: FakeService, clock: FakeClock) -> None:
    for number in range(1000):
        image_id = service.add_image(f"{number}.jpg", b"%d" % number)
        remove(room, image_id, f"{number}.jpg")
        clock.advance(0.001)
        room.remove()
    room.pump()
    assert live_names(service) == {}
    assert service.requests == {"archive": 1}
    assert len(room.told) == 1000
    assert room.journal.changes.all() == []
    assert room.journal.hidden() == frozenset()


def test_it_waits_fifty_milliseconds_for_more_but_not_for_ever(room: Room, clock: FakeClock) -> None:
    remove(room, "1", "a.jpg")
    assert room.changes.delay_s() == pytest.approx(0.05)
    for number in range(60):
        clock.advance(0.04)
        remove(room, str(number + 2), f"{number}.jpg")
        if room.changes.delay_s() == 0:
            break
    assert number in (49, 50)  # two seconds


def test_by_dataset(room: Room, service: FakeService) -> None:
    for number in range(6):
        dataset_id = f"d{number % 2}"
        remove(
            room, service.add_image(f"{number}.jpg", b"x", dataset_id=dataset_id), f"{number}.jpg", dataset_id
        )
    room.pump()
    assert service.live() == {}
    assert service.requests == {"archive": 2}


def test_at_most_ten_thousand_in_a_request(room: Room, service: FakeService) -> None:
    sizes: list[int] = []

    def archive(batch: Batch) -> BatchResult:
        sizes.append(len(batch.image_ids))
        return BatchResult(True, len(batch.image_ids))

    service.change_images = archive  # type: ignore[method-assign]
    wish = room.change
    room.changes.add([wish(ChangeKind.ARCHIVE, f"/{number}.jpg", str(number)) for number in range(10_001)])
    room.pump()
    assert sizes == [10_000, 1]


@pytest.mark.parametrize("trouble", [fail, lose_answer], ids=["before", "after"])
def test_trouble_that_passes(room: Room, service: FakeService, trouble: Any) -> None:
    image_id = service.add_image("a.jpg", b"a")
    if trouble is fail:
        service.before = fail("archive", ServerError("busy", status=503), times=9)
    else:
        service.after = lose_answer("archive", times=9)
    remove(room, image_id, "a.jpg")
    room.restart()
    room.pump()
    assert live_names(service) == {}
    assert room.told == [("archive", image_id)]


def test_one_refusal_of_many(room: Room, service: FakeService) -> None:
    archive = service.change_images

    def picky(batch: Batch) -> BatchResult:
        result = archive(replace(batch, image_ids=tuple(i for i in batch.image_ids if i != "2")))
        return BatchResult(True, result.processed, (BatchFailure("2", "it is locked"),))

    service.change_images = picky  # type: ignore[method-assign]
    for name in "abc":
        remove(room, service.add_image(f"{name}.jpg", b"x"), f"{name}.jpg")
    room.pump()
    assert sorted(room.told) == [("archive", "1"), ("archive", "3"), ("refused", "/DS/b.jpg")]
    assert [(p.path, p.reason) for p in room.changes.problems()] == [("/DS/b.jpg", "it is locked")]
    assert room.journal.changes.all() == []


def test_a_refused_request(room: Room, service: FakeService) -> None:
    service.before = fail("archive", ForbiddenError("your role is viewer", status=403))
    for name in "abc":
        remove(room, service.add_image(f"{name}.jpg", b"x"), f"{name}.jpg")
    room.pump()
    assert sorted(room.told) == [("refused", f"/DS/{name}.jpg") for name in "abc"]
    assert len(live_names(service)) == 3
    assert service.requests["archive"] == 1


def test_one_bad_id_does_not_keep_the_others(room: Room, service: FakeService) -> None:
    def refuse(operation: str, arguments: Any) -> None:
        if operation == "archive" and "5" in arguments[1]:
            raise ValidationError("what is 5?", status=422)

    service.before = refuse
    for number in range(1, 20):
        remove(room, service.add_image(f"{number}.jpg", b"x"), f"{number}.jpg")
    room.pump()
    assert list(live_names(service)) == ["/5.jpg"]


def test_gone_is_as_good_as_archived(room: Room, service: FakeService) -> None:
    remove(room, "98", "x.jpg")
    remove(room, "99", "y.jpg")
    remove(room, service.add_image("a.jpg", b"a"), "a.jpg")
    room.pump()
    assert live_names(service) == {}
    assert {kind for kind, _ in room.told} == {"archive"}


def test_a_dataset_that_is_gone_costs_two_requests(room: Room, service: FakeService) -> None:
    for number in range(1, 100):
        remove(room, str(number), f"{number}.jpg", "lost")
    service.gone_datasets.add("lost")
    room.pump()
    assert sum(service.requests.values()) == 2
    assert len(room.told) == 99


def test_the_last_wish_for_an_image_counts(room: Room, service: FakeService) -> None:
    remove(room, "1", "a.jpg")
    remove(room, "1", "a.jpg")
    assert len(room.journal.changes.all()) == 1


def test_flush(room: Room, service: FakeService) -> None:
    assert room.changes.settle(DATASET, "/", 0)
    image_id = service.add_image("a.jpg", b"a")
    remove(room, image_id, "a.jpg")
    assert not room.changes.settle(DATASET, "/", 0)
    assert room.changes.settle("another", "/", 0)
    room.changes.start()
    try:
        assert room.changes.settle(DATASET, "/", 20)
    finally:
        room.changes.stop()
    assert live_names(service) == {}


def test_flush_waits_for_what_is_removed_in_flight(room: Room, service: FakeService) -> None:
    """Else the folder would be deleted first, and come back with the file."""
    row = room.add("a.jpg", b"a")
    room.wait()
    room.dispatch()
    room.journal.remove(row.id)
    assert not room.changes.settle(DATASET, "/", 0)
    room.pump()
    assert room.changes.settle(DATASET, "/", 0)
    assert service.total() == 0


def test_a_drive_that_fails_to_listen_does_not_stop_it(room: Room, service: FakeService) -> None:
    def break_down(change: Change, became: Became) -> None:
        raise RuntimeError("a bug")

    room.changes._on_done = break_down
    remove(room, service.add_image("a.jpg", b"a"), "a.jpg")
    room.pump()
    assert live_names(service) == {}


@pytest.mark.parametrize("error", [NetworkError("gone"), AuthError("bad key", status=401)])
def test_the_thread(room: Room, service: FakeService, error: Exception) -> None:
    service.before = fail("archive", error)
    told = threading.Event()
    room.changes._on_done = lambda change, became: told.set()
    room.changes.start()
    try:
        remove(room, service.add_image("a.jpg", b"a"), "a.jpg")
        for _ in range(100):
            room.clock.advance(100)
            room.changes._wake.set()
            if told.wait(0.1):
                break
        assert told.is_set()
    finally:
        room.changes.stop()


def test_what_is_listed_is_not_taken_for_gone(room: Room, service: FakeService) -> None:
    """A 404 may be about something else: a dataset that was renamed meanwhile, say."""
    service.before = fail("archive", NotFoundError("No such dataset.", status=404))
    for name in "ab":
        remove(room, service.add_image(f"{name}.jpg", b"x"), f"{name}.jpg")
    room.pump()
    assert sorted(room.told) == [("refused", "/DS/a.jpg"), ("refused", "/DS/b.jpg")]
    assert len(live_names(service)) == 2
