"""Freshness, one flight per question, changes that no listing undoes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pictofs.api.errors import NetworkError
from pictofs.api.models import Dataset, Directory, Image
from pictofs.cache.listings import Listings
from pictofs.cache.metadata import MetadataCache
from pictofs.cache.provisional import provisional_id
from pictofs.cache.tree import Tree

TTL_S = 60.0


class FakeSource:
    """A service in memory that counts its requests; `gate` holds listings back."""

    def __init__(self) -> None:
        self.images = {"i1": Image("i1", "one.jpg", "d1", "/", 10)}
        self.folders = [Directory("f1", "d1", "a", "/a")]
        self.asked: list[str] = []
        self.gate: threading.Event | None = None
        self.arrived = threading.Event()
        self.error: Exception | None = None
        self.lists_no_sizes = False  # a service whose two routes count otherwise

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    def datasets(self) -> list[Dataset]:
        self._ask("datasets")
        return self._rows()

    def _rows(self) -> list[Dataset]:
        size = 0 if self.lists_no_sizes else sum(image.file_size for image in self.images.values())
        return [
            Dataset("d1", "animals", image_count=len(self.images), total_size=size),
            Dataset("d2", "other"),
        ]

    def contents(self, dataset_id: str) -> tuple[Dataset, list[Image]]:
        self._ask(f"contents {dataset_id}")
        (dataset,) = (dataset for dataset in self._rows() if dataset.id == dataset_id)
        images = [image for image in self.images.values() if image.dataset_id == dataset_id]
        if self.lists_no_sizes:
            dataset = replace(dataset, total_size=sum(image.file_size for image in images))
        self.arrived.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        return dataset, images

    def folder(self, dataset_id: str, path: str) -> list[Image]:
        self._ask(f"folder {path}")
        return [image for image in self.images.values() if image.directory_path == path]

    def directories(self, dataset_id: str) -> list[Directory]:
        self._ask(f"directories {dataset_id}")
        return list(self.folders)

    def image(self, image_id: str) -> Image:
        self._ask(f"image {image_id}")
        return self.images[image_id]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def source() -> FakeSource:
    return FakeSource()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(source: FakeSource, clock: Clock) -> MetadataCache:
    return MetadataCache(source, ttl_s=TTL_S, clock=clock)


def names(cache: MetadataCache) -> set[str]:
    with cache.reading("d1") as tree:
        return set(tree.root.images)


def folder_names(cache: MetadataCache, path: str) -> set[str]:
    """What somebody sees who looks into a folder."""
    cache.list_folder("d1", path)
    with cache.reading("d1") as tree:
        folder = tree.folder(path)
        return set(folder.images) if folder else set()


def eventually(holds: Callable[[], bool]) -> None:
    """Wait until the background flight is done, which joins its thread rather than guessing a time."""
    for thread in threading.enumerate():
        if thread.name == "metadata-refresh":
            thread.join(10)
    assert holds()


def test_one_listing_answers_everything_within_the_ttl(cache: MetadataCache, source: FakeSource) -> None:
    for _ in range(3):
        assert set(cache.datasets()) == {"animals", "other"}
        assert names(cache) == {"one.jpg"}
    assert sorted(source.asked) == ["contents d1", "datasets", "directories d1"]


def test_only_the_named_datasets_are_shown(source: FakeSource) -> None:
    assert set(MetadataCache(source, ttl_s=1, only=["other"]).datasets()) == {"other"}
    assert set(MetadataCache(source, ttl_s=1, only=["d1"]).datasets()) == {"animals"}


def test_stale_is_served_while_the_counters_are_asked_and_nothing_else_if_they_stand(
    cache: MetadataCache, source: FakeSource, clock: Clock
) -> None:
    assert names(cache) == {"one.jpg"}
    cache.datasets()
    source.asked.clear()
    clock.now += TTL_S + 1
    assert names(cache) == {"one.jpg"}
    eventually(lambda: source.asked == ["datasets", "directories d1"])
    names(cache)
    eventually(lambda: source.asked == ["datasets", "directories d1"])


def test_what_others_added_shows_after_the_ttl(
    cache: MetadataCache, source: FakeSource, clock: Clock
) -> None:
    names(cache)
    source.images["i2"] = Image("i2", "two.jpg", "d1", "/", 20)
    assert names(cache) == {"one.jpg"}
    clock.now += TTL_S + 1
    names(cache)
    eventually(lambda: names(cache) == {"one.jpg", "two.jpg"})


def test_a_folder_that_goes_between_the_two_answers_stays_away(
    cache: MetadataCache, source: FakeSource, clock: Clock
) -> None:
    """The folders are asked for first: what was done since must not be taken back by that answer."""
    names(cache)
    source.images["i2"] = Image("i2", "two.jpg", "d1", "/", 20)  # so that the listing is fetched
    ask = source.directories

    def directories(dataset_id: str) -> list[Directory]:
        found = ask(dataset_id)
        cache.change("d1", lambda tree: tree.remove_folder("/a"))
        return found

    source.directories = directories  # type: ignore[method-assign]
    for _ in range(2):  # at first, what is done here may be all the difference
        clock.now += TTL_S + 1
        names(cache)
        eventually(lambda: True)
    assert names(cache) == {"one.jpg", "two.jpg"}
    with cache.reading("d1") as tree:
        assert tree.folder("/a") is None


def test_offline_the_last_listing_is_served(cache: MetadataCache, source: FakeSource, clock: Clock) -> None:
    names(cache)
    source.error = NetworkError("gone")
    clock.now += TTL_S + 1
    for _ in range(5):
        assert names(cache) == {"one.jpg"}
        eventually(lambda: True)
    assert source.asked.count("datasets") == 1  # not again before another ttl


def test_what_was_never_listed_is_an_error_offline(cache: MetadataCache, source: FakeSource) -> None:
    source.error = NetworkError("gone")
    with pytest.raises(NetworkError):
        names(cache)


def test_twenty_at_once_ask_once(cache: MetadataCache, source: FakeSource) -> None:
    source.gate = threading.Event()
    with ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(names, cache) for _ in range(20)]
        assert source.arrived.wait(10)
        source.gate.set()
        assert all(answer.result(10) == {"one.jpg"} for answer in answers)
    assert source.asked.count("contents d1") == 1


def test_a_change_is_not_undone_by_a_listing_asked_before_it(
    cache: MetadataCache, source: FakeSource
) -> None:
    source.gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        listing = pool.submit(names, cache)
        assert source.arrived.wait(10)
        cache.adopt(Image("i2", "mine.jpg", "d1", "/", 5))
        cache.forget("d1", "i1")
        source.gate.set()
        assert listing.result(10) == {"mine.jpg"}


def test_images_on_their_way_out_stay_hidden(source: FakeSource) -> None:
    assert names(MetadataCache(source, ttl_s=1, hidden=lambda: {"i1"})) == set()


def test_images_get_is_cached_for_the_ttl(cache: MetadataCache, source: FakeSource, clock: Clock) -> None:
    assert cache.images.get("i1") is cache.images.get("i1")
    assert source.asked == ["image i1"]
    clock.now += TTL_S + 1
    cache.images.get("i1")
    assert source.asked == ["image i1", "image i1"]


def test_no_background_questions_while_the_budget_is_low(source: FakeSource, clock: Clock) -> None:
    cache = MetadataCache(source, ttl_s=TTL_S, may_revalidate=lambda: False, clock=clock)
    names(cache)
    source.asked.clear()
    clock.now += 10 * TTL_S
    names(cache)
    assert source.asked == []


def test_a_corrected_size_shows(cache: MetadataCache, source: FakeSource) -> None:
    names(cache)
    cache.correct_size(source.images["i1"], 4321)
    with cache.reading("d1") as tree:
        assert tree.root.images["one.jpg"].file_size == 4321


# Asked again


def test_without_an_answer_a_refresh_takes_nothing_away(cache: MetadataCache, source: FakeSource) -> None:
    names(cache)
    cache.datasets()
    source.error = NetworkError("gone")
    cache.refresh()
    assert names(cache) == {"one.jpg"}
    assert set(cache.datasets()) == {"animals", "other"}


def test_a_refresh_outdates_a_listing_that_is_on_its_way(cache: MetadataCache, source: FakeSource) -> None:
    source.gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        listing = pool.submit(names, cache)
        assert source.arrived.wait(10)
        source.images["i2"] = Image("i2", "two.jpg", "d1", "/", 20)
        cache.refresh("d1")
        source.gate.set()
        listing.result(10)
    assert names(cache) == {"one.jpg", "two.jpg"}


def test_an_image_that_has_not_changed_stays_the_same_object(
    cache: MetadataCache, source: FakeSource
) -> None:
    source.images["i2"] = Image("i2", "two.jpg", "d1", "/", 0)
    names(cache)
    cache.correct_size(source.images["i2"], 77)
    with cache.reading("d1") as tree:
        before = dict(tree.root.images)
    source.images = {key: replace(image) for key, image in source.images.items()}
    source.images["i3"] = Image("i3", "three.jpg", "d1", "/", 30)
    cache.refresh()
    with cache.reading("d1") as tree:
        now = dict(tree.root.images)
    assert now.keys() == {"one.jpg", "two.jpg", "three.jpg"}
    assert all(now[name] is image for name, image in before.items())
    assert now["two.jpg"].file_size == 77


def test_what_others_changed_is_told_by_its_path(source: FakeSource) -> None:
    told: list[str] = []

    def tell(paths: Collection[str]) -> None:
        told.extend(paths)

    cache = MetadataCache(source, ttl_s=TTL_S, on_others_changes=tell)
    cache.datasets()
    source.images["i2"] = Image("i2", "same.jpg", "d1", "/a", 20)
    source.images["i3"] = Image("i3", "stays.jpg", "d1", "/a", 20)
    names(cache)
    assert told == []
    del source.images["i1"]
    source.images["i2"] = Image("i4", "same.jpg", "d1", "/a", 20)
    source.images["i5"] = Image("i5", "new.jpg", "d1", "/a", 20)
    cache.refresh()
    names(cache)
    assert sorted(told) == ["animals/a/same.jpg", "animals/one.jpg"]


def test_one_answer_about_the_datasets_serves_all_listings_in_a_ttl(source: FakeSource, clock: Clock) -> None:
    """An hour of looking at two datasets all the time: one request for both, and one each, in a ttl."""
    cache = MetadataCache(source, ttl_s=TTL_S, clock=clock)
    cache.datasets()
    for dataset_id in ("d1", "d2"):
        with cache.reading(dataset_id):
            clock.now += 7
    source.asked.clear()
    for _ in range(720):
        clock.now += 5
        cache.datasets()
        for dataset_id in ("d1", "d2"):
            with cache.reading(dataset_id):
                pass
            eventually(lambda: True)
    assert source.asked.count("datasets") <= 61
    assert source.asked.count("directories d1") <= 61
    assert source.asked.count("directories d2") <= 61
    assert len(source.asked) <= 3 * 61


def test_two_routes_that_count_otherwise_cost_one_listing_not_one_in_each_ttl(
    cache: MetadataCache, source: FakeSource, clock: Clock
) -> None:
    source.lists_no_sizes = True
    for _ in range(10):
        names(cache)
        eventually(lambda: True)
        clock.now += TTL_S + 1
    assert source.asked.count("contents d1") == 2
    source.images["i2"] = Image("i2", "two.jpg", "d1", "/", 20)
    names(cache)
    eventually(lambda: names(cache) == {"one.jpg", "two.jpg"})


def test_nobody_looks_nothing_is_asked(cache: MetadataCache, source: FakeSource, clock: Clock) -> None:
    cache.datasets()
    names(cache)
    source.asked.clear()
    for _ in range(3600):
        clock.now += 1
        cache.known_datasets()  # df, which desktops ask all the time
    eventually(lambda: True)
    assert source.asked == []


# What is under way


def test_the_overlay_is_part_of_every_tree(source: FakeSource, clock: Clock, tmp_path: Path) -> None:
    def overlay(dataset_id: str, tree: Tree) -> None:
        assert dataset_id == "d1"
        moved = tree.discard("i1")
        if moved is not None:
            tree.add(replace(moved, directory_path="/b"))

    for _ in ("fetched", "from the disk"):
        cache = MetadataCache(source, ttl_s=TTL_S, overlay=overlay, listings=Listings(tmp_path), clock=clock)
        assert folder_names(cache, "/") == set()
        assert folder_names(cache, "/b") == {"one.jpg"}
        eventually(lambda: True)
        cache.close()


# Folder by folder


def test_images_are_counted_where_all_are_known(source: FakeSource, cache: MetadataCache) -> None:
    assert cache.image_count("d1") is None
    assert source.asked == []
    names(cache)
    cache.adopt(Image("i2", "two.jpg", "d1", "/", 20))
    assert cache.image_count("d1") == 2


def test_beyond_the_limit_folders_are_listed_when_somebody_looks(source: FakeSource, clock: Clock) -> None:
    source.images["i2"] = Image("i2", "two.jpg", "d1", "/a", 20)
    cache = MetadataCache(source, ttl_s=TTL_S, listing_limit=1, clock=clock)
    cache.datasets()
    assert names(cache) == set()
    assert folder_names(cache, "/a") == folder_names(cache, "/a") == {"two.jpg"}
    assert source.asked == ["datasets", "directories d1", "folder /a"]
    cache.adopt(Image("i3", "mine.jpg", "d1", "/a", 5))
    assert folder_names(cache, "/a") == {"two.jpg", "mine.jpg"}
    assert folder_names(cache, "/") == {"one.jpg"}
    assert cache.image_count("d1") is None


def test_a_folder_is_asked_for_again_only_when_the_counters_moved(source: FakeSource, clock: Clock) -> None:
    told: list[str] = []

    def tell(paths: Collection[str]) -> None:
        told.extend(paths)

    cache = MetadataCache(source, ttl_s=TTL_S, listing_limit=0, on_others_changes=tell, clock=clock)
    cache.datasets()
    source.images["i2"] = Image("i2", "two.jpg", "d1", "/a", 20)
    cache.refresh()
    assert folder_names(cache, "/a") == {"two.jpg"}
    source.asked.clear()
    clock.now += TTL_S + 1
    folder_names(cache, "/a")
    eventually(lambda: source.asked == ["datasets", "directories d1"])
    source.images = {"i1": source.images["i1"], "i3": Image("i3", "three.jpg", "d1", "/a", 20)}
    source.images["i4"] = Image("i4", "four.jpg", "d1", "/a", 20)
    clock.now += TTL_S + 1
    for _ in range(2):  # the counters, then the folder
        folder_names(cache, "/a")
        eventually(lambda: True)
    assert folder_names(cache, "/a") == {"three.jpg", "four.jpg"}
    assert source.asked.count("folder /a") == 1
    assert told == ["animals/a/two.jpg"]


def test_a_folder_fetched_while_a_move_into_it_is_pending_keeps_the_image(source: FakeSource) -> None:
    pending = {"i1"}

    def overlay(dataset_id: str, tree: Tree) -> None:
        for image_id in pending:
            image = tree.image(image_id)
            if image is not None and image.directory_path != "/a":
                tree.add(replace(image, directory_path="/a"))

    source.images["i2"] = Image("i2", "two.jpg", "d1", "/a", 20)
    cache = MetadataCache(source, ttl_s=TTL_S, listing_limit=0, overlay=overlay)
    cache.datasets()
    assert folder_names(cache, "/") == set()
    assert folder_names(cache, "/a") == {"one.jpg", "two.jpg"}
    assert folder_names(cache, "/") == set()
    pending.clear()
    source.images["i2"] = replace(source.images["i2"], filename="other.jpg")
    with cache.reading("d1") as tree:
        assert tree.image("i1") is not None
    cache._fetch_folder("d1", "/a")
    assert folder_names(cache, "/a") == {"other.jpg"}  # it never came: shown where it is once that is asked
    cache._fetch_folder("d1", "/")
    assert folder_names(cache, "/") == {"one.jpg"}


def test_rows_are_as_fresh_as_the_folder_they_were_listed_in(source: FakeSource, clock: Clock) -> None:
    cache = MetadataCache(source, ttl_s=TTL_S, listing_limit=0, may_revalidate=lambda: False, clock=clock)
    cache.datasets()
    assert not cache.has_fresh_rows("d1", "/")
    folder_names(cache, "/")
    assert cache.has_fresh_rows("d1", "/")
    assert not cache.has_fresh_rows("d1", "/a")
    clock.now += TTL_S
    assert not cache.has_fresh_rows("d1", "/")
    source.images["i1"] = replace(source.images["i1"], status="review")
    cache.reload("d1", "/")
    with cache.reading("d1") as tree:
        assert tree.root.images["one.jpg"].status == "review"
    assert source.asked.count("folder /") == 2


# On the disk


def remembered(source: FakeSource, clock: Clock, folder: Path, **options: Any) -> MetadataCache:
    """The next mount."""
    return MetadataCache(source, ttl_s=TTL_S, listings=Listings(folder), clock=clock, **options)


def look_once(source: FakeSource, clock: Clock, folder: Path) -> None:
    """A mount that looked at everything and ended in order."""
    first = remembered(source, clock, folder)
    first.datasets()
    names(first)
    first.close()


def test_the_next_mount_answers_at_once_and_asks_behind(
    source: FakeSource, clock: Clock, tmp_path: Path
) -> None:
    look_once(source, clock, tmp_path)
    source.asked.clear()
    source.images["i2"] = Image("i2", "two.jpg", "d1", "/", 20)
    source.gate = threading.Event()
    second = remembered(source, clock, tmp_path)
    assert names(second) == {"one.jpg"}
    source.gate.set()
    eventually(lambda: names(second) == {"one.jpg", "two.jpg"})
    second.close()


def test_when_nothing_moved_the_next_mount_asks_for_the_counters_only(
    source: FakeSource, clock: Clock, tmp_path: Path
) -> None:
    look_once(source, clock, tmp_path)
    source.asked.clear()
    second = remembered(source, clock, tmp_path)
    second.datasets()
    names(second)
    eventually(lambda: sorted(source.asked) == ["datasets", "directories d1"])
    second.close()


def test_the_next_mount_works_without_a_connection(source: FakeSource, clock: Clock, tmp_path: Path) -> None:
    look_once(source, clock, tmp_path)
    source.error = NetworkError("gone")
    second = remembered(source, clock, tmp_path)
    assert set(second.datasets()) == {"animals", "other"}
    assert names(second) == {"one.jpg"}
    eventually(lambda: True)
    second.close()


def test_changes_made_here_are_in_it_and_its_counters_do_not_count(
    source: FakeSource, clock: Clock, tmp_path: Path
) -> None:
    first = remembered(source, clock, tmp_path)
    first.datasets()
    names(first)
    first.adopt(Image("i2", "mine.jpg", "d1", "/", 5))
    first.forget("d1", "i1")  # and then the service refuses to archive it: its counters stay as they were
    first.close()
    source.gate = threading.Event()
    second = remembered(source, clock, tmp_path)
    assert names(second) == {"mine.jpg"}
    source.gate.set()
    eventually(lambda: names(second) == {"one.jpg"})
    second.close()


def test_what_has_no_id_on_the_service_is_not_in_it(source: FakeSource, clock: Clock, tmp_path: Path) -> None:
    first = remembered(source, clock, tmp_path)
    first.datasets()
    names(first)
    first.adopt(Image(provisional_id(), "copy.jpg", "d1", "/", 5))
    assert names(first) == {"one.jpg", "copy.jpg"}
    first.close()
    source.error = NetworkError("gone")
    second = remembered(source, clock, tmp_path)
    assert names(second) == {"one.jpg"}
    second.close()


def test_after_a_crash_what_was_changed_here_is_asked_for_before_it_is_shown(
    source: FakeSource, clock: Clock, tmp_path: Path
) -> None:
    look_once(source, clock, tmp_path)
    crashed = remembered(source, clock, tmp_path)
    names(crashed)
    eventually(lambda: True)
    source.images["i2"] = Image("i2", "mine.jpg", "d1", "/", 5)
    crashed.adopt(source.images["i2"])
    source.error = NetworkError("gone")
    assert names(remembered(source, clock, tmp_path)) == {"one.jpg"}  # better than nothing
    eventually(lambda: True)
    source.error = None
    assert names(remembered(source, clock, tmp_path)) == {"one.jpg", "mine.jpg"}


def test_what_the_journal_removes_does_not_come_back_from_the_disk(
    source: FakeSource, clock: Clock, tmp_path: Path
) -> None:
    for limit in (100, 0):
        folder = tmp_path / str(limit)
        first = remembered(source, clock, folder, listing_limit=limit)
        first.datasets()
        assert folder_names(first, "/") == {"one.jpg"}
        first.close()
        second = remembered(source, clock, folder, listing_limit=limit, hidden=lambda: {"i1"})
        assert folder_names(second, "/") == set()
        eventually(lambda: True)
        second.close()


def test_folders_that_were_listed_are_remembered(source: FakeSource, clock: Clock, tmp_path: Path) -> None:
    source.images["i2"] = Image("i2", "two.jpg", "d1", "/a", 20)
    first = remembered(source, clock, tmp_path, listing_limit=0)
    first.datasets()
    assert folder_names(first, "/a") == {"two.jpg"}
    first.close()
    source.error = NetworkError("gone")
    second = remembered(source, clock, tmp_path, listing_limit=0)
    assert folder_names(second, "/a") == {"two.jpg"}
    with pytest.raises(NetworkError):
        folder_names(second, "/")
    eventually(lambda: True)
    second.close()
