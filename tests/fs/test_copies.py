"""cp within a dataset, without FUSE: what becomes a change, what is shown meanwhile, what is uploaded."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from test_vfs import House, jpeg, refused

from pictofs.api.models import Image
from pictofs.cache.provisional import is_provisional
from pictofs.fs.rules import Policy
from pictofs.transfer.outcomes import Unknown
from pictofs.transfer.records import Change, ChangeKind, archiving, moving

SOURCE, COPY = "/photos/old.jpg", "/photos/a/old.jpg"
WHOLE = 1 << 40


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path, Policy())
    house.vfs.opendir("/photos")
    yield house
    house.close()


def open_both(house: House, source: str = SOURCE, copy: str = COPY) -> tuple[int, int]:
    return house.vfs.open(source, os.O_RDONLY), house.vfs.create(copy, 0o644, os.O_WRONLY | os.O_EXCL)


def copy(house: House, source: str = SOURCE, target: str = COPY) -> Change:
    """cp; the change that it becomes."""
    read, written = open_both(house, source, target)
    assert house.vfs.copy_range(read, 0, written, 0, WHOLE) == 5
    house.vfs.flush(written)
    house.vfs.release(read)
    house.vfs.release(written)
    change = house.journal.changes.all()[-1]
    assert change.kind is ChangeKind.COPY
    return change


def answer(house: House, change: Change, image_id: str = "i2") -> Image:
    """The service has made it."""
    made = Image(image_id, change.filename, "d1", change.target_folder or "/", 5)
    house.service.images.append(made)
    house.service.bytes[image_id] = b"old 1"
    tell(house, change, made)
    return made


def tell(house: House, change: Change, made: Image | Unknown) -> None:
    """As `transfer.changes` does."""
    house.journal.changes.made([change])
    house.vfs.done(change, made)
    own_ids = {change.shown_id or "": made.id} if isinstance(made, Image) else {}
    house.journal.changes.settle([change], successors=own_ids)


def shown_id(house: House, path: str = COPY) -> str:
    handle = house.vfs.open(path, os.O_RDONLY)
    image = house.vfs._handle(handle).image
    assert image is not None
    house.vfs.release(handle)
    return image.id


def test_a_copy_is_shown_read_and_timed_like_any_file(house: House) -> None:
    read, written = open_both(house)
    assert house.vfs.copy_range(read, 0, written, 0, WHOLE) == 5
    assert house.read(written, 100, 1) == b"ld 1"
    house.vfs.utimens(None, None, 77, written)
    opened = house.vfs.getattr(None, written)
    assert (opened.size, opened.mtime_ns) == (5, 77)
    assert house.vfs.getattr(COPY) == opened
    house.vfs.flush(written)
    assert house.read(written, 100, 1) == b"ld 1"
    (change,) = house.journal.changes.all()
    assert is_provisional(shown_id(house))
    assert house.get(COPY) == b"old 1"
    assert house.names("/photos/a") == ["old.jpg"]
    assert house.vfs.getattr(COPY) == opened
    made = answer(house, change)
    assert shown_id(house) == made.id
    assert house.vfs.getattr(COPY) == opened
    assert house.get(COPY) == b"old 1"
    house.vfs.utimens(None, None, 99, written)
    house.vfs.release(written)
    assert house.journal.image_mtimes() == {made.id: 99}
    assert house.vfs.getattr(COPY).mtime_ns == 99
    assert list(house.spool.names()) == []
    assert house.get(SOURCE) == b"old 1"


@pytest.mark.parametrize(
    ("source_offset", "target_offset", "size"), [(1, 0, WHOLE), (0, 1, WHOLE), (0, 0, 4), (5, 5, WHOLE)]
)
def test_a_part_is_read_and_written(house: House, source_offset: int, target_offset: int, size: int) -> None:
    read, written = open_both(house)
    assert house.vfs.copy_range(read, source_offset, written, target_offset, size) is None


def test_what_was_written_before_or_is_called_otherwise_is_read_and_written(house: House) -> None:
    read, written = open_both(house)
    house.vfs.write(written, memoryview(b"x"), 0)
    assert house.vfs.copy_range(read, 0, written, 0, WHOLE) is None
    read, written = open_both(house, copy="/photos/a/other.jpg")
    assert house.vfs.copy_range(read, 0, written, 0, WHOLE) is None
    house.put("/photos/new.jpg", jpeg())
    read, written = open_both(house, "/photos/new.jpg", "/photos/a/new.jpg")
    assert house.vfs.copy_range(read, 0, written, 0, WHOLE) is None


def test_a_copy_of_a_copy_under_way_is_read_and_written(house: House) -> None:
    copy(house)
    house.vfs.mkdir("/photos/b")
    read, written = open_both(house, COPY, "/photos/b/old.jpg")
    assert house.vfs.copy_range(read, 0, written, 0, WHOLE) is None
    assert house.read(read, 100, 0) == b"old 1"


def test_a_source_that_was_removed_before_the_close_is_uploaded(house: House) -> None:
    house.service.bytes["i1"] = jpeg()
    house.service.images[0] = replace(house.service.images[0], file_size=len(jpeg()))
    house.vfs.refresh("/photos")
    read, written = open_both(house)
    house.vfs.utimens(None, None, 77, written)
    assert house.vfs.copy_range(read, 0, written, 0, WHOLE) == len(jpeg())
    house.vfs.unlink(SOURCE)
    assert house.vfs.copy_range(read, 0, written, 0, WHOLE) is None
    house.vfs.flush(written)
    assert house.changes() == [("archive", "i1")]
    row = house.row("old.jpg", "/a")
    assert (row.size_bytes, row.mtime_ns) == (len(jpeg()), 77)
    assert house.get(COPY) == jpeg()


def test_a_source_that_moves_is_copied_after_the_move(house: House) -> None:
    house.vfs.mkdir("/photos/b")
    house.vfs.rename(SOURCE, "/photos/b/old.jpg")
    copy(house, "/photos/b/old.jpg")
    assert house.changes()[1:] == [("move", "i1", "/b"), ("copy", "i1", "/a")]


def test_what_is_written_after_the_copy_was_handed_in_replaces_it(house: House) -> None:
    read, written = open_both(house)
    house.vfs.copy_range(read, 0, written, 0, WHOLE)
    house.vfs.flush(written)
    refused(errno.EIO, house.vfs.write, written, memoryview(b"more"), 5)  # the fake queue does not wait
    (change,) = house.journal.changes.all()
    made = answer(house, change)
    house.vfs.write(written, memoryview(b"more"), 5)
    house.vfs.flush(written)
    house.vfs.release(written)
    assert house.row("old.jpg", "/a").replaces_image_id == made.id
    assert house.get(COPY) == b"old 1more"


def test_what_was_handed_in_meanwhile_stays_a_copy(house: House) -> None:
    read, written = open_both(house)
    house.vfs.copy_range(read, 0, written, 0, WHOLE)
    house.vfs.flush(written)
    file = house.vfs._handle(written).file
    assert file is not None
    house.vfs._copies.fill(file)
    house.vfs.flush(written)
    assert house.changes() == [("copy", "i1", "/a")]
    assert house.journal.pending() == []
    house.vfs.release(written)
    assert list(house.spool.names()) == []


def test_an_open_copy_that_gets_another_name_is_uploaded(house: House) -> None:
    read, written = open_both(house)
    house.vfs.copy_range(read, 0, written, 0, WHOLE)
    house.vfs.rename(COPY, "/photos/a/other.jpg")
    house.vfs.flush(written)
    house.vfs.release(written)
    assert house.changes() == []
    assert house.row("other.jpg", "/a").size_bytes == 5
    assert house.get("/photos/a/other.jpg") == b"old 1"


def test_an_open_copy_that_is_emptied_is_no_copy(house: House) -> None:
    read, written = open_both(house)
    house.vfs.copy_range(read, 0, written, 0, WHOLE)
    other = house.vfs.open(COPY, os.O_WRONLY | os.O_TRUNC)
    assert house.vfs.getattr(None, written).size == 0
    house.vfs.write(other, memoryview(jpeg()), 0)
    house.vfs.flush(written)
    assert house.changes() == []
    assert house.row("old.jpg", "/a").size_bytes == len(jpeg())


def test_a_listing_that_has_the_copy_already_shows_it_once(house: House) -> None:
    change = copy(house)
    made = Image("i2", "old.jpg", "d1", "/a", 5)
    house.service.images.append(made)
    house.vfs.refresh("/photos")
    assert house.names("/photos/a") == ["old.jpg"]
    assert is_provisional(shown_id(house))
    tell(house, change, made)
    assert house.names("/photos/a") == ["old.jpg"]
    assert shown_id(house) == "i2"


def test_a_listing_made_while_the_answer_is_recorded_keeps_the_real_id(house: House) -> None:
    change = copy(house)
    made = Image("i2", "old.jpg", "d1", "/a", 5)
    house.service.images.append(made)
    house.journal.changes.made([change])
    house.vfs.done(change, made)
    house.vfs.refresh("/photos")
    assert house.names("/photos/a") == ["old.jpg"]
    assert shown_id(house) == "i2"


@pytest.mark.parametrize("unknown", [False, True], ids=["refused", "made-under-an-unknown-id"])
def test_a_copy_without_an_id_is_shown_no_longer(house: House, unknown: bool) -> None:
    change = copy(house)
    if unknown:
        house.service.images.append(Image("i2", "old.jpg", "d1", "/a", 5))
        tell(house, change, Unknown.UNKNOWN)
        assert shown_id(house) == "i2"
    else:
        house.journal.changes.settle([], [change])
        house.vfs.refused(change, "no room")
        assert house.names("/photos/a") == []
    assert house.journal.image_mtimes() == {}
    assert house.names() == ["a", "old.jpg"]


def test_it_is_changed_only_under_its_own_id(house: House) -> None:
    change = copy(house)
    refused(errno.ENOENT, house.vfs.unlink, COPY)  # the fake queue does not wait
    refused(errno.ENOENT, house.vfs.rename, COPY, "/photos/b.jpg")
    refused(errno.ENOENT, house.vfs.setxattr, COPY, "user.pictograph.status", b"review", 0)
    assert house.vfs.getxattr(COPY, "user.pictograph.id") == b""
    assert house.vfs.getxattr(COPY, "user.pictograph.upload") == b"queued"
    assert house.vfs.getxattr(COPY, "user.pictograph.status") == house.service.images[0].status.encode()
    answer(house, change)
    house.vfs.unlink(COPY)
    assert house.changes() == [("archive", "i2")]


def test_wishes_about_the_source_are_its_own(house: House) -> None:
    copy(house)
    source = house.service.images[0]
    house.journal.changes.add([moving(source, "d1", "/b", SOURCE), archiving(source)])
    assert house.journal.hidden() == {"i1"}
    assert house.get(COPY) == b"old 1"
