"""The journal's rows under every change the drive makes, in every state, and across restarts."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from transfer_fakes import DATASET, FakeService, Room, live_names, lose_answer

from pictofs.api.models import Image
from pictofs.transfer import schema
from pictofs.transfer.journal import (
    Fate,
    Journal,
    JournalDamagedError,
    JournalTooNewError,
    State,
    UploadGoneError,
)
from pictofs.transfer.ledger import Ledger
from pictofs.transfer.records import TRANSITIONS, Again, Change, ChangeKind, Refused
from pictofs.transfer.spool import Spool


def claim(room: Room) -> None:
    """All queued rows are SENDING."""
    while room.journal.claims.claim(500, 1 << 40):
        pass


# --- what is shown -----------------------------------------------------------------------------


def test_look_ups(room: Room) -> None:
    first = room.add("a.jpg", b"aa")
    other = room.add("b.jpg", b"b", folder="/x/y")
    held = room.add("c.tmp", b"ccc", state=State.HELD, reason="a working name")
    assert room.journal.find(DATASET, "/", "a.jpg") == first
    assert room.journal.find(DATASET, "/x", "b.jpg") is None
    assert room.journal.children(DATASET, "/") == {"a.jpg": first, "c.tmp": held}
    assert room.journal.folders(DATASET) == {"/", "/x/y"}
    assert room.journal.folders("other") == set()
    assert room.journal.pending() == [first, other, held]
    counts = room.journal.counts()
    assert (counts[State.QUEUED].files, counts[State.QUEUED].bytes) == (2, 3)
    assert (counts[State.HELD].files, counts[State.HELD].bytes) == (1, 3)


def test_a_folders_children_are_the_same_object_until_it_changes(room: Room) -> None:
    room.add("a.jpg", b"a")
    before = room.journal.children(DATASET, "/")
    version = room.journal.version
    room.add("b.jpg", b"b", folder="/elsewhere")
    assert room.journal.children(DATASET, "/") is before
    assert room.journal.version > version
    room.add("c.jpg", b"c")
    assert set(room.journal.children(DATASET, "/")) == {"a.jpg", "c.jpg"}
    assert set(before) == {"a.jpg"}


def test_everything_survives_a_restart(room: Room) -> None:
    room.add("a.jpg", b"aa", width=3, height=4, mtime_ns=9)
    room.add("b.tmp", b"b", state=State.HELD, reason="a working name")
    room.add("bild \N{SNOWMAN}.jpg", b"c", folder="/\N{SNOWMAN}", replaces_image_id="17")
    room.journal.set_image_mtime("17", 5)
    room.archive("18", "/x")
    before = room.journal.pending(), room.journal.image_mtimes(), room.journal.changes.all()
    room.restart()
    assert (room.journal.pending(), room.journal.image_mtimes(), room.journal.changes.all()) == before


def test_names_that_are_not_unicode_are_kept(room: Room) -> None:
    """JSON can carry lone surrogates; a hostile folder name must not break a copy into it."""
    folder = "/bad \udcff"
    row = room.add("a.jpg", b"a", folder=folder)
    room.archive("5", f"{folder}/\ud800.jpg")
    room.journal.set_image_mtime("folder:\udcff", 3)
    removals = room.journal.changes.all()
    room.restart()
    assert room.journal.find(DATASET, folder, "a.jpg") == row
    assert room.journal.changes.all() == removals
    assert room.journal.image_mtimes() == {"folder:\udcff": 3}


def test_a_place_holds_one_row(room: Room) -> None:
    room.add("a.jpg", b"a")
    with pytest.raises(FileExistsError):
        room.add("a.jpg", b"again")
    assert len(room.journal.pending()) == 1


# --- changes, by the state of the row ----------------------------------------------------------


@pytest.mark.parametrize("state", [State.QUEUED, State.HELD, State.FAILED])
def test_a_row_that_is_not_in_flight_is_changed_in_place(room: Room, state: State) -> None:
    row = room.add("a.jpg", b"old", state=State.HELD if state is State.HELD else State.QUEUED)
    if state is State.FAILED:
        claim(room)
        room.journal.claims.settle(refused={row.id: Refused("no", errno.EEXIST)})
    rewritten = room.journal.replace(row.id, room.new("a.jpg", b"new bytes"))
    assert (rewritten.id, rewritten.state, rewritten.size_bytes) == (row.id, State.QUEUED, 9)
    assert (rewritten.reason, rewritten.errno) == (None, None)
    moved = room.rename(row.id, "b.jpg", folder="/x", state=State.HELD, reason="why")
    assert (moved.id, moved.folder, moved.state, moved.reason) == (row.id, "/x", State.HELD, "why")
    assert list(room.spool.names()) == [moved.spool_name]
    room.journal.remove(row.id)
    assert room.journal.pending() == []
    assert list(room.spool.names()) == []


def test_a_rewrite_in_flight_sends_both_and_archives_the_first(room: Room, service: FakeService) -> None:
    row = room.add("a.jpg", b"old")
    room.wait()
    room.dispatch()
    room.put()
    room.uploader.registrar.flush(DATASET)
    service.after = lambda operation, _: rewrite(operation)

    def rewrite(operation: str) -> None:
        if operation == "register" and service.requests["register"] == 1:
            room.journal.replace(row.id, room.new("a.jpg", b"new"))

    room.register()
    (shown,) = room.journal.pending()
    assert (shown.size_bytes, shown.state) == (3, State.QUEUED)
    assert room.told == []
    room.pump()
    assert live_names(service) == {"/a.jpg": b"new"}
    assert service.archived() == ["a.jpg"]
    assert room.journal.wait(row.id, 0).landed


def test_a_rewrite_before_registration_sends_only_the_second(room: Room, service: FakeService) -> None:
    row = room.add("a.jpg", b"old")
    room.wait()
    room.dispatch()
    room.journal.replace(row.id, room.new("a.jpg", b"new"))
    room.pump()
    assert live_names(service) == {"/a.jpg": b"new"}
    assert service.total() == 1


def test_a_rename_in_flight(room: Room, service: FakeService) -> None:
    row = room.add("a.jpg", b"bytes")
    room.wait()
    room.dispatch()
    room.put()
    service.after = lambda operation, _: rename(operation)

    def rename(operation: str) -> None:
        if operation == "register" and service.requests["register"] == 1:
            moved = room.rename(row.id, "b.jpg")
            assert moved.id != row.id
            assert room.journal.find(DATASET, "/", "a.jpg") is None
            assert room.journal.abandoned_names(DATASET, "/") == {"a.jpg"}

    room.register()
    room.pump()
    assert live_names(service) == {"/b.jpg": b"bytes"}
    assert service.archived() == ["a.jpg"]
    assert room.told[-1] == ("landed", "/b.jpg")
    outcome = room.journal.wait(row.id, 0)
    assert outcome.image is not None
    assert outcome.image.filename == "b.jpg"


def test_a_removal_in_flight(room: Room, service: FakeService) -> None:
    row = room.add("a.jpg", b"bytes")
    room.wait()
    room.dispatch()
    room.put()
    service.after = lambda operation, _: remove(operation)

    def remove(operation: str) -> None:
        if operation == "register" and service.requests["register"] == 1:
            room.journal.remove(row.id)

    room.register()
    room.add("a.jpg", b"another")  # not to be sent before the first is archived
    room.pump()
    assert live_names(service) == {"/a.jpg": b"another"}
    assert service.archived() == ["a.jpg"]
    assert room.journal.wait(row.id, 0).fate is Fate.FORGOTTEN


def test_removing_or_rewriting_what_has_just_landed(room: Room, service: FakeService) -> None:
    """The drive looked the row up a moment ago: the change is for the image."""
    first, second, third = (room.add(f"{name}.jpg", b"old") for name in "abc")
    room.pump()
    room.journal.remove(first.id)
    room.journal.replace(second.id, room.new("b.jpg", b"new"))
    room.journal.set_mtime(third.id, 123)
    with pytest.raises(UploadGoneError):
        room.rename(third.id, "d.jpg")
    room.pump()
    assert live_names(service) == {"/b.jpg": b"new", "/c.jpg": b"old"}
    assert sorted(service.archived()) == ["a.jpg", "b.jpg"]
    image = room.journal.wait(third.id, 0).image
    assert image is not None
    assert room.journal.image_mtimes()[image.id] == 123


def test_writing_anew_between_landing_and_the_rows_end(room: Room, service: FakeService) -> None:
    row = room.add("a.jpg", b"old")

    def landed(upload: Any, image: Any) -> None:
        if upload.id == row.id:
            room.journal.add(room.new("a.jpg", b"new", replaces_image_id=image.id))

    room.uploader.registrar._on_landed = landed
    room.pump()
    assert live_names(service) == {"/a.jpg": b"new"}
    assert service.archived() == ["a.jpg"]


def test_a_rename_onto_a_pending_file_displaces_it(room: Room, service: FakeService) -> None:
    temporary = room.add(".a.jpg.x7", b"new", state=State.HELD)
    room.add("a.jpg", b"old")
    room.rename(temporary.id, "a.jpg")
    assert len(list(room.spool.names())) == 1
    room.pump()
    assert live_names(service) == {"/a.jpg": b"new"}
    assert service.total() == 1


def test_a_rename_onto_a_file_in_flight(room: Room, service: FakeService) -> None:
    room.add("a.jpg", b"old")
    room.wait()
    room.dispatch()
    temporary = room.add(".a.jpg.x7", b"new", state=State.HELD)
    room.rename(temporary.id, "a.jpg")
    room.pump()
    assert live_names(service) == {"/a.jpg": b"new"}


def test_discard(room: Room, service: FakeService) -> None:
    kept = service.add_image("a.jpg", b"old")
    row = room.add("a.jpg", b"new", replaces_image_id=kept)
    assert [r.id for r in room.journal.discard([row.id, 99])] == [row.id]
    room.pump()
    assert live_names(service) == {"/a.jpg": b"old"}
    assert list(room.spool.names()) == []


def test_retry_and_force(room: Room) -> None:
    broken = room.add("a.jpg", b"a", state=State.HELD, reason="no image")
    working = room.add("b.jpg.part", b"b", state=State.HELD, reason="a working name")
    failed = room.add("c.jpg", b"c")
    claim(room)
    room.journal.claims.settle(refused={failed.id: Refused("no", errno.EEXIST)})
    assert [row.id for row in room.journal.retry(None)] == [failed.id]
    assert [row.id for row in room.journal.retry(None, force=True)] == [broken.id]
    row = room.journal.get(broken.id)
    assert row is not None
    assert (row.state, row.forced, row.reason) == (State.QUEUED, True, None)
    held = room.journal.get(working.id)
    assert held is not None
    assert held.state is State.HELD


def test_states_follow_the_table(room: Room) -> None:
    row = room.add("a.jpg", b"a")
    with pytest.raises(ValueError, match="QUEUED"):
        room.journal.claims.settle(landed={row.id: _image("1")})
    assert set(TRANSITIONS) == set(State)


def test_one_image_for_two_rows_is_a_bug(room: Room) -> None:
    first, second = room.add("a.jpg", b"a"), room.add("b.jpg", b"b")
    claim(room)
    with pytest.raises(ValueError, match="two uploads"):
        room.journal.claims.settle(landed={first.id: _image("1"), second.id: _image("1")})


def _image(image_id: str) -> Any:
    from pictofs.api.models import Image

    return Image(id=image_id, filename="x.jpg")


# --- claiming ----------------------------------------------------------------------------------


def test_claims_are_of_one_dataset_and_bounded(room: Room) -> None:
    for number in range(6):
        room.add(f"{number}.jpg", b"123", dataset_id=f"d{number % 2}")
    assert [row.filename for row in room.journal.claims.claim(2, 1000)] == ["0.jpg", "2.jpg"]
    assert [row.filename for row in room.journal.claims.claim(9, 4)] == ["1.jpg"]
    assert [row.filename for row in room.journal.claims.claim(9, 1)] == ["3.jpg"]  # never nothing at all


def test_a_place_that_is_not_settled_is_not_claimed(room: Room, service: FakeService) -> None:
    image_id = service.add_image("a.jpg", b"old")
    room.archive(image_id, "/a.jpg")
    room.add("a.jpg", b"new")
    assert room.journal.claims.claim(9, 99) == []
    room.pump()
    assert live_names(service) == {"/a.jpg": b"new"}
    assert room.journal.pending() == []


def test_rests(room: Room, clock: Any) -> None:
    row = room.add("a.jpg", b"a")
    claim(room)
    room.journal.claims.settle(again={row.id: Again("trouble", 10)})
    assert room.journal.claims.marks().ready == 0
    assert room.journal.claims.claim(9, 99) == []
    clock.advance(20)
    assert room.journal.claims.marks().ready == 1
    (row,) = room.journal.claims.claim(9, 99)
    assert row.attempts == 2


# --- waiting -----------------------------------------------------------------------------------


def test_waiting(room: Room) -> None:
    held = room.add("a.jpg", b"a", state=State.HELD, reason="why")
    failed = room.add("b.jpg", b"b")
    claim(room)
    room.journal.claims.settle(refused={failed.id: Refused("no", errno.EEXIST)})
    queued = room.add("c.jpg", b"c")
    assert room.journal.wait(held.id, 0).fate is Fate.HELD
    outcome = room.journal.wait(failed.id, 0)
    assert (outcome.fate, outcome.reason, outcome.errno) == (Fate.FAILED, "no", errno.EEXIST)
    assert room.journal.wait(queued.id, 0).fate is Fate.TIMEOUT
    assert room.journal.wait(12345, 0).fate is Fate.FORGOTTEN


def test_a_waiter_is_woken(room: Room) -> None:
    row = room.add("a.jpg", b"a")
    woken: list[Any] = []
    told = threading.Event()
    room.journal.listen(told.set)
    thread = threading.Thread(target=lambda: woken.append(room.journal.wait(row.id, 30)))
    thread.start()
    assert told.wait(10)
    assert room.journal.claims.marks().urgent
    room.pump()
    thread.join(10)
    assert [outcome.fate for outcome in woken] == [Fate.LANDED]
    assert not room.journal.claims.marks().urgent


# --- overwriting -------------------------------------------------------------------------------


def test_overwriting_archives_the_old_image_once_the_new_bytes_are_up(
    room: Room, service: FakeService
) -> None:
    old = service.add_image("a.jpg", b"old")
    events: list[str] = []
    service.before = lambda operation, arguments: events.append(operation)
    room.add("a.jpg", b"new", replaces_image_id=old)
    room.add("b.jpg", b"b")
    room.pump()
    assert events == ["upload_urls", "put", "put", "archive", "register"]
    assert live_names(service) == {"/a.jpg": b"new", "/b.jpg": b"b"}
    assert service.archived() == ["a.jpg"]
    assert room.told.index(("archived", old)) < room.told.index(("landed", "/a.jpg"))


def test_a_refused_replacement_brings_the_old_image_back(room: Room, service: FakeService) -> None:
    old = service.add_image("a.jpg", b"old")

    def refuse(dataset_id: str, image: Any) -> Any:
        from pictofs.api.errors import ValidationError

        raise ValidationError("no such thing", status=400)

    service._register = refuse  # type: ignore[method-assign]
    room.add("a.jpg", b"new", replaces_image_id=old)
    room.pump()
    assert live_names(service) == {"/a.jpg": b"old"}
    assert room.states() == {"/a.jpg": "failed"}
    assert ("restore", old) in room.told


def test_an_old_image_that_may_not_be_archived(room: Room, service: FakeService) -> None:
    from pictofs.api.errors import ForbiddenError

    old = service.add_image("a.jpg", b"old")
    room.add("a.jpg", b"new", replaces_image_id=old)
    room.add("b.jpg", b"b")

    def forbid(operation: str, arguments: Any) -> None:
        if operation == "archive":
            raise ForbiddenError("your role", status=403)

    service.before = forbid
    room.pump()
    assert live_names(service) == {"/a.jpg": b"old", "/b.jpg": b"b"}
    (row,) = room.journal.pending()
    assert (row.state, row.errno) == (State.FAILED, errno.EACCES)


def test_a_service_that_refuses_the_url_while_the_old_image_is_there(
    room: Room, service: FakeService
) -> None:
    from pictofs.api.errors import ConflictError

    old = service.add_image("a.jpg", b"old")

    def refuse(operation: str, arguments: Any) -> None:
        if operation == "upload_urls" and "/a.jpg" in live_names(service):
            raise ConflictError("already exists", status=409)

    service.before = refuse
    room.add("a.jpg", b"new", replaces_image_id=old)
    room.pump()
    assert live_names(service) == {"/a.jpg": b"new"}


def test_an_old_image_that_is_gone_already(room: Room, service: FakeService) -> None:
    room.add("a.jpg", b"new", replaces_image_id="4711")
    room.pump()
    assert live_names(service) == {"/a.jpg": b"new"}


def test_renaming_what_was_to_overwrite_leaves_neither_place_twice(room: Room, service: FakeService) -> None:
    first, second = service.add_image("a.jpg", b"old a"), service.add_image("b.jpg", b"old b")
    row = room.add("a.jpg", b"new", replaces_image_id=first)
    room.rename(row.id, "b.jpg", replaces_image_id=second)
    room.pump()
    assert live_names(service) == {"/b.jpg": b"new"}
    assert sorted(service.archived()) == ["a.jpg", "b.jpg"]


def test_removing_what_was_to_overwrite(room: Room, service: FakeService) -> None:
    old = service.add_image("a.jpg", b"old")
    row = room.add("a.jpg", b"new", replaces_image_id=old)
    room.journal.remove(row.id)
    room.pump()
    assert live_names(service) == {}
    assert service.archived() == ["a.jpg"]


# --- the file ----------------------------------------------------------------------------------


def test_it_is_private(room: Room) -> None:
    row = room.add("a.jpg", b"a")
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in (room.folder, room.folder / "spool", *room.folder.iterdir())
    }
    assert modes.pop("state") == modes.pop("spool") == 0o700
    assert set(modes.values()) == {0o600}, modes
    assert stat.S_IMODE(room.spool.path(row.spool_name).stat().st_mode) == 0o600


def test_a_file_of_the_first_release_opens(folder: Path) -> None:
    """FIRST_RELEASE is what format 1 looked like when it was released. It is never edited."""
    room = _released(folder)
    rows = {row.path: row for row in room.journal.pending()}
    assert {path: row.state for path, row in rows.items()} == {
        "/a.jpg": State.QUEUED,
        "/f/b.jpg": State.FAILED,
        "/c.jpg.part": State.HELD,
    }
    assert (rows["/a.jpg"].mtime_ns, rows["/a.jpg"].width) == (3, 10)
    assert rows["/f/b.jpg"].errno == errno.EEXIST
    assert room.journal.image_mtimes() == {"77": 5}
    assert room.journal.changes.all() == [
        Change(1, ChangeKind.ARCHIVE, "d1", "/", "x.jpg", "/DS/x.jpg", image_id="78")
    ]
    assert room.journal.hidden() == {"78"}
    copy = room.add("copy.jpg", b"y", supersedes=Image("80", "other.jpg", "d1", "/"))
    room.rename(rows["/a.jpg"].id, "renamed.jpg")  # an old row takes new values
    assert room.archive("81", "/y.jpg") == [2]
    room.restart()
    assert room.journal.get(copy.id) == copy
    assert room.journal.hidden() == {"78", "80", "81"}
    room.close()
    room.service.close()


def test_a_newer_format_is_refused_in_a_sentence(folder: Path) -> None:
    room = _released(folder)
    room.close()
    with sqlite3.connect(folder / "state/journal.sqlite") as database:
        database.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    database.close()
    before = sorted(room.spool.names())
    with pytest.raises(JournalTooNewError, match=r"later version of pictofs.*Install that version"):
        room.open()
    assert sorted(room.spool.names()) == before
    room.lock.release()
    room.service.close()


@pytest.mark.parametrize("damage", ["garbage", "page", "foreign"])
def test_a_damaged_file_is_refused_and_the_spool_untouched(folder: Path, damage: str) -> None:
    room = _released(folder)
    room.close()
    path = folder / "state/journal.sqlite"
    if damage == "garbage":
        path.write_bytes(b"this is no database" * 100)
    elif damage == "page":
        content = bytearray(path.read_bytes())
        content[4096 : 4096 * 3] = os.urandom(4096 * 2)
        path.write_bytes(content)
    else:
        path.unlink()
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE bookmarks (url)")
        database.close()
    before = {name: room.spool.path(name).read_bytes() for name in room.spool.names()}
    damaged = path.read_bytes()
    with pytest.raises(JournalDamagedError, match=r"untouched in the spool.*rescued"):
        room.open()
    assert {name: room.spool.path(name).read_bytes() for name in room.spool.names()} == before
    assert path.read_bytes() == damaged
    room.lock.release()
    room.service.close()


def test_a_spool_whose_journal_was_moved_away_is_set_aside(room: Room) -> None:
    room.add("a.jpg", b"precious")
    room.close()
    (room.folder / "journal.sqlite").unlink()
    room.open()
    assert room.journal.rescued_files == 1
    assert [path.read_bytes() for path in (room.folder / "rescued").iterdir()] == [b"precious"]
    assert list(room.spool.names()) == []


def test_spool_files_that_were_never_committed_are_removed_at_start(room: Room) -> None:
    kept = room.add("a.jpg", b"a")
    room.new("b.jpg", b"crashed before its row")
    room.restart()
    assert list(room.spool.names()) == [kept.spool_name]
    assert not (room.folder / "rescued").exists()


def test_rows_whose_bytes_are_gone_say_so(room: Room) -> None:
    row = room.add("a.jpg", b"abc")
    room.spool.path(row.spool_name).write_bytes(b"a")
    room.restart()
    (found,) = room.journal.pending()
    assert (found.state, found.errno) == (State.FAILED, errno.EIO)
    assert "cut to 1 of 3" in (found.reason or "")


def test_a_look_changes_nothing_and_disturbs_nobody(room: Room) -> None:
    row = room.add("a.jpg", b"a")
    for closed in (False, True):
        if closed:
            room.close()
        with contextlib.closing(Ledger(room.folder / "journal.sqlite", read_only=True)) as ledger:
            assert list(ledger.mirror.shown()) == [row]
            with pytest.raises(OSError, match="readonly"), ledger.transaction() as transaction:
                transaction.drop_rows([row])
    room.open()
    assert room.journal.pending() == [row]


def test_a_look_at_nothing(folder: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Ledger(folder / "journal.sqlite", read_only=True)
    (folder / "journal.sqlite").touch()
    with pytest.raises(JournalDamagedError):
        Ledger(folder / "journal.sqlite", read_only=True)


def test_it_needs_the_lock(room: Room) -> None:
    room.close()
    with pytest.raises(ValueError, match="lock"):
        Journal(room.folder / "journal.sqlite", room.spool, room.lock)
    room.open()


def test_closed(room: Room) -> None:
    new = room.new("a.jpg", b"a")
    room.journal.close()
    with pytest.raises(OSError, match="closed") as caught:
        room.journal.add(new)
    assert caught.value.errno == errno.EBADF


def test_an_upgrade_runs_once_and_whole(folder: Path) -> None:
    path = folder / "journal.sqlite"
    schema.open_database(path)[0].close()

    def broken(database: sqlite3.Connection) -> None:
        database.execute("ALTER TABLE uploads ADD COLUMN colour TEXT")
        raise RuntimeError("half way")

    def add_colour(database: sqlite3.Connection) -> None:
        database.execute("ALTER TABLE uploads ADD COLUMN colour TEXT")

    with pytest.raises(RuntimeError):
        schema.open_database(path, version=schema.VERSION + 1, upgrades={schema.VERSION: broken})
    upgraded = {schema.VERSION: add_colour}
    for _ in range(2):
        database, is_new = schema.open_database(path, version=schema.VERSION + 1, upgrades=upgraded)
        assert not is_new
        assert database.execute("PRAGMA user_version").fetchone()[0] == schema.VERSION + 1
        database.close()


def test_there_is_a_way_up_from_every_format() -> None:
    assert set(schema.UPGRADES) == set(range(1, schema.VERSION))


def test_a_full_disk_commits_nothing(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    room.add("a.jpg", b"a")
    new = room.new("b.jpg", b"b")
    # SQLite says so itself when it may not grow the file.
    database = room.journal._core.ledger._database
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}")
    errors = []
    for number in range(200):
        try:
            room.journal.add(room.new(f"{number}.jpg", b"x" * 50, folder="/long" * 40))
        except OSError as error:
            errors.append(error.errno)
            break
    assert errors == [errno.ENOSPC]
    known = {row.filename for row in room.journal.pending()}
    database.execute("PRAGMA max_page_count = 1000000")
    assert room.journal.add(new).filename == "b.jpg"
    room.restart()
    assert {row.filename for row in room.journal.pending()} == known | {"b.jpg"}


def test_a_landed_row_is_told_again_after_a_crash_in_between(room: Room, service: FakeService) -> None:
    room.add("a.jpg", b"a")
    finish = room.journal.claims.finish
    room.journal.claims.finish = lambda ids: None  # type: ignore[method-assign]
    room.pump()
    room.journal.claims.finish = finish  # type: ignore[method-assign]
    room.restart()
    assert room.states() == {"/a.jpg": "done"}
    room.told.clear()
    room.pump()
    assert room.told == [("landed", "/a.jpg")]
    assert service.total() == 1


def test_an_unanswered_request_is_replayed_before_its_rows_are_put_again(
    room: Room, service: FakeService
) -> None:
    service.after = lose_answer("register")
    room.add("a.jpg", b"a")
    room.wait()
    while room.dispatch() or room.put():
        pass
    room.register()
    room.restart()
    events: list[str] = []
    service.before = lambda operation, _: events.append(operation)
    room.pump()
    assert events == ["register"]
    assert service.total() == 1


FIRST_RELEASE = """
CREATE TABLE registrations (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL, dataset_id TEXT NOT NULL,
    body TEXT NOT NULL, created_ns INTEGER NOT NULL);
