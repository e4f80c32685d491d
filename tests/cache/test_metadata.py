"""Freshness, one flight per question, changes that no listing undoes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from pictofs.api.errors import NetworkError
from pictofs.api.models import Dataset, Directory, Image
from pictofs.cache.metadata import MetadataCache

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

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.error is not None:
            raise self.error

    def datasets(self) -> list[Dataset]:
        self._ask("datasets")
        return [Dataset("d1", "animals", image_count=len(self.images)), Dataset("d2", "other")]

    def contents(self, dataset_id: str) -> tuple[Dataset, list[Image]]:
        self._ask(f"contents {dataset_id}")
        images = list(self.images.values())
        self.arrived.set()
        if self.gate is not None:
            assert self.gate.wait(10)
        return Dataset("d1", "animals", image_count=len(images)), images

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
    assert source.asked == ["datasets", "contents d1", "directories d1"]


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
    assert cache.image("i1") is cache.image("i1")
    assert source.asked == ["image i1"]
    clock.now += TTL_S + 1
    cache.image("i1")
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
