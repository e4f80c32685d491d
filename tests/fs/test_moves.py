"""mv to another dataset, without FUSE: whatever the service has done of it, the image is in one place."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_vfs import House

from pictofs.api.models import Dataset, Image
from pictofs.fs.rules import Policy
from pictofs.transfer.outcomes import Unknown
from pictofs.transfer.records import Change, ChangeKind

MADE = Image("i2", "old.jpg", "d3", "/", 5)
"""What the service makes of the image in the other dataset."""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Both datasets were looked at."""
    house = House(tmp_path, Policy())
    house.service.rows.append(Dataset("d3", "other"))
    house.service.bytes[MADE.id] = b"old 1"
    assert (house.names("/photos"), house.names("/other")) == (["a", "old.jpg"], [])
    yield house
    house.close()


def move(house: House) -> Change:
    house.vfs.rename("/photos/old.jpg", "/other/old.jpg", 0)
    (change,) = house.journal.changes.all()
    assert change.kind is ChangeKind.TRANSFER
    return change


def there_once(house: House, image_id: str) -> None:
    """The image is in the other dataset, under this id, and nowhere else, also in listings made anew."""
    for _ in range(2):
        assert (house.names("/photos"), house.names("/other")) == (["a"], ["old.jpg"])
        handle = house.vfs.open("/other/old.jpg", os.O_RDONLY)
        image = house.vfs._handle(handle).image
        house.vfs.release(handle)
        assert image is not None
        assert image.id == image_id
        house.vfs.refresh("/")


def test_what_is_moved_is_in_one_place_at_each_step(house: House) -> None:
    change = move(house)
    there_once(house, "i1")
    house.service.images.append(MADE)  # the service has made it; its answer is on the way
    there_once(house, "i1")
    house.journal.changes.made([change])
    house.vfs.done(change, MADE)
    there_once(house, "i2")
    house.journal.changes.settle([change])
    assert house.changes() == [("archive", "i1")]
    there_once(house, "i2")


def test_one_whose_new_id_nobody_can_tell_is_in_one_place_too(house: House) -> None:
    change = move(house)
    house.service.images.append(MADE)
    house.journal.changes.made([change])
    house.vfs.done(change, Unknown.UNKNOWN)
    there_once(house, "i2")
    house.journal.changes.settle([change])
    there_once(house, "i2")


def test_one_that_the_service_refuses_is_back_and_hides_nothing(house: House) -> None:
    change = move(house)
    house.service.images.append(MADE)  # somebody else's
    there_once(house, "i1")
    house.journal.changes.settle([], [change])
    house.vfs.refused(change, "no")
    assert (house.names("/photos"), house.names("/other")) == (["a", "old.jpg"], ["old.jpg"])
