"""The way up: waves, requests counted, answers matched, trouble of every kind. Without threads, on a fake
clock."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from transfer_fakes import DATASET, FakeClock, FakeService, Room, fail, live_names, lose_answer

from pictofs.api.errors import (
    ApiError,
    AuthError,
    ConflictError,
    ForbiddenError,
    IncompleteTransferError,
    NetworkError,
    NotFoundError,
    PaymentRequiredError,
    RateLimitError,
    ServerError,
    StorageError,
    ValidationError,
)
from pictofs.transfer.journal import Fate, State


def test_a_file_goes_up(room: Room, service: FakeService) -> None:
    row = room.add("a.jpg", b"bytes of a", mtime_ns=77)
    room.pump()
    assert service.live() == {(DATASET, "/a.jpg"): b"bytes of a"}
    assert room.journal.pending() == []
    assert list(room.spool.names()) == []
    assert room.told == [("landed", "/a.jpg")]
    outcome = room.journal.wait(row.id, 0)
    assert outcome.landed
    assert outcome.image is not None
    assert room.journal.image_mtimes() == {outcome.image.id: 77}
    assert service.requests == {"upload_urls": 1, "register": 1}


def test_a_lone_file_waits_less_than_a_fifth_of_a_second(room: Room, clock: FakeClock) -> None:
    room.add("a.jpg", b"a")
    delay_s = room.uploader.sender.delay_s()
    assert delay_s is not None
    assert 0 < delay_s < 0.2
    clock.advance(delay_s)
    assert room.dispatch()


@pytest.mark.parametrize("seconds", [1, 10, 40])
def test_a_thousand_files_take_ten_requests_at_most(
    room: Room, service: FakeService, clock: FakeClock, seconds: float
) -> None:
    """The budget of `cp -r`: 12, two of them for listings. Each PUT takes 60 ms on one of eight lines."""
    service.before = lambda operation, _: clock.advance(0.06 / 8) if operation == "put" else None
    start_s = clock.now_s
    added = 0
    while added < 1000 or room.journal.pending():
        due = 1000 if clock.now_s >= start_s + seconds else int((clock.now_s - start_s) / seconds * 1000)
        for number in range(added, due):
            room.add(f"{number}.jpg", b"x%d" % number, folder=f"/{number % 7}")
        added = max(added, due)
        if not (room.put() or room.dispatch() or room.register()):
            clock.advance(0.002)
    assert service.total() == 1000
    assert sum(service.requests.values()) <= 10, service.requests


def test_a_burst_over_two_datasets(room: Room, service: FakeService) -> None:
    for number in range(20):
        room.add(f"{number}.jpg", b"x%d" % number, dataset_id=f"d{number % 2}")
    room.pump()
    assert len(service.live()) == 20
    assert service.requests == {"upload_urls": 2, "register": 2}


def test_somebody_who_waits_is_served_at_once(room: Room, clock: FakeClock) -> None:
    room.uploader.sender.draining = True
    room.add("a.jpg", b"a")
    assert (room.uploader.sender.delay_s() or 0) <= 0.02


def test_one_file_at_a_time_while_a_copy_goes_on(room: Room, clock: FakeClock) -> None:
    sender = room.uploader.sender
    for number in range(5):
        room.add(f"{number}.jpg", b"x")
    room.wait()
    room.dispatch()
    room.add("next.jpg", b"x")
    assert sender.take() is not None
    assert sender.take() is None
    assert 0 < (sender.take_delay_s() or 0) <= 0.25
    sender.draining = True
    assert sender.take() is not None
    sender.draining = False
    for _ in range(130):  # a copy that goes on and on
        room.add(f"more {clock.now_s}.jpg", b"x")
        clock.advance(0.24)
    assert sender.take() is not None
    assert sender.take() is not None


def test_a_straggler_does_not_hold_up_the_others(room: Room, service: FakeService, clock: FakeClock) -> None:
    for name in ("a", "b", "c"):
        room.add(f"{name}.jpg", name.encode())
    room.wait()
    room.dispatch()
    clock.advance(0.3)
    straggler = room.uploader.sender.take()
    assert straggler is not None
    clock.advance(1)  # while files are being committed, one goes up at a time
    room.put()
    room.put()
    assert room.uploader.registrar.delay_s() == pytest.approx(2.0)
    clock.advance(2.1)
    room.register()
    assert len(service.live()) == 2
    # Later waves pass it as well.
    room.add("d.jpg", b"d")
    clock.advance(1)
    assert room.dispatch()
    room.put()
    room.register()
    assert len(service.live()) == 3
    room.uploader.sender.put(straggler)
    room.pump()
    assert len(service.live()) == 4


# --- answers -----------------------------------------------------------------------------------


def test_the_services_names_are_the_truth(room: Room, service: FakeService) -> None:
    service.sanitise = lambda name: name.replace(" ", "_").replace("(", "-").replace(")", "-")
    landed: dict[str, str] = {}
    room.uploader.registrar._on_landed = lambda row, image: landed.update({row.filename: image.filename})
    for name, data in (
        ("photo (1).jpg", b"1"),
        ("photo (2).jpg", b"2"),
        ("h.heic", b"heic"),
        ("ok.jpg", b"k"),
    ):
        room.add(name, data)
    room.pump()
    assert landed == {
        "photo (1).jpg": "photo_-1-.jpg",
        "photo (2).jpg": "photo_-2-.jpg",
        "h.heic": "h.png",
        "ok.jpg": "ok.jpg",
    }


def test_names_that_the_service_makes_equal_do_not_mix(room: Room, service: FakeService) -> None:
    """Staged bytes lie under the sanitised name, so both in one wave would overwrite each other."""
    service.sanitise = lambda name: name.replace(" ", "_")
    room.add("a b.jpg", b"one")
    room.add("a_b.jpg", b"two")
    room.pump()
    assert live_names(service) == {"/a_b.jpg": b"one"}
    (row,) = room.journal.pending()
    assert (row.filename, row.state, row.errno) == ("a_b.jpg", State.FAILED, errno.EEXIST)


def test_an_answer_that_says_nothing_of_a_file_is_looked_up(room: Room, service: FakeService) -> None:
    register = service.register

    def silent(dataset_id: str, images: Any, key: str) -> Any:
        result = register(dataset_id, images, key)
        return type(result)(tuple(i for i in result.succeeded if i.filename != "b.jpg"), result.failed)

    service.register = silent  # type: ignore[method-assign]
    for name in ("a", "b", "c"):
        room.add(f"{name}.jpg", name.encode())
    room.pump()
    assert sorted(service.live()) == [(DATASET, f"/{name}.jpg") for name in "abc"]
    assert room.journal.pending() == []
    assert service.total() == 3


def test_renamed_beyond_recognition_is_told_by_its_size(room: Room, service: FakeService) -> None:
    service.sanitise = lambda name: f"img{len(name)}.jpg"
    room.add("x.jpg", b"1")
    room.add("yyyy.jpg", b"22")
    room.pump()
    assert sorted(service.live().values()) == [b"1", b"22"]
    assert room.journal.pending() == []


def test_renamed_beyond_recognition_with_equal_sizes_is_told_by_its_bytes(
    room: Room, service: FakeService
) -> None:
    service.sanitise = lambda name: f"img{len(name)}.jpg"
    landed: dict[str, str] = {}
    room.uploader.registrar._on_landed = lambda row, image: landed.update({row.filename: image.filename})
    room.add("x.jpg", b"11")
    room.add("yyyy.jpg", b"22")
    room.pump()
    assert landed == {"x.jpg": "img5.jpg", "yyyy.jpg": "img8.jpg"}
    assert service.total() == 2


# --- trouble that passes -----------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["upload_urls", "put", "register"])
@pytest.mark.parametrize(
    "error",
    [
        NetworkError("no route"),
        ServerError("busy", status=503),
        IncompleteTransferError("cut", expected=9, received=3),
        KeyError("a bug"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_passes_is_tried_for_ever(
    room: Room, service: FakeService, operation: str, error: Exception
) -> None:
    service.before = fail(operation, error, times=9)
    for number in range(3):
        room.add(f"{number}.jpg", b"%d" % number)
    room.pump()
    assert len(service.live()) == service.total() == 3
    assert room.journal.pending() == []


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_storage_trouble(room: Room, service: FakeService, status: int) -> None:
    service.before = fail("put", StorageError("no", status=status), times=12)
    room.add("a.jpg", b"a")
    room.pump()
    assert service.total() == 1
    if status == 403:
        assert service.requests["upload_urls"] == 13  # a new URL each time


def test_an_expired_url_is_renewed_at_once(room: Room, service: FakeService, clock: FakeClock) -> None:
    service.before = fail("put", StorageError("expired", status=403))
    room.add("a.jpg", b"a")
    room.pump()
    assert service.total() == 1
    assert clock.now_s < 1002


def test_a_lost_answer_is_asked_for_again_with_the_same_request(room: Room, service: FakeService) -> None:
    service.after = lose_answer("register", times=3)
    for number in range(5):
        room.add(f"{number}.jpg", b"%d" % number)
    room.pump()
    assert len(service.live()) == service.total() == 5
    assert service.requests["upload_urls"] == 1
    assert service.requests["register"] == 4
    assert service.requests["find"] == 0


def test_a_lost_answer_and_a_forgotten_key(room: Room, service: FakeService) -> None:
    """Then the second try says that the names are taken: by ourselves, as the bytes tell."""

    def lose(operation: str, arguments: Any) -> None:
        if operation == "register" and service.requests["register"] == 1:
            service.forget_keys()
            raise NetworkError("the connection broke")

    service.after = lose
    for number in range(5):
        room.add(f"{number}.jpg", b"%d" % number)
    room.add("h.heic", b"heic")
    room.pump()
    assert service.total() == 6
    assert room.journal.pending() == []
    assert len([told for told in room.told if told[0] == "landed"]) == 6
    assert service.requests["find"] <= 2


def test_another_clients_file_of_that_name_is_not_taken_for_ours(room: Room, service: FakeService) -> None:
    def lose(operation: str, arguments: Any) -> None:
        if operation == "register" and service.requests["register"] == 1:
            service.add_image("a.jpg", b"theirs")
            raise NetworkError("the connection broke")

    service.before = lose
    room.add("a.jpg", b"mine!!")
    room.pump()
    assert live_names(service) == {"/a.jpg": b"theirs"}
    assert room.states() == {"/a.jpg": "failed"}


def test_a_request_older_than_its_key_is_not_sent_again(
    room: Room, service: FakeService, clock: FakeClock
) -> None:
    service.after = lose_answer("register")
    service.sanitise = lambda name: name.replace(" ", "_")
    for name in ("a.jpg", "b c.jpg", "h.heic"):
        room.add(name, name.encode())
    room.wait()
    while room.dispatch() or room.put():
        pass
    room.register()
    assert service.total() == 3
    room.close()
    service.forget_keys()
    clock.advance(25 * 3600)
    room.open()
    room.pump()
    assert service.total() == 3
    assert service.requests["register"] == 1
    assert room.journal.pending() == []


def test_a_request_that_never_arrived_and_is_older_than_its_key(
    room: Room, service: FakeService, clock: FakeClock
) -> None:
    service.before = fail("register", NetworkError("gone"), times=1)
    room.add("a.jpg", b"a")
    room.wait()
    while room.dispatch() or room.put():
        pass
    room.register()
    room.close()
    clock.advance(25 * 3600)
    room.open()
    room.pump()
    assert live_names(service) == {"/a.jpg": b"a"}
    assert service.total() == 1


def test_the_storage_has_lost_the_bytes(room: Room, service: FakeService) -> None:
    def lose(operation: str, arguments: Any) -> None:
        if operation == "register" and service.requests["register"] == 1:
            service._db.execute("DELETE FROM staged")

    service.before = lose
    room.add("a.jpg", b"a")
    room.pump()
    assert live_names(service) == {"/a.jpg": b"a"}


def test_one_poisonous_file_does_not_keep_the_others_back(room: Room, service: FakeService) -> None:
    def poison(operation: str, arguments: Any) -> None:
        if operation == "register" and any(i.filename == "7.jpg" for i in arguments[1]):
            raise ServerError("a bug of the service", status=500)

    service.before = poison
    for number in range(40):
        room.add(f"{number}.jpg", b"%d" % number)
    for _ in range(3_000):
        if not (room.dispatch() or room.put() or room.register()):
            room.wait()
        if service.total() == 39:
            break
    assert service.total() == 39
    service.before = lambda operation, arguments: None
    room.pump()
    assert service.total() == 40


def test_a_dataset_that_always_fails_does_not_keep_the_others_back(room: Room, service: FakeService) -> None:
    def poison(operation: str, arguments: Any) -> None:
        if operation == "upload_urls" and arguments[0] == "cursed":
            raise ServerError("a bug of the service", status=500)

    service.before = poison
    room.add("a.jpg", b"a", dataset_id="cursed")
    room.add("b.jpg", b"b")
    for _ in range(40):
        if not (room.dispatch() or room.put() or room.register()):
            room.wait()
    assert service.live() == {(DATASET, "/b.jpg"): b"b"}


def test_a_row_that_went_on_is_not_touched_by_its_old_request(room: Room, service: FakeService) -> None:
    """Its first request has open questions about another row while it is in a second one."""
    register = service._register

    def lose_bytes(dataset_id: str, image: Any) -> Any:
        if image.filename == "again.jpg" and service.requests["register"] == 1:
            raise ValidationError("No uploaded file found for it.", status=400)
        return register(dataset_id, image)

    answer = service.register

    def silent(dataset_id: str, images: Any, key: str) -> Any:
        result = answer(dataset_id, images, key)
        return type(result)(tuple(i for i in result.succeeded if i.filename != "open.jpg"), result.failed)

    service._register = lose_bytes  # type: ignore[method-assign]
    service.register = silent  # type: ignore[method-assign]
    room.add("again.jpg", b"again")
    room.add("open.jpg", b"open")
    room.wait()
    while room.dispatch() or room.put():
        pass
    room.register()
    assert room.states() == {"/again.jpg": "queued", "/open.jpg": "sending"}
    examine = room.uploader.registrar._evidence.examine
    room.uploader.registrar._evidence.examine = fail_once(examine)  # type: ignore[method-assign]
    service.after = lose_answer("register")
    room.pump()
    assert sorted(live_names(service)) == ["/again.jpg", "/open.jpg"]
    assert service.total() == 2


def fail_once(examine: Any) -> Any:
    calls: list[int] = []

    def late(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) < 4:
            raise NetworkError("no route")
        return examine(*arguments, **named)

    return late


# --- the whole queue waits ---------------------------------------------------------------------


def test_the_rate_limit_stops_everything_for_as_long_as_it_says(
    room: Room, service: FakeService, clock: FakeClock
) -> None:
    service.before = fail("upload_urls", RateLimitError("slow down", status=429, retry_after_s=900))
    room.add("a.jpg", b"a")
    room.wait()
    room.dispatch()
    room.add("b.jpg", b"b")
    start_s = clock.now_s
    room.archive("999", "/x.jpg")
    assert (room.uploader.sender.delay_s() or 0) > 890
    assert (room.changes.delay_s() or 0) > 890
    status = room.uploader.status()
    assert status.waiting is not None
    assert "requests are spent" in status.waiting.reason
    assert status.waiting.until_ns is not None
    room.pump()
    assert clock.now_s - start_s > 890
    assert service.requests["upload_urls"] <= 2
    assert len(service.live()) == 2
    assert room.uploader.status().waiting is None


def test_a_refused_key_keeps_everything_queued(room: Room, service: FakeService) -> None:
    service.before = fail("upload_urls", AuthError("bad key", status=401), times=2)
    room.add("a.jpg", b"a")
    room.wait()
    room.dispatch()
    assert room.states() == {"/a.jpg": "queued"}
    assert room.uploader.status().needs_person
    assert (room.uploader.sender.delay_s() or 0) > 200
    room.uploader.kick()
    assert (room.uploader.sender.delay_s() or 0) < 1
    room.pump()
    assert service.total() == 1
    assert not room.uploader.status().needs_person


def test_an_outage_costs_few_requests(room: Room, service: FakeService, clock: FakeClock) -> None:
    start_s = clock.now_s

    def outage(operation: str, arguments: Any) -> None:
        if clock.now_s < start_s + 3600:
            raise ServerError("maintenance", status=503)

    service.before = outage
    for number in range(700):
        room.add(f"{number}.jpg", b"%d" % number)
    room.pump()
    assert service.total() == 700
    assert sum(service.requests.values()) < 110  # an hour at one a minute, and some to start and to end with


# --- final refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize("operation", ["upload_urls", "register"])
@pytest.mark.parametrize(
    ("error", "number"),
    [
        (ConflictError("An image of this name already exists.", status=409), errno.EEXIST),
        (ApiError("too large", status=413), errno.EFBIG),
        (ValidationError("no such type", status=415), errno.EINVAL),
        (ValidationError("bad", status=400), errno.EINVAL),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_a_batch_refused_because_of_one_parks_that_one(
    room: Room, service: FakeService, operation: str, error: Exception, number: int
) -> None:
    def refuse(happening: str, arguments: Any) -> None:
        if happening == operation and any(image.filename == "13.jpg" for image in arguments[1]):
            raise error

    service.before = refuse
    for index in range(50):
        room.add(f"{index}.jpg", b"%d" % index)
    room.pump()
    assert service.total() == 49
    (row,) = room.journal.pending()
    assert (row.filename, row.state, row.errno) == ("13.jpg", State.FAILED, number)
    assert str(error) in (row.reason or "")
    assert sum(service.requests.values()) < 20
    outcome = room.journal.wait(row.id, 0)
    assert (outcome.fate, outcome.errno) == (Fate.FAILED, number)


@pytest.mark.parametrize("operation", ["upload_urls", "register"])
@pytest.mark.parametrize(
    ("error", "number"),
    [
        (PaymentRequiredError("Image limit reached", status=402), errno.EDQUOT),
        (ForbiddenError("your role", status=403), errno.EACCES),
        (NotFoundError("no such dataset", status=404), errno.ENOENT),
        (ConflictError("The dataset is in coldline storage.", status=409), errno.EEXIST),
    ],
    ids=lambda value: str(getattr(value, "status", "")),
)
def test_a_batch_refused_as_a_whole_parks_all_with_the_reason(
    room: Room, service: FakeService, operation: str, error: Exception, number: int
) -> None:
    service.before = fail(operation, error, times=99)
    for index in range(50):
        room.add(f"{index}.jpg", b"%d" % index)
    room.pump()
    assert sum(service.requests.values()) <= 2
    assert {(row.state, row.errno) for row in room.journal.pending()} == {(State.FAILED, number)}
    service.before = lambda operation, arguments: None
    assert len(room.journal.retry(None)) == 50
    room.pump()
    assert service.total() == 50


def test_all_of_a_batch_guilty_is_bounded(room: Room, service: FakeService, clock: FakeClock) -> None:
    service.before = fail("upload_urls", ValidationError("no", status=400), times=10**6)
    for index in range(500):
        room.add(f"{index}.jpg", b"%d" % index)
    room.wait()
    room.dispatch()
    assert service.requests["upload_urls"] <= 64
    room.pump(limit=100_000)
    assert room.journal.counts()[State.FAILED].files == 500


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("An image named 'x' already exists in '/'.", errno.EEXIST),
        ("Image limit reached: the free plan allows 100 images.", errno.EDQUOT),
        ("'x' has 99 bytes; at most 50 are allowed.", errno.EFBIG),
        ("Refused (413).", errno.EFBIG),
        ("Refused (403).", errno.EACCES),
        ("Unsupported content type 'x'.", errno.EINVAL),
        ("", errno.EINVAL),
    ],
)
def test_a_file_refused_in_a_bulk_answer(room: Room, service: FakeService, words: str, number: int) -> None:
    def refuse(dataset_id: str, image: Any) -> Any:
        if image.filename == "3.jpg":
            raise ValidationError(words, status=400)
        return register(dataset_id, image)

    register = service._register
    service._register = refuse  # type: ignore[method-assign]
    for index in range(10):
        room.add(f"{index}.jpg", b"%d" % index)
    room.pump()
    assert service.total() == 9
    (row,) = room.journal.pending()
    assert (row.filename, row.state, row.errno) == ("3.jpg", State.FAILED, number)


def test_a_name_without_a_content_type_is_not_sent(room: Room, service: FakeService) -> None:
    room.add("a.txt", b"a")
    room.pump()
    assert room.states() == {"/a.txt": "failed"}
    assert not service.requests


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_bytes_that_are_damaged_here_are_never_sent(room: Room, service: FakeService, damage: str) -> None:
    row = room.add("a.jpg", b"abc")
    path = room.spool.path(row.spool_name)
    path.unlink() if damage == "missing" else path.write_bytes(b"a")
    room.add("b.jpg", b"b")
    room.pump()
    assert live_names(service) == {"/b.jpg": b"b"}
    (row,) = room.journal.pending()
    assert (row.state, row.errno) == (State.FAILED, errno.EIO)


def test_a_landing_that_the_drive_cannot_take_in_is_still_landed(room: Room, service: FakeService) -> None:
    def break_down(row: Any, image: Any) -> None:
        raise RuntimeError("a bug")

    room.uploader.registrar._on_landed = break_down
    room.add("a.jpg", b"a")
    room.pump()
    assert room.journal.pending() == []
    assert service.total() == 1


def test_one_file_goes_up_at_a_time_while_programs_copy_in(room: Room, clock: FakeClock) -> None:
    for name in ("a", "b", "c"):
        room.add(f"{name}.jpg", name.encode())
    room.wait()
    room.dispatch()
    room.add("d.jpg", b"d")
    sender = room.uploader.sender
    first = sender.take()
    assert first is not None
    assert sender.take() is None
    assert 0 < (sender.take_delay_s() or 0) <= 0.25
    clock.advance(0.3)
    second = sender.take()
    assert second is not None
    for job in (first, second):
        sender.put(job)
