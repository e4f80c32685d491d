"""Moves, transfers and folders: in order, once, with the service's answer as the truth."""

from __future__ import annotations

from typing import Any

import pytest
from transfer_fakes import DATASET, FakeClock, FakeService, Room, fail, live_names, lose_answer

from pictofs.api.errors import ForbiddenError, NetworkError, ServerError, ValidationError
from pictofs.api.models import Directory, Image
from pictofs.cache.provisional import is_provisional
from pictofs.transfer.changes import Became
from pictofs.transfer.records import Change, ChangeKind

DAY_S = 24 * 3600.0


def tree(service: FakeService, dataset_id: str = DATASET) -> dict[str, bytes]:
    return {path: data for (found, path), data in service.live().items() if found == dataset_id}


@pytest.fixture
def became(room: Room) -> dict[str, Became]:
    """What each done change's image or folder became, by the name that people use."""
    found: dict[str, Became] = {}
    tell = room.changes._on_done

    def note(change: Change, what: Became) -> None:
        found[f"{change.kind.value} {change.path}"] = what
        tell(change, what)

    room.changes._on_done = note
    return found


def mkdir(room: Room, path: str) -> list[int]:
    return room.changes.add([room.change(ChangeKind.MKDIR, path)])


def rmdir(room: Room, path: str) -> list[int]:
    return room.changes.add([room.change(ChangeKind.RMDIR, path)])


# Moves


def test_many_moves_are_one_request(room: Room, service: FakeService, clock: FakeClock) -> None:
    for number in range(300):
        image_id = service.add_image(f"{number}.jpg", b"%d" % number, folder="/a")
        room.move(image_id, f"/a/{number}.jpg", "/b")
        clock.advance(0.001)
        room.remove()
    room.pump()
    assert tree(service) == {f"/b/{number}.jpg": b"%d" % number for number in range(300)}
    assert service.requests == {"move": 1}


def test_the_name_that_the_service_gave_is_learned(
    room: Room, service: FakeService, became: dict[str, Became]
) -> None:
    service.add_image("x.jpg", b"theirs", folder="/b")  # by another client, since the listing
    ids = [service.add_image(name, b"ours", folder="/a") for name in ("x.jpg", "y.jpg")]
    room.move(ids[0], "/a/x.jpg", "/b")
    room.move(ids[1], "/a/y.jpg", "/b")
    room.pump()
    assert set(tree(service)) == {"/b/x.jpg", "/b/x-1.jpg", "/b/y.jpg"}
    image = became["move /DS/a/x.jpg"]
    assert isinstance(image, Image)
    assert (image.id, image.filename) == (ids[0], "x-1.jpg")
    assert service.requests == {"move": 1, "find": 1}


@pytest.mark.parametrize("trouble", ["before", "after", "crash"])
def test_a_swap_survives_trouble(room: Room, service: FakeService, trouble: str) -> None:
    one = service.add_image("x.jpg", b"one", folder="/a")
    two = service.add_image("x.jpg", b"two", folder="/b")
    if trouble == "before":
        service.before = fail("move", ServerError("busy", status=503), times=4)
    elif trouble == "after":
        service.after = lose_answer("move", times=4)
    room.move(one, "/a/x.jpg", "/t")
    room.move(two, "/b/x.jpg", "/a")
    room.move(one, "/t/x.jpg", "/b")
    while trouble == "crash" and room.journal.changes.all():
        room.wait()
        room.remove()
        room.restart()
    room.pump()
    assert tree(service) == {"/a/x.jpg": b"two", "/b/x.jpg": b"one"}


def test_an_image_that_is_refused_is_said_and_the_others_go(room: Room, service: FakeService) -> None:
    def refuse(operation: str, arguments: Any) -> None:
        if operation == "move" and "2" in arguments[1]:
            raise ValidationError("2 is locked", status=422)

    service.before = refuse
    for name in "abcd":
        room.move(service.add_image(f"{name}.jpg", name.encode(), folder="/a"), f"/a/{name}.jpg", "/b")
    room.pump()
    assert set(tree(service)) == {"/b/a.jpg", "/a/b.jpg", "/b/c.jpg", "/b/d.jpg"}
    assert [(p.path, p.kind, p.reason) for p in room.changes.problems()] == [
        ("/DS/a/b.jpg", ChangeKind.MOVE, "2 is locked (HTTP 422)")
    ]
    assert ("refused", "/DS/a/b.jpg") in room.told