CREATE TABLE uploads (id INTEGER PRIMARY KEY AUTOINCREMENT, dataset_id TEXT NOT NULL, folder TEXT NOT NULL,
    filename TEXT NOT NULL, spool_name TEXT NOT NULL, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    width INTEGER, height INTEGER,
    state TEXT NOT NULL CHECK (state IN ('held', 'queued', 'sending', 'done', 'failed')),
    reason TEXT, errno INTEGER, attempts INTEGER NOT NULL, forced INTEGER NOT NULL, abandoned INTEGER NOT
    NULL, suspect INTEGER NOT NULL, replaces_image_id TEXT, old_archived INTEGER NOT NULL, created_ns INTEGER
    NOT NULL, registration_id INTEGER REFERENCES registrations (id), image TEXT, CHECK (registration_id IS
    NULL OR state = 'sending'), CHECK ((image IS NULL) = (state <> 'done')), CHECK (abandoned = 0 OR state IN
    ('sending', 'done')));
CREATE UNIQUE INDEX uploads_by_place ON uploads (dataset_id, folder, filename) WHERE abandoned = 0;
CREATE TABLE removals (id INTEGER PRIMARY KEY AUTOINCREMENT, image_id TEXT NOT NULL UNIQUE,
    dataset_id TEXT NOT NULL, folder TEXT NOT NULL, filename TEXT NOT NULL, path TEXT NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('archive', 'restore')));
