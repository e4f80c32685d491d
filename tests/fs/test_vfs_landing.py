"""A file that lands while somebody looks is never gone for a moment: found by the model in tests/model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_vfs import House, _as_sent, jpeg

from pictofs.api.models import Image
from pictofs.fs.rules import Policy


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path, Policy())
    yield house
    house.close()


def land_before(house: House, call: str, monkeypatch: pytest.MonkeyPatch, folder: str = "/") -> None:
    """`x.jpg` lands, and its row goes, just before the drive next calls this method of the journal."""
    look: Callable[..., object] = getattr(house.journal, call)

    def landed_meanwhile(*arguments: str) -> object:
        monkeypatch.setattr(house.journal, call, look)
        house.land("x.jpg", Image("i2", "x.jpg", "d1", folder, len(jpeg(4))))
        return look(*arguments)

    monkeypatch.setattr(house.journal, call, landed_meanwhile)


def test_a_name_resolves_while_its_file_lands(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.put("/photos/x.jpg", jpeg(4))
    land_before(house, "find", monkeypatch)
    assert house.vfs.getattr("/photos/x.jpg").size == len(jpeg(4))


def test_a_name_is_listed_while_its_file_lands(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.put("/photos/x.jpg", jpeg(4))
    land_before(house, "abandoned_names", monkeypatch)
    assert house.names() == ["a", "old.jpg", "x.jpg"]
    assert house.names() == ["a", "old.jpg", "x.jpg"]


def test_a_new_folder_is_listed_while_its_first_file_lands(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.put("/photos/a/x.jpg", jpeg(4))
    (row,) = house.journal.pending()
    house.journal.rename(
        row.id,
        dataset_id="d1",
        folder="/new",
        filename="x.jpg",
        state=row.state,
        reason=None,
        width=row.width,
        height=row.height,
        replaces_image_id=None,
    )
    land_before(house, "abandoned_names", monkeypatch, folder="/new")
    assert house.names() == ["a", "new", "old.jpg"]


def test_a_removed_file_that_a_listing_has_already_is_not_seen_again(house: House) -> None:
    """It was registered, and listed, before this drive was told; then it waits to be archived."""
    house.put("/photos/x.jpg", jpeg(4))
    (row,) = house.journal.claims.claim(1, 1 << 30)
    registration = house.journal.claims.begin_registration([(row.id, _as_sent(row))])
    assert registration is not None
    image = Image("i2", "x.jpg", "d1", "/", len(jpeg(4)))
    house.service.images.append(image)
    house.vfs.unlink("/photos/x.jpg")
    house.vfs.refresh("/photos")
    assert house.names() == ["a", "old.jpg"]
    (done,) = house.journal.claims.settle(landed={row.id: image})
    house.journal.claims.finish([done.id])
    assert house.names() == ["a", "old.jpg"]
    with pytest.raises(FileNotFoundError):
        house.vfs.getattr("/photos/x.jpg")


# Files that a program has open still, and that became images meanwhile.


@pytest.fixture
def landed(house: House) -> int:
    """A handle on `x.jpg`, which is an image by now. It is longer than what the tests write."""
    handle = house.vfs.create("/photos/x.jpg", 0o644, os.O_RDWR)
    house.vfs.write(handle, memoryview(LONG), 0)
    house.vfs.flush(handle)
    house.land("x.jpg", Image("i2", "x.jpg", "d1", "/", len(LONG)))
    return handle


LONG = jpeg(4) + bytes(500)


def write(house: House, handle: int, data: bytes) -> None:
    house.vfs.write(handle, memoryview(data), 0)
    house.vfs.flush(handle)
    house.vfs.release(handle)


def test_a_new_file_has_nothing_of_the_removed_one(house: House, landed: int) -> None:
    house.vfs.unlink("/photos/x.jpg")
    house.put("/photos/x.jpg", jpeg(5))
    assert house.get("/photos/x.jpg") == jpeg(5)
    assert house.read(landed, 1 << 20, 0) == LONG
    write(house, landed, jpeg(6))
    assert house.get("/photos/x.jpg") == jpeg(5)
    assert len(house.journal.pending()) == 1


def test_a_removed_file_stays_removed_when_it_is_written(house: House, landed: int) -> None:
    house.vfs.unlink("/photos/x.jpg")
    write(house, landed, jpeg(6))
    assert house.names() == ["a", "old.jpg"]
    assert house.journal.pending() == []


def test_a_moved_file_is_written_where_it_is(house: House, landed: int) -> None:
    house.vfs.rename("/photos/x.jpg", "/photos/a/x.jpg")
    house.put("/photos/x.jpg", jpeg(5))
    house.vfs.truncate(None, 0, landed)
    write(house, landed, jpeg(6))
    assert house.get("/photos/x.jpg") == jpeg(5)
    assert house.get("/photos/a/x.jpg") == jpeg(6)
    assert house.row("x.jpg", "/a").replaces_image_id == "i2"


def test_an_image_that_is_being_written_anew_goes_when_it_is_removed(house: House, landed: int) -> None:
    house.vfs.write(landed, memoryview(jpeg(6)), 0)
    house.vfs.unlink("/photos/x.jpg")
    assert house.names() == ["a", "old.jpg"]
    assert house.journal.hidden() == {"i2"}
    house.vfs.flush(landed)
    house.vfs.release(landed)
    assert house.names() == ["a", "old.jpg"]