def test_a_dataset_that_was_renamed_is_asked_by_its_new_name(room: Room, service: FakeService) -> None:
    room.move(service.add_image("x.jpg", b"x", folder="/a"), "/a/x.jpg", "/b")
    service._known_names[DATASET] = DATASET
    service.names[DATASET] = "renamed"
    room.pump()
    assert tree(service) == {"/b/x.jpg": b"x"}
    assert service.requests == {"move": 2, "name": 1}


def test_an_upload_waits_for_the_place_that_a_move_leaves(room: Room, service: FakeService) -> None:
    moved = service.add_image("x.jpg", b"old")
    room.move(moved, "/x.jpg", "/b")
    room.add("x.jpg", b"new")
    service.before = fail("move", ServerError("busy", status=503), times=3)
    room.pump()
    assert tree(service) == {"/b/x.jpg": b"old", "/x.jpg": b"new"}


def test_an_image_takes_the_place_of_an_upload_that_was_removed_in_flight(
    room: Room, service: FakeService
) -> None:
    row = room.add("x.jpg", b"removed", folder="/b")
    room.wait()
    room.dispatch()
    room.journal.remove(row.id)
    room.move(service.add_image("x.jpg", b"moved", folder="/a"), "/a/x.jpg", "/b")
    assert room.journal.abandoned_names(DATASET, "/b") == frozenset()  # it is the other that is shown
    room.pump()
    assert tree(service) == {"/b/x.jpg": b"moved"}


# Transfers


def test_a_transfer_copies_then_archives(room: Room, service: FakeService, became: dict[str, Became]) -> None:
    for name in "abc":
        room.transfer(service.add_image(f"{name}.jpg", name.encode()), f"/{name}.jpg", "d2", "/new")
    service.requests.clear()
    room.journal.set_image_mtime("1", 77)
    assert room.journal.hidden() == {"1", "2", "3"}
    room.pump()
    assert tree(service) == {}
    assert tree(service, "d2") == {f"/new/{name}.jpg": name.encode() for name in "abc"}
    assert service.requests == {"transfer": 1, "find": 1, "archive": 1}
    copy = became["transfer /DS/a.jpg"]
    assert isinstance(copy, Image)
    assert (copy.dataset_id, copy.filename) == ("d2", "a.jpg")
    assert room.journal.image_mtimes()[copy.id] == 77


def test_a_copy_that_got_another_name_is_known_by_its_size_and_time(
    room: Room, service: FakeService, clock: FakeClock, became: dict[str, Became]
) -> None:
    service.add_image("x.jpg", b"theirs", dataset_id="d2")
    clock.advance(DAY_S)
    room.transfer(service.add_image("x.jpg", b"ours, longer"), "/x.jpg", "d2")
    room.pump()
    copy = became["transfer /DS/x.jpg"]
    assert isinstance(copy, Image)
    assert copy.filename == "x-1.jpg"
    assert tree(service, "d2") == {"/x.jpg": b"theirs", "/x-1.jpg": b"ours, longer"}


@pytest.mark.parametrize("forgets", [False, True], ids=["by-key", "by-listing"])
def test_a_lost_answer_doubles_nothing(
    room: Room, service: FakeService, clock: FakeClock, forgets: bool
) -> None:
    for name in "ab":
        room.transfer(service.add_image(f"{name}.jpg", name.encode()), f"/{name}.jpg", "d2")
    service.after = lose_answer("transfer")
    room.wait()
    room.remove()
    assert len(tree(service, "d2")) == 2
    room.restart()
    if forgets:
        clock.advance(DAY_S)
        service.forget_keys()
    room.pump()
    assert tree(service) == {}
    assert tree(service, "d2") == {"/a.jpg": b"a", "/b.jpg": b"b"}


