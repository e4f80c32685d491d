"""Own changes cost no listing, others' are seen all the same."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from pictofs import namespace
from pictofs.api.models import Dataset, Directory, Image
from pictofs.cache.agreement import POSTPONEMENTS
from pictofs.cache.listings import Listings
from pictofs.cache.metadata import MetadataCache

TTL_S = 60.0


class Service:
    """One dataset that counts as the service does; `between` runs when its folders are asked for."""

    def __init__(self) -> None:
        self.now = 1000.0  # of the service and of the mount
        self.images: dict[str, Image] = {}
        self.folders: dict[str, Directory] = {}
        self.archive: dict[str, Image] = {}
        self.uncounted_bytes = 0
        self.asked: list[str] = []
        self.between: Callable[[], object] = lambda: None
        self._touched_at = self._time()
        self._ids = iter(range(10**6))
        for folder in ("/", "/a", "/b", "/b/c"):
            for number in range(5):
                self.upload(folder, 100 + number)
        for image_id in ("image-3", "image-4", "image-8", "image-9"):
            self.remove(image_id)
        self.make("/empty")

    # What somebody does

    def upload(self, folder: str, size_bytes: int) -> Image:
        identity = f"image-{next(self._ids)}"
        return self.put(Image(identity, f"{identity}.jpg", "d1", folder, size_bytes))

    def put(self, image: Image) -> Image:
        """An image that comes, or moves here."""
        if image.id in self.images:
            self.touch(self.images[image.id].directory_path)
        self.images[image.id] = image
        self.make(image.directory_path)
        self.touch(image.directory_path)
        return image

    def delete(self, image_id: str) -> Image:
        image = self.images.pop(image_id)
        self.touch(image.directory_path)
        return image

    def remove(self, image_id: str) -> Image:
        image = self.archive[image_id] = self.delete(image_id)
        return image

    def restore(self) -> Image:
        return self.put(self.archive.popitem()[1])

    def make(self, path: str) -> Directory | None:
        if path == "/":
            return None
        self.make(namespace.parent(path))
        if path not in self.folders:
            self.folders[path] = Directory(f"folder-{next(self._ids)}", "d1", path.rpartition("/")[2], path)
            self.touch(path)
        return self.folders[path]

    def unmake(self, path: str) -> None:
        del self.folders[path]
        self.touch("/")

    def touch(self, path: str) -> None:
        self._touched_at = self._time()
        if path in self.folders:
            self.folders[path] = replace(self.folders[path], updated_at=self._touched_at)

    def _time(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=self.now)

    # cache.metadata.MetadataSource

    def datasets(self) -> list[Dataset]:
        self.asked.append("datasets")
        return [self._dataset()]

    def _dataset(self) -> Dataset:
        return Dataset(
            "d1",
            "animals",
            image_count=len(self.images),
            archived_image_count=len(self.archive),
            total_size=sum(image.file_size for image in self.images.values()) + self.uncounted_bytes,
            updated_at=self._touched_at,
        )

    def contents(self, dataset_id: str) -> tuple[Dataset, list[Image]]:
        self.asked.append("contents")
        return self._dataset(), list(self.images.values())

    def directories(self, dataset_id: str) -> list[Directory]:
        self.asked.append("directories")
        self.between()
        held = [image.directory_path for image in self.images.values()]
        return [
            replace(
                row,
                image_count=held.count(path),
                nested_image_count=sum(namespace.is_within(folder, path) for folder in held),
            )
            for path, row in self.folders.items()
        ]

    def folder(self, dataset_id: str, path: str) -> list[Image]:
        raise NotImplementedError

    def image(self, image_id: str) -> Image:
        raise NotImplementedError


class Drive:
    """A mount's cache on a service: what it does itself is made there and told to the cache."""

    def __init__(self, service: Service, **options: Any) -> None:
        self.service = service
        self.under_way: set[str] = set()
        self.cache = MetadataCache(
            service, ttl_s=TTL_S, under_way=lambda _: self.under_way, clock=lambda: service.now, **options
        )

    def look(self, after_s: float = TTL_S + 1) -> set[tuple[str, str]]:
        """What is shown after a while, once the service was asked behind: folder and name."""
        self.service.now += after_s
        for _ in range(2):
            with self.cache.reading("d1") as tree:
                shown = {(image.directory_path, image.filename) for image in tree.images()}
                shown |= {(folder.path, "") for place, folder in tree.folders() if place}
            for thread in threading.enumerate():
                if thread.name == "metadata-refresh":
                    thread.join(10)
        return shown

    def listings(self) -> int:
        """How many whole listings were fetched."""
        return self.service.asked.count("contents")

    # What the drive does

    def upload(self, folder: str = "/a", size_bytes: int = 55) -> Image:
        image = self.service.upload(folder, size_bytes)
        self.cache.adopt(image)
        return image

    def remove(self) -> None:
        image = self.service.remove(next(iter(self.service.images)))
        self.cache.archived("d1", image.id)
        self.cache.archived("d1", image.id)  # the uploader and the queue may both have done it

    def delete(self) -> None:
        self.cache.forget("d1", self.service.delete(next(iter(self.service.images))).id)

    def restore(self) -> None:
        self.cache.restored(self.service.restore())

    def move(self, target: str = "/b/new") -> None:
        image = next(image for image in self.service.images.values() if image.directory_path != target)
        moved = self.service.put(replace(image, directory_path=target))
        self.cache.change("d1", lambda tree: tree.add(moved))

    def make(self) -> None:
        directory = self.service.make(f"/b/folder-{self.service.now}")
        assert directory is not None
        self.cache.change("d1", lambda tree: tree.add_folder(directory.full_path, directory))

    def unmake(self) -> None:
        held = [image.directory_path for image in self.service.images.values()]
        path = next(p for p in self.service.folders if not any(namespace.is_within(h, p) for h in held))
        self.service.unmake(path)
        self.cache.change("d1", lambda tree: tree.remove_folder(path))

    def correct(self) -> None:
        """The size of an image that the service does not list is found out."""
        image = self.upload("/b", size_bytes=0)
        self.cache.correct_size(image, 4321)
        moved = self.service.put(replace(image, directory_path="/a"))
        shown = replace(moved, file_size=4321)
        self.cache.change("d1", lambda tree: tree.add(shown))

    def amend(self) -> None:
        image = next(iter(self.service.images.values()))
        self.service.touch("/")
        self.cache.amend(image, lambda row: replace(row, status="review"))


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def drive(service: Service) -> Drive:
    drive = Drive(service)
    drive.look()
    assert drive.listings() == 1
    return drive


