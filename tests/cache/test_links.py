"""Signed links: one request for many images, none wasted on a single one."""

from __future__ import annotations

from pictofs.api.models import DownloadItem, Image
from pictofs.cache.links import LIFETIME_S, SignedLinks


class Service:
    def __init__(self, ids: list[str]) -> None:
        self.ids = ids
        self.asked = 0
        self.now = 0.0

    def links(self, dataset_id: str) -> list[DownloadItem]:
        self.asked += 1
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