def test_what_a_day_old_request_did_not_do_is_done(
    room: Room, service: FakeService, clock: FakeClock
) -> None:
    room.transfer(service.add_image("a.jpg", b"ours"), "/a.jpg", "d2")
    service.add_image("a-7.jpg", b"else", dataset_id="d2")  # of our size, but not our bytes
    service.before = fail("transfer", NetworkError("the connection broke"))
    room.wait()
    room.remove()
    clock.advance(DAY_S)
    room.pump()
    assert tree(service) == {}
    assert tree(service, "d2") == {"/a.jpg": b"ours", "/a-7.jpg": b"else"}


def test_a_refused_transfer_keeps_the_source(room: Room, service: FakeService) -> None:
    service.before = fail("transfer", ForbiddenError("your role is annotator", status=403))
    room.transfer(service.add_image("a.jpg", b"a"), "/a.jpg", "d2")
    room.pump()
    assert live_names(service) == {"/a.jpg": b"a"}
    assert room.journal.hidden() == frozenset()
    assert room.told == [("refused", "/DS/a.jpg")]


def test_waiting_for_a_transfer_is_waiting_for_both_steps(room: Room, service: FakeService) -> None:
    ids = room.transfer(service.add_image("a.jpg", b"a"), "/a.jpg", "d2")
    room.wait()
    room.remove()
    assert not room.journal.changes.wait(ids, 0)
    room.pump()
    assert room.journal.changes.wait(ids, 0)


# Copies


def provisional(room: Room) -> list[str | None]:
    return [change.shown_id for change in room.journal.changes.all()]


def test_copies_are_one_request_and_one_listing(
    room: Room, service: FakeService, became: dict[str, Became]
) -> None:
    for name in "abc":
        service.add_image(f"{name}.jpg", name.encode())
        room.copy(f"/{name}.jpg", "/new")
    service.requests.clear()
    first, *_ = ids = provisional(room)
    assert first is not None
    assert all(is_provisional(image_id or "") for image_id in ids)
    assert room.journal.hidden() == frozenset()
    room.journal.set_image_mtime(first, 77)
    room.pump()
    assert service.requests == {"copy": 1, "find": 1}
    paths = ("/a.jpg", "/b.jpg", "/c.jpg", "/new/a.jpg", "/new/b.jpg", "/new/c.jpg")
    assert tree(service) == {path: path[-5].encode() for path in paths}
    copy = became["copy /DS/new/a.jpg"]
    assert isinstance(copy, Image)
    assert room.journal.image_mtimes() == {copy.id: 77}
    assert room.journal.changes.all() == []


def test_what_becomes_of_the_source_waits_for_its_copies(room: Room, service: FakeService) -> None:
    for name in "ab":
        service.add_image(f"{name}.jpg", name.encode(), folder="/in")
        room.copy(f"/in/{name}.jpg", "/x")
        room.copy(f"/in/{name}.jpg", "/y")
    room.archive("1", "/in/a.jpg")
    room.move("2", "/in/b.jpg", "/out")
    room.changes.add([room.change(ChangeKind.RMDIR, "/in")])
    room.pump()
    copies = {f"/{folder}/{name}.jpg": name.encode() for folder in "xy" for name in "ab"}
    assert tree(service) == {"/out/b.jpg": b"b", **copies}
    assert "/in" not in service.folders()
    assert room.told[-1] == ("rmdir", "/in")
    assert "refused" not in dict(room.told)


def test_an_overwrite_of_the_source_waits_for_its_copy(room: Room, service: FakeService) -> None:
    source = service.add_image("a.jpg", b"old")
    room.copy("/a.jpg", "/b")
    room.add("a.jpg", b"new", replaces_image_id=source)
    room.pump()
    assert tree(service) == {"/a.jpg": b"new", "/b/a.jpg": b"old"}