def there(service: Service) -> set[tuple[str, str]]:
    images = {(image.directory_path, image.filename) for image in service.images.values()}
    return images | {(path, "") for path in service.folders}


# What this mount changed


@pytest.mark.parametrize(
    "own",
    [
        Drive.upload,
        lambda drive: drive.upload("/b/c"),
        lambda drive: drive.upload("/new/below"),
        lambda drive: drive.upload(size_bytes=0),
        Drive.remove,
        Drive.delete,
        Drive.restore,
        Drive.move,
        Drive.make,
        lambda drive: (drive.make(), drive.unmake()),
        Drive.correct,
        Drive.amend,
    ],
)
def test_what_this_mount_changed_costs_no_listing(
    drive: Drive, service: Service, own: Callable[[Drive], object]
) -> None:
    service.asked.clear()
    for ttls in range(1, 4):
        own(drive)
        assert drive.look() == there(service)
        assert (drive.listings(), len(service.asked)) == (0, 2 * ttls)


def test_copying_in_all_the_time_costs_no_listing(drive: Drive, service: Service) -> None:
    """Each time something has landed that was not told here yet when the service counted."""
    service.asked.clear()
    landing: list[Image] = []

    def told() -> None:
        while landing:
            drive.cache.adopt(landing.pop())

    for number in range(30):
        landing += [service.upload("/new", 55 + number) for _ in range(10)]
        drive.under_way = {"/new"}
        service.between = told if number % 2 else lambda: None
        drive.look()
        told()
        if number % 4 == 3:  # between two batches
            drive.look()
    assert drive.listings() == 0
    assert drive.look() == there(service)


def test_an_answer_from_before_the_change_is_not_compared_with_what_came_after(
    drive: Drive, service: Service
) -> None:
    service.now += TTL_S
    drive.cache.ask_datasets()  # for another dataset, which somebody looks at
    service.now += 1
    drive.upload()
    drive.look(after_s=1)
    assert drive.listings() == 1
    assert service.asked.count("directories") == 2


@pytest.mark.parametrize("own", [Drive.upload, Drive.amend])
def test_what_changes_between_the_two_answers_costs_no_listing(
    drive: Drive, service: Service, own: Callable[[Drive], object]
) -> None:
    def between() -> None:
        service.between = lambda: None
        own(drive)

    drive.upload()
    service.between = between
    for _ in range(3):
        shown = drive.look()
    assert drive.listings() == 1
    assert shown == there(service)


def test_after_agreement_the_strict_comparison_holds_again(drive: Drive, service: Service) -> None:
    drive.upload("/a")
    drive.look()
    assert drive.listings() == 1
    service.touch("/")
    drive.look()
    assert drive.listings() == 2


