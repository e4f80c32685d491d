"""Listings on the disk: what is read is what was written, or nothing."""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pictofs.api.models import Dataset, Directory, Image
from pictofs.cache import listings as format_
from pictofs.cache.keeper import Keeper
from pictofs.cache.listings import Listings, Saved

DAY = datetime(2026, 1, 2, 3, 4, 5, 678901, timezone.utc)
DATASET = Dataset("d1", "animals", "o1", image_count=3, total_size=60, created_at=DAY, updated_at=DAY)
FOLDERS = [Directory("f1", "d1", "a", "/a", image_count=1, created_at=DAY), Directory("f2", "d1", "b", "/b")]
IMAGES = [
    Image("i1", "one.jpg", "d1", "/", 10, 640, 480, "image/jpeg", created_at=DAY),
    Image("i2", "zwei\ud800.jpg", "d1", "/a", 0, None, None, None, "review", "train", ("x", "y"), 3, 0.5),
    Image("i3", "nul\0/\n.jpg", "d1", "/a", 1 << 40, created_at=DAY + timedelta(microseconds=1)),
]
SAVED = Saved(DATASET, FOLDERS, IMAGES)


@pytest.fixture
def listings(tmp_path: Path) -> Listings:
    return Listings(tmp_path / "listings")


def files(listings: Listings) -> list[Path]:
    return sorted(listings._folder.iterdir())


@pytest.mark.parametrize("lines", [1, 2, 1000])
def test_what_was_saved_is_loaded(listings: Listings, monkeypatch: pytest.MonkeyPatch, lines: int) -> None:
    monkeypatch.setattr(format_, "IMAGES_PER_LINE", lines)
    by_folder = replace(SAVED, listed=["/", "/a"], is_exact=False)
    for saved in (SAVED, by_folder, Saved(DATASET, [], [])):
        assert listings.save(saved)
        assert listings.load("d1") == saved
    listings.save_datasets([DATASET, Dataset("d2", "other")])
    assert listings.datasets() == [DATASET, Dataset("d2", "other")]
    assert listings.load("d2") is None


def test_it_is_private(listings: Listings) -> None:
    listings.save(SAVED)
    listings.save_datasets([DATASET])
    listings.mark("d1")
    assert stat.S_IMODE(listings._folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in files(listings)} == {0o600}
    assert len(files(listings)) == 3


def _cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def _flip(data: bytes) -> bytes:
    return data.replace(b"one.jpg", b"two.jpg")


def _without_end(data: bytes) -> bytes:
    return b"\n".join(data.splitlines()[:-1]) + b"\n"


@pytest.mark.parametrize("damage", [_cut, _flip, _without_end, lambda _: b"", lambda _: b"\0" * 4096])
def test_a_damaged_file_is_ignored(listings: Listings, damage: Callable[[bytes], bytes]) -> None:
    listings.save(SAVED)
    (path,) = files(listings)
    path.write_bytes(damage(path.read_bytes()))
    assert listings.load("d1") is None


def test_another_version_is_ignored(listings: Listings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(format_, "VERSION", 2)
    listings.save(SAVED)
    listings.save_datasets([DATASET])
    monkeypatch.setattr(format_, "VERSION", 1)
    assert listings.load("d1") is None
    assert listings.datasets() is None


def test_what_is_no_listing_inside_is_ignored(listings: Listings) -> None:
    for images in ([{"id": ["i1"]}], [{"count": 1}], [3]):
        listings._write(format_._name("d1"), "pictofs-listing", [{"dataset": {}}, *images])
        assert listings.load("d1") is None


def test_listings_of_datasets_that_are_gone_go(listings: Listings) -> None:
    listings.save(SAVED)
    listings.mark("d1")
    listings.save_datasets([DATASET])
    assert listings.load("d1") is not None
    listings.save_datasets([Dataset("d2", "other")])
    assert [path.name for path in files(listings)] == ["datasets.json"]


def test_a_mark_says_that_changes_were_made_since(listings: Listings) -> None:
    listings.save(SAVED)
    listings.mark("d1")
    assert listings.load("d1") == replace(SAVED, is_outdated=True)
    listings.unmark("d1")
    assert listings.load("d1") == SAVED


def test_a_disk_that_refuses_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    listings = Listings(tmp_path / "file" / "listings")
    assert not listings.save(SAVED)
    listings.mark("d1")
    listings.save_datasets([DATASET])
    assert listings.load("d1") is None
    assert caplog.text.count("Listings cannot be kept") == 1


class Shelf:
    """A snapshot that can be held back while something changes."""

    def __init__(self) -> None:
        self.taken = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def __call__(self, dataset_id: str) -> Saved:
        self.taken.release()
        assert self.go_on.acquire(timeout=10)
        return SAVED


def test_the_end_writes_what_changed_and_takes_the_mark_away(listings: Listings) -> None:
    keeper = Keeper(listings, lambda _: SAVED, changes_s=3600)
    keeper.changed("d1")
    assert [path.suffix for path in files(listings)] == [".changed"]
    keeper.close()
    assert listings.load("d1") == SAVED


def test_a_change_during_the_snapshot_keeps_its_mark(listings: Listings) -> None:
    shelf = Shelf()
    keeper = Keeper(listings, shelf, changes_s=3600)
    keeper.fetched("d1")
    assert shelf.taken.acquire(timeout=10)
    keeper.changed("d1")
    shelf.go_on.release()
    keeper_end = threading.Thread(target=keeper.close)
    keeper_end.start()
    assert shelf.taken.acquire(timeout=10)  # the second snapshot: the first one was written
    assert listings.load("d1") == replace(SAVED, is_outdated=True)
    shelf.go_on.release()
    keeper_end.join(10)
    assert listings.load("d1") == SAVED