def test_an_upload_to_the_place_of_a_copy_waits_for_it(room: Room, service: FakeService) -> None:
    service.add_image("a.jpg", b"copied", folder="/in")
    room.copy("/in/a.jpg", "/")
    room.add("a.jpg", b"uploaded")
    assert not room.dispatch()
    room.pump()
    assert tree(service) == {"/in/a.jpg": b"copied", "/a.jpg": b"copied"}
    assert list(room.states().values()) == ["failed"]


@pytest.mark.parametrize("forgets", [False, True], ids=["by-key", "by-listing"])
def test_the_lost_answer_to_a_copy_doubles_nothing(
    room: Room, service: FakeService, clock: FakeClock, forgets: bool
) -> None:
    for name in "ab":
        service.add_image(f"{name}.jpg", name.encode())
        room.copy(f"/{name}.jpg", "/in")
    service.after = lose_answer("copy")
    room.wait()
    room.remove()
    room.restart()
    if forgets:
        clock.advance(DAY_S)
        service.forget_keys()
    room.pump()
    assert tree(service) == {"/a.jpg": b"a", "/b.jpg": b"b", "/in/a.jpg": b"a", "/in/b.jpg": b"b"}
    assert "refused" not in dict(room.told)


def test_copies_stay_pending_until_their_ids_are_known(
    room: Room, service: FakeService, became: dict[str, Became]
) -> None:
    service.add_image("a.jpg", b"a")
    room.copy("/a.jpg", "/in")
    service.before = fail("find", NetworkError("the connection broke"), times=2)
    room.wait()
    room.remove()
    assert len(tree(service)) == 2
    assert len(room.journal.changes) == 1
    assert became == {}
    room.restart()
    room.pump()
    assert tree(service) == {"/a.jpg": b"a", "/in/a.jpg": b"a"}
    assert len(room.journal.changes) == 0
    assert service.requests["copy"] == 3


def test_a_copy_that_the_service_skips_without_a_word_is_refused(room: Room, service: FakeService) -> None:
    service.add_image("a.jpg", b"ours")
    service.add_image("b.jpg", b"ours as well")
    room.copy("/a.jpg", "/in")
    room.copy("/b.jpg", "/in")
    service.add_image("a.jpg", b"theirs", folder="/in")
    service.skips_silently = True
    room.pump()
    assert tree(service)["/in/b.jpg"] == b"ours as well"
    assert [(problem.path, problem.kind) for problem in room.changes.problems()] == [
        ("/DS/in/a.jpg", ChangeKind.COPY)
    ]


def test_a_copy_whose_name_was_taken_is_refused(room: Room, service: FakeService) -> None:
    service.add_image("a.jpg", b"ours")
    (change_id,) = room.copy("/a.jpg", "/in")
    room.journal.set_image_mtime(provisional(room)[0] or "", 77)
    service.add_image("a.jpg", b"theirs", folder="/in")
    room.pump()
    assert tree(service) == {"/a.jpg": b"ours", "/in/a.jpg": b"theirs"}
    assert room.told == [("refused", "/DS/in/a.jpg")]
    assert [problem.kind for problem in room.changes.problems()] == [ChangeKind.COPY]
    assert room.journal.image_mtimes() == {}
    with pytest.raises(OSError, match="already exists"):
        room.changes.wait("/in/a.jpg", [change_id], 0)


# Folders


def test_an_empty_folder_is_made_after_a_while(
    room: Room, service: FakeService, clock: FakeClock, became: dict[str, Became]
) -> None:
    started_s = clock.now_s
    mkdir(room, "/a")
    room.restart()  # shown again from the journal, and not rested a second time
    mkdir(room, "/b")
    room.pump()
    assert service.folders() == {"/a", "/b"}
    assert clock.now_s - started_s == pytest.approx(3, abs=0.1)
    assert isinstance(became.get("mkdir /DS/b", became), dict | Directory)


def test_a_folder_that_a_file_goes_into_costs_no_request(room: Room, service: FakeService) -> None:
    mkdir(room, "/a")
    mkdir(room, "/a/b")
    room.add("x.jpg", b"x", folder="/a/b")
    room.pump()
    assert tree(service) == {"/a/b/x.jpg": b"x"}
    assert service.requests["mkdir"] == 0
    assert room.journal.changes.all() == []