def test_sizes_found_out_here_survive_a_listing(drive: Drive, service: Service) -> None:
    image = service.upload("/a", 0)
    drive.look()
    drive.cache.correct_size(image, 77)
    service.upload("/b", 5)
    drive.look()
    listings = drive.listings()
    drive.upload("/a")
    drive.look()
    assert drive.listings() == listings
    with drive.cache.reading("d1") as tree:
        known = tree.image(image.id)
        assert known is not None
        assert known.file_size == 77


def test_a_listing_that_agreed_is_kept_as_exact(service: Service, tmp_path: Path) -> None:
    first = Drive(service, listings=Listings(tmp_path))
    first.look()
    first.upload("/new")
    first.remove()
    shown = first.look()
    first.cache.close()
    service.asked.clear()
    second = Drive(service, listings=Listings(tmp_path))
    assert second.look() == shown == there(service)
    second.cache.close()
    assert second.listings() == 0


# What others changed


def _any_in(service: Service, folder: str) -> Image:
    return next(image for image in service.images.values() if image.directory_path == folder)


def _swap(service: Service) -> None:
    one, other = _any_in(service, "/b"), _any_in(service, "/b/c")
    service.put(replace(one, directory_path="/b/c"))
    service.put(replace(other, directory_path="/b"))


@pytest.mark.parametrize(
    "others",
    [
        lambda service: service.upload("/a", 7),
        lambda service: service.remove("image-1"),
        lambda service: service.upload("/", service.remove("image-1").file_size),
        lambda service: service.delete("image-1"),
        lambda service: service.upload("/b", service.delete(_any_in(service, "/b").id).file_size),
        Service.restore,
        lambda service: service.put(replace(service.images["image-1"], directory_path="/b")),
        _swap,
        lambda service: service.make("/a/new"),
        lambda service: service.unmake("/empty"),
        lambda service: (service.unmake("/empty"), service.make("/other")),
    ],
)
def test_what_others_changed_shows_within_the_ttl_though_this_mount_changed_something_too(
    drive: Drive, service: Service, others: Callable[[Service], object]
) -> None:
    for own in (Drive.upload, Drive.remove):
        own(drive)
        drive.look()
    drive.upload("/a")
    assert drive.listings() == 1
    others(service)
    assert drive.look() == there(service)
    assert drive.listings() == 2
    drive.look()
    assert drive.listings() == 2


def test_while_something_is_under_way_others_changes_show_after_five_ttls(
    drive: Drive, service: Service
) -> None:
    drive.under_way = {"/a"}
    drive.upload("/a")
    service.upload("/a", 7)
    for _ in range(POSTPONEMENTS):
        assert drive.look() != there(service)
    assert drive.listings() == 1
    assert drive.look() == there(service)
    assert drive.listings() == 2


def test_while_something_is_under_way_others_changes_elsewhere_show_at_once(
    drive: Drive, service: Service
) -> None:
    drive.upload("/a")
    drive.upload("/b/c")
    drive.under_way = {"/a"}
    service.upload("/b/c", 7)
    assert drive.look() == there(service)


def test_whatever_is_mixed_all_shows_after_the_ttl(service: Service) -> None:
    """Files of different sizes, so that the counters tell all but what is deleted and put back at once."""
    choose = random.Random(7)
    drive = Drive(service)
    drive.look()
    own = [Drive.upload, Drive.remove, Drive.delete, Drive.restore, Drive.move, Drive.make, Drive.correct]
    own += [lambda drive: drive.upload("/b/c", choose.randrange(1, 10**9))] * 4
    others: list[Callable[[], object]] = [
        lambda: service.upload(choose.choice(["/", "/a", "/other"]), choose.randrange(1, 10**9)),
        lambda: service.remove(choose.choice(list(service.images))),
        lambda: service.put(replace(choose.choice(list(service.images.values())), directory_path="/b")),
    ]
    needed = 0
    for number in range(150):
        for _ in range(choose.randrange(4)):
            if service.archive:
                choose.choice(own)(drive)
        before = drive.listings()
        if number % 5 == 0:
            choose.choice(others)()
            needed += 1
        assert drive.look() == there(service), number
        assert drive.listings() - before <= (number % 5 == 0)
    assert drive.listings() <= 1 + needed


# Services that count otherwise


def test_a_service_that_counts_otherwise_is_asked_as_often_as_before(service: Service) -> None:
    service.uncounted_bytes = 1000
    drive = Drive(service)
    drive.look()
    for listings in range(2, 5):
        drive.upload("/a")
        assert drive.look() == there(service)
        assert drive.listings() == listings
    drive.look()
    assert drive.listings() == 4