CREATE TABLE image_mtimes (image_id TEXT PRIMARY KEY, mtime_ns INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO registrations VALUES (1, 'a key without rows', 'd1', '[]', 0);
INSERT INTO uploads VALUES
    (1, 'd1', '/', 'a.jpg', 'aa', 1, 3, 10, 20, 'sending', NULL, NULL, 1, 0, 0, 0, NULL, 0, 4, NULL, NULL),
    (2, 'd1', '/f', 'b.jpg', 'bb', 1, 3, NULL, NULL, 'failed', 'taken', 17, 2, 0, 0, 0, '9', 0, 4, NULL,
    NULL), (3, 'd1', '/', 'c.jpg.part', 'cc', 1, 3, NULL, NULL, 'held', 'why', NULL, 0, 0, 0, 0, NULL, 0, 4,
    NULL, NULL), (4, 'd1', '/', 'a.jpg', 'dd', 1, 3, 10, 20, 'sending', NULL, NULL, 1, 0, 1, 0, NULL, 0, 4,
    NULL, NULL);
INSERT INTO removals VALUES (1, '78', 'd1', '/', 'x.jpg', '/DS/x.jpg', 'archive');
INSERT INTO image_mtimes VALUES ('77', 5);
PRAGMA application_id = 1349084020;
PRAGMA user_version = 1;
"""


def _released(folder: Path) -> Room:
    """A room opened on files of the first release."""
    from transfer_fakes import FakeClock

    state = folder / "state"
    spool = Spool(state / "spool", min_free_bytes=0)
    for name in ("aa", "bb", "cc", "dd"):
        spool.path(name).write_bytes(b"x")
    database = sqlite3.connect(state / "journal.sqlite")
    database.executescript(FIRST_RELEASE)
    database.close()
    clock = FakeClock()
    return Room(state, FakeService(folder / "service.sqlite", clock=clock), clock)