def test_a_folder_whose_only_file_is_refused_is_made(room: Room, service: FakeService) -> None:
    service.before = fail("upload_urls", ValidationError("no", status=415))
    mkdir(room, "/a")
    room.add("x.jpg", b"x", folder="/a")
    room.pump()
    assert service.folders() == {"/a"}


def test_made_and_removed_again_is_nothing(room: Room, service: FakeService) -> None:
    mkdir(room, "/a")
    rmdir(room, "/a")
    assert room.journal.changes.all() == []
    service.add_image("x.jpg", b"x", folder="/b")
    rmdir(room, "/b")
    mkdir(room, "/b")
    assert room.journal.changes.all() == []


def test_made_and_removed_is_not_nothing_when_something_went_through_it(
    room: Room, service: FakeService
) -> None:
    image_id = service.add_image("x.jpg", b"x")
    mkdir(room, "/a")
    room.move(image_id, "/x.jpg", "/a")
    room.move(image_id, "/a/x.jpg", "/")
    rmdir(room, "/a")
    room.pump()
    assert tree(service) == {"/x.jpg": b"x"}
    assert service.folders() == set()


def test_a_folder_with_a_file_in_flight_is_removed_when_that_is_gone(
    room: Room, service: FakeService
) -> None:
    mkdir(room, "/a")
    row = room.add("x.jpg", b"x", folder="/a")
    room.wait()
    room.dispatch()
    room.journal.remove(row.id)
    rmdir(room, "/a")
    room.pump()
    assert service.folders() == set()
    assert tree(service) == {}


def test_a_name_that_an_image_leaves_by_a_copy_is_free_when_that_has_landed(
    room: Room, service: FakeService
) -> None:
    service.add_image("x.jpg", b"old")
    service.add_image("y.jpg", b"old y", folder="/b")
    other = service.add_image("y.jpg", b"moved here")
    (image,) = service.find(DATASET, "/", "x.jpg")
    (second,) = service.find(DATASET, "/b", "y.jpg")
    room.add("X.jpg", b"old", supersedes=image)  # much like its own old name
    room.add("z.jpg", b"old y", supersedes=second)
    room.add("x.jpg", b"new")
    room.move(other, "/y.jpg", "/b")
    room.pump()
    expected = {"/X.jpg": b"old", "/x.jpg": b"new", "/z.jpg": b"old y", "/b/y.jpg": b"moved here"}
    assert tree(service) == expected
    assert room.states() == {}


def test_two_images_that_exchange_their_names_do_not_wait_for_each_other(
    room: Room, service: FakeService
) -> None:
    images = {}
    for name in ("a.jpg", "b.jpg"):
        service.add_image(name, name.encode())
        (images[name],) = service.find(DATASET, "/", name)
    away = room.add("t.jpg", b"a.jpg", supersedes=images["a.jpg"])
    room.add("a.jpg", b"b.jpg", supersedes=images["b.jpg"])
    room.rename(away.id, "b.jpg")
    room.pump()
    assert tree(service) == {"/a.jpg": b"b.jpg", "/b.jpg": b"a.jpg"}
    assert room.states() == {}


def test_a_folder_is_removed_after_the_image_that_went_up_from_it_under_another_name(
    room: Room, service: FakeService
) -> None:
    image_id = service.add_image("x.jpg", b"x", folder="/a")
    (image,) = service.find(DATASET, "/a", "x.jpg")
    room.add("y.jpg", b"x", folder="/b", supersedes=image)
    assert room.journal.hidden() == {image_id}
    rmdir(room, "/a")
    room.pump()
    assert tree(service) == {"/b/y.jpg": b"x"}
    assert service.folders() == {"/b"}
    assert room.changes.problems() == []


def test_it_is_not_removed_while_that_has_failed(room: Room, service: FakeService) -> None:
    service.add_image("x.jpg", b"x", folder="/a")
    (image,) = service.find(DATASET, "/a", "x.jpg")
    service.before = fail("upload_urls", ForbiddenError("your role is viewer", status=403))
    room.add("y.jpg", b"x", folder="/b", supersedes=image)
    rmdir(room, "/a")
    room.pump()
    assert tree(service) == {"/a/x.jpg": b"x"}
    assert ("refused", "/DS/a") in room.told


