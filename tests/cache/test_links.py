"""Signed links: one request for many images, none wasted on a single one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pictofs.api.errors import ServerError
from pictofs.api.models import DownloadItem, Image
from pictofs.cache.links import LIFETIME_S, SMALL_IMAGES, SignedLinks


class Service:
    def __init__(self, ids: list[str]) -> None:
        self.ids = ids
        self.asked = 0
        self.now = 0.0
        self.fails = False
        self.gate: threading.Event | None = None

    def links(self, dataset_id: str) -> list[DownloadItem]:
        self.asked += 1
        if self.gate is not None:
            assert self.gate.wait(10)
        if self.fails:
            raise ServerError("no", status=500)
        return [DownloadItem(i, f"{i}.jpg", 1, f"https://s/{i}?{self.asked}") for i in self.ids]


def image(image_id: str) -> Image:
    return Image(image_id, f"{image_id}.jpg", "d1")


def test_the_first_read_needs_no_links_and_a_thousand_need_one_request() -> None:
    service = Service([f"i{n}" for n in range(1000)])
    links = SignedLinks(service.links, clock=lambda: service.now)
    urls = [links.get(image(f"i{n}")) for n in range(1000)]
    assert urls[0] is None
    assert urls[1:] == [f"https://s/i{n}?1" for n in range(1, 1000)]
    assert service.asked == 1


def test_links_are_asked_again_when_they_expire_or_are_refused() -> None:
    service = Service(["i1", "i2"])
    links = SignedLinks(service.links, clock=lambda: service.now)
    links.get(image("i1"))
    first = links.get(image("i1"))
    assert first == "https://s/i1?1"
    links.expire(image("i1"), first)
    assert links.get(image("i1")) == "https://s/i1?2"
    service.now += LIFETIME_S
    assert links.get(image("i1")) is None
    assert links.get(image("i1")) == "https://s/i1?3"


def test_images_beyond_the_listing_do_not_ask_for_it_each_time() -> None:
    service = Service(["i1"])
    links = SignedLinks(service.links, clock=lambda: service.now)
    for _ in range(1000):
        assert links.get(image("beyond")) is None
    assert service.asked <= 10


def test_who_is_sure_to_read_more_asks_at_once() -> None:
    service = Service(["i1"])
    links = SignedLinks(service.links, clock=lambda: service.now)
    assert links.get(image("i1"), many=True) == "https://s/i1?1"


@pytest.mark.parametrize("count", [2, SMALL_IMAGES])
def test_a_small_dataset_is_read_for_one_request(count: int) -> None:
    service = Service([f"i{n}" for n in range(count)])
    links = SignedLinks(service.links, count=lambda _dataset_id: count, clock=lambda: service.now)
    for asked in (1, 2):
        urls = [links.get(image(f"i{n}")) for n in range(count)]
        assert urls == [f"https://s/i{n}?{asked}" for n in range(count)]
        service.now += LIFETIME_S
    assert service.asked == 2


@pytest.mark.parametrize("count", [None, 0, 1, SMALL_IMAGES + 1])
def test_in_any_other_dataset_the_first_read_needs_no_links(count: int | None) -> None:
    service = Service(["i1", "i2"])
    asked_for: list[str] = []

    def count_of(dataset_id: str) -> int | None:
        asked_for.append(dataset_id)
        return count

    links = SignedLinks(service.links, count=count_of, clock=lambda: service.now)
    assert links.get(image("i1")) is None
    assert set(asked_for) == {"d1"}
    assert service.asked == 0
    assert links.get(image("i2")) == "https://s/i2?1"


def test_an_image_that_a_small_dataset_has_no_link_to_does_not_ask_each_time() -> None:
    service = Service(["i1"])
    links = SignedLinks(service.links, count=lambda _dataset_id: 2, clock=lambda: service.now)
    for _ in range(1000):
        assert links.get(image("new")) is None
    assert service.asked <= 10


def test_a_burst_of_readers_of_a_small_dataset_costs_one_request() -> None:
    service = Service([f"i{n}" for n in range(50)])
    links = SignedLinks(service.links, count=lambda _dataset_id: 50, clock=lambda: service.now)
    service.gate = threading.Event()
    with ThreadPoolExecutor(50) as pool:
        answers = [pool.submit(links.get, image(f"i{n}")) for n in range(50)]
        service.gate.set()
        assert [answer.result(10) for answer in answers] == [f"https://s/i{n}?1" for n in range(50)]
    assert service.asked == 1


def test_a_burst_of_readers_costs_one_request_by_id_and_one_for_the_links() -> None:
    service = Service([f"i{n}" for n in range(50)])
    links = SignedLinks(service.links, clock=lambda: service.now)
    service.gate = threading.Event()
    with ThreadPoolExecutor(50) as pool:
        answers = [pool.submit(links.get, image(f"i{n}")) for n in range(50)]
        service.gate.set()
        urls = [answer.result(10) for answer in answers]
    assert urls.count(None) == 1
    assert service.asked == 1
    # Storage refuses all of them at once: renewed once.
    refused = [(image(f"i{n}"), url) for n, url in enumerate(urls) if url is not None]

    def renew(link: tuple[Image, str]) -> str | None:
        links.expire(*link)
        return links.get(link[0])

    with ThreadPoolExecutor(50) as pool:
        assert all(url and url.endswith("?2") for url in pool.map(renew, refused))
    assert service.asked == 2


def test_while_the_route_fails_images_are_read_by_id() -> None:
    service = Service(["i1"])
    links = SignedLinks(service.links, clock=lambda: service.now)
    service.fails = True
    assert [links.get(image("i1"), many=True) for _ in range(100)] == [None] * 100
    assert service.asked == 1
    service.fails = False
    service.now += 61
    assert links.get(image("i1")) == "https://s/i1?2"


def test_links_that_storage_never_takes_are_given_up() -> None:
    service = Service(["i1"])
    links = SignedLinks(service.links, clock=lambda: service.now)
    for _ in range(100):
        url = links.get(image("i1"))
        if url is not None:
            links.expire(image("i1"), url)
    assert service.asked == 2
    service.now += 61
    assert links.get(image("i1")) == "https://s/i1?3"
