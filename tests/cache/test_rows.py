"""Which row answers for what changes without the bytes, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from pictofs.api.errors import NetworkError
from pictofs.api.models import Dataset, Directory, Image
from pictofs.cache.metadata import MetadataCache
from pictofs.cache.rows import LONE_QUESTIONS, CurrentRows

TTL_S = 60.0


class FakeService:
    """One dataset of ten images; notes what was asked, and may be out of reach."""

    def __init__(self) -> None:
        self.images = {f"i{n}": Image(f"i{n}", f"{n}.jpg", "d1", "/", 5) for n in range(10)}
        self.asked: list[str] = []
        self.gone = False

    def _ask(self, what: str) -> None:
        self.asked.append(what)
        if self.gone:
            raise NetworkError("gone")

    def datasets(self) -> Sequence[Dataset]:
        return [Dataset("d1", "photos")]

    def contents(self, dataset_id: str) -> tuple[Dataset, Sequence[Image]]:
        self._ask("contents")
        return Dataset("d1", "photos"), list(self.images.values())

    def directories(self, dataset_id: str) -> Sequence[Directory]:
        return []

    def image(self, image_id: str) -> Image:
        self._ask(image_id)
        return self.images[image_id]

    def review(self) -> None:
        """Somebody else changes the status of every image; no counter moves."""
        self.images = {key: replace(row, status="review") for key, row in self.images.items()}


class House:
    def __init__(self) -> None:
        self.service = FakeService()
        self.now = 0.0
        self.metadata = MetadataCache(
            self.service, ttl_s=TTL_S, may_revalidate=lambda: False, clock=lambda: self.now
        )
        self.rows = CurrentRows(self.metadata, clock=lambda: self.now)
        with self.metadata.reading("d1"):
            self.service.asked.clear()

    def status(self, number: int) -> str:
        with self.metadata.reading("d1") as tree:
            image = tree.image(f"i{number}")
        assert image is not None
        return self.rows.of(image).status


@pytest.fixture
def house() -> House:
    return House()


def test_a_fresh_listing_answers_for_all_its_images(house: House) -> None:
    house.now = TTL_S - 1
    assert [house.status(n) for n in range(10)] == ["new"] * 10
    assert house.service.asked == []


def test_a_lone_question_about_a_stale_listing_goes_to_images_get_once(house: House) -> None:
    house.now = TTL_S + 1
    house.service.review()
    assert house.status(1) == house.status(1) == "review"
    assert house.service.asked == ["i1"]


def test_many_questions_about_a_stale_listing_are_the_listing_once(house: House) -> None:
    house.now = TTL_S + 1
    house.service.review()
    assert {house.status(n) for n in range(10)} == {"review"}
    assert house.service.asked == ["i0", "i1", "contents"]
    assert LONE_QUESTIONS == 2


def test_questions_far_apart_stay_lone(house: House) -> None:
    for n in range(6):
        house.now += TTL_S + 1
        house.status(n)
    assert house.service.asked == [f"i{n}" for n in range(6)]


def test_out_of_reach_the_last_known_rows_are_served_and_nobody_asks_for_a_ttl(house: House) -> None:
    house.now = TTL_S + 1
    house.service.gone = True
    assert {house.status(n) for n in range(10)} == {"new"}
    assert house.service.asked == ["i0"]
    house.service.gone = False
    house.service.review()
    house.now += TTL_S
    assert house.status(3) == "review"


def test_an_amended_row_agrees_in_listing_and_images_get(house: House) -> None:
    house.now = TTL_S + 1
    image = house.metadata.images.get("i1")
    house.metadata.amend(image, lambda row: replace(row, split="val"))
    with house.metadata.reading("d1") as tree:
        listed = tree.image("i1")
    assert listed is not None
    assert listed.split == house.metadata.images.get("i1").split == "val"
    assert house.service.asked == ["i1"]


def test_an_answer_from_before_an_amendment_is_not_kept(house: House) -> None:
    house.now = TTL_S + 1
    image = house.service.images["i1"]

    def change_meanwhile(image_id: str) -> Image:
        house.metadata.amend(image, lambda row: replace(row, split="val"))
        return image

    rows = house.metadata.images
    real, rows._ask = rows._ask, change_meanwhile
    rows.get("i1")
    rows._ask = real
    house.service.images["i1"] = replace(image, split="val")
    assert house.metadata.images.get("i1").split == "val"


def test_amending_an_image_that_is_gone_does_not_bring_it_back(house: House) -> None:
    image = house.service.images["i1"]
    house.metadata.forget("d1", "i1")
    house.metadata.amend(image, lambda row: replace(row, split="val"))
    with house.metadata.reading("d1") as tree:
        assert tree.image("i1") is None