def test_a_folder_that_is_not_empty_after_all_is_said_so(room: Room, service: FakeService) -> None:
    service.add_image("theirs.jpg", b"x", folder="/a")
    rmdir(room, "/a")
    room.pump()
    assert room.told == [("refused", "/DS/a")]
    assert room.changes.problems()[0].reason == "Directory '/a' is not empty. (HTTP 400)"
    assert service.folders() == {"/a"}


def test_an_upload_waits_for_the_removal_of_its_folder_that_is_on_the_line(
    room: Room, service: FakeService
) -> None:
    service.add_image("x.jpg", b"x", folder="/a")
    service._db.execute("DELETE FROM images")
    rmdir(room, "/a")
    service.after = lose_answer("rmdir")
    room.wait()
    room.remove()
    mkdir(room, "/a")
    room.add("y.jpg", b"y", folder="/a")
    room.pump()
    assert tree(service) == {"/a/y.jpg": b"y"}
    assert room.changes.problems() == []


def test_hurry_does_not_let_a_folder_rest(room: Room, service: FakeService, clock: FakeClock) -> None:
    started_s = clock.now_s
    mkdir(room, "/a")
    room.wait()
    room.remove()
    room.uploader.kick()
    room.pump()
    assert service.folders() == {"/a"}
    assert clock.now_s - started_s < 1


# Waiting and restoring


def test_whoever_waits_hears_why_not(room: Room, service: FakeService) -> None:
    service.before = fail("move", ForbiddenError("your role is viewer", status=403))
    ids = room.move(service.add_image("x.jpg", b"x"), "/x.jpg", "/a")
    with pytest.raises(OSError, match="not answered yet"):
        room.changes.wait("/DS/x.jpg", ids, 0)
    room.pump()
    with pytest.raises(PermissionError, match="your role is viewer"):
        room.changes.wait("/DS/x.jpg", ids, 0)


def test_restored(room: Room, service: FakeService) -> None:
    image_id = service.add_image("x.jpg", b"x")
    room.archive(image_id, "/x.jpg")
    room.pump()
    room.journal.changes.add([Change(0, ChangeKind.RESTORE, DATASET, "/", "x.jpg", "/DS/x.jpg", image_id)])
    room.pump()
    assert tree(service) == {"/x.jpg": b"x"}
    assert room.told[-1] == ("restore", image_id)


def test_a_name_that_cannot_be_asked_for_is_not_asked_for_without_a_pause(
    room: Room, service: FakeService, clock: FakeClock
) -> None:
    ask, failures = service.dataset_name, iter(range(5))

    def fails(dataset_id: str, *, anew: bool = False) -> str:
        if next(failures, None) is not None:
            raise NetworkError("no route to host")
        return ask(dataset_id, anew=anew)

    service.dataset_name = fails  # type: ignore[method-assign]
    started_s = clock.now_s
    room.archive(service.add_image("a.jpg", b"a"), "/a.jpg")
    room.pump()
    assert tree(service) == {}
    assert clock.now_s - started_s > 8  # 0.5 + 1 + 2 + 4 + 8, less the jitter


def test_the_server_fails_on_one_image_of_many(room: Room, service: FakeService) -> None:
    """Its 500s are not an outage: the batch is taken apart, and the others arrive."""

    def fails(operation: str, arguments: Any) -> None:
        if operation == "move" and "3" in arguments[1]:
            raise ServerError("internal error", status=500)

    service.before = fails
    for number in range(1, 30):
        room.move(service.add_image(f"{number}.jpg", b"%d" % number), f"/{number}.jpg", "/a")
    for _ in range(2000):
        if not (room.remove() or room.wait()) or len(room.journal.changes) == 1:
            break
    assert [change.image_id for change in room.journal.changes.all()] == ["3"]
    service.before = lambda operation, arguments: None
    room.pump()
    assert len([path for path in tree(service) if path.startswith("/a/")]) == 29
