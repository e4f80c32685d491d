"""Who reads a folder in order is helped, and nobody else."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

import pytest

from pictofs.api.errors import NetworkError
from pictofs.api.models import Image
from pictofs.transfer.readahead import PATIENCE_S, Readahead, Sibling

MB = 1 << 20


class House:
    """A folder whose files are read through; fetches are noted, and done at once unless a gate is shut."""

    def __init__(
        self, count: int = 200, size_bytes: int = MB, *, at_once: int = 16, max_bytes: int = 1 << 40
    ):
        self.images = [Image(f"i{n}", f"{n:05}.jpg", "d1", "/", size_bytes) for n in range(count)]
        self.listed: Sequence[Image] = self.images
        self.inodes: dict[str, int] = {}
        self.now = 0.0
        self.here: set[str] = set()
        self.fetched: dict[int, int] = {}  # number of the image → bytes
        self.expected: list[tuple[int, int]] = []  # of the disk: number of the image, bytes
        self.gate: threading.Event | None = None
        self.fails = False
        self.is_linked = True
        self.waiting = 0  # fetches at the gate, so far
        self.stopped: list[int] = []
        self.changed = threading.Condition()
        self.readahead = Readahead(
            self._fetch,
            lambda image: self.is_linked,
            self._expect,
            at_once=at_once,
            room_bytes=lambda: max_bytes,
            clock=lambda: self.now,
        )

    def _fetch(self, image: Image, size_bytes: int, stop: Callable[[], bool]) -> None:
        if self.gate is not None:
            with self.changed:
                self.waiting += 1
                self.changed.notify_all()
            while not self.gate.wait(0.002):
                if stop():
                    with self.changed:
                        self.stopped.append(int(image.id[1:]))
                        self.changed.notify_all()
                    return
        if self.fails:
            raise NetworkError("no")
        with self.changed:
            self.fetched[int(image.id[1:])] = size_bytes
            self.here.add(image.id)
            self.changed.notify_all()

    def _expect(self, image_id: str, size_bytes: int) -> None:
        with self.changed:
            self.expected.append((int(image_id[1:]), size_bytes))

    def read(self, number: int, size_bytes: int | None = None) -> bool:
        """Read an image, or its beginning; whether it was here already."""
        image = self.images[number]
        follower = self.readahead.follow(
            "folder", image, lambda: [Sibling(i.filename, self.inodes.get(i.id, 0), i) for i in self.listed]
        )
        was_here = image.id in self.here
        if follower is not None:
            follower.reached(image.file_size if size_bytes is None else size_bytes)
            follower.began(was_here=was_here)
        self.here.add(image.id)
        return was_here

    def settle(self) -> None:
        """Wait until the workers have nothing to do."""
        deadline = time.monotonic() + 10
        while not self._is_idle():
            assert time.monotonic() < deadline
            time.sleep(0.0005)

    def _is_idle(self) -> bool:
        readahead = self.readahead
        with readahead._lock:
            return not readahead._jobs and readahead._idle == readahead._workers


def walk(house: House, numbers: Sequence[int], size_bytes: int | None = None) -> int:
    """How many of the files had to be waited for."""
    missed = 0
    for number in numbers:
        missed += not house.read(number, size_bytes)
        house.settle()
    return missed


def test_a_walk_by_name_waits_for_two_files_only() -> None:
    house = House()
    assert walk(house, range(200)) == 2
    assert house.fetched == dict.fromkeys(range(2, 200), MB)


def test_a_walk_in_the_order_of_the_listing() -> None:
    house = House()
    order = list(range(200))
    random.Random(1).shuffle(order)
    house.listed = [house.images[n] for n in order]
    assert walk(house, order) <= 4


def test_a_walk_by_inode() -> None:
    house = House()
    order = list(range(200))
    random.Random(1).shuffle(order)
    house.inodes = {f"i{n}": inode for inode, n in enumerate(order)}
    assert walk(house, order) <= 4


def test_never_further_ahead_than_asked() -> None:
    house = House(at_once=4)
    walk(house, range(20))
    assert max(house.fetched) == 19 + 4


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_that_take_turns(workers: int) -> None:
    """A data loader: each worker has every so-many-th batch of four."""
    house = House()
    batches = [list(range(b, b + 4)) for b in range(0, 200, 4)]
    turns = []
    for group in range(0, len(batches), workers):
        for together in zip(*batches[group : group + workers], strict=True):
            turns += together
    assert walk(house, turns) <= 12


def test_workers_with_a_part_of_the_folder_each() -> None:
    house = House()
    turns = [start + n for n in range(50) for start in (0, 50, 100, 150)]
    assert walk(house, turns) <= 12


def test_every_fourth_file_fetches_every_fourth() -> None:
    house = House()
    walk(house, range(0, 200, 4))
    assert all(n % 4 == 0 for n in house.fetched)
    assert len(house.fetched) > 40


def test_files_in_no_order_fetch_little() -> None:
    house = House(count=5000)
    numbers = random.Random(2).sample(range(5000), 200)
    walk(house, numbers)
    assert len(house.fetched) < 20


def test_headers_only_fetch_headers_only() -> None:
    house = House(size_bytes=5 * MB)
    walk(house, range(100), 64 * 1024)
    assert {*house.fetched.values()} == {64 * 1024}


def test_small_files_do_not_mean_that_large_ones_are_read_whole() -> None:
    house = House(size_bytes=40_000)
    house.images[8:] = [Image(i.id, i.filename, "d1", "/", 5 * MB) for i in house.images[8:]]
    house.listed = house.images
    walk(house, range(8))
    walk(house, range(8, 100), 64 * 1024)
    assert max(house.fetched.values()) <= 64 * 1024


def test_what_is_here_already_fetches_nothing() -> None:
    house = House()
    house.here = {image.id for image in house.images}
    walk(house, range(200))
    assert house.fetched == {}


def test_a_broken_pattern_drops_what_is_not_fetched_yet() -> None:
    house = House(at_once=8)
    walk(house, range(4))
    fetched = len(house.fetched)
    house.gate = threading.Event()
    house.read(4)
    house.read(5)
    with house.changed:
        assert house.changed.wait_for(lambda: house.waiting == 2, 10)
    house.read(150)
    house.settle()
    assert sorted(house.stopped) == [12, 13]
    assert len(house.fetched) == fetched
    house.gate = None
    assert walk(house, range(6, 60)) <= 10  # whoever went on is helped again


def test_no_more_than_the_bound_lies_unread() -> None:
    house = House(max_bytes=5 * MB)
    walk(house, range(10))
    assert max(house.fetched) <= 9 + 7
    assert house.readahead._ahead_bytes <= 7 * MB
    house.now += PATIENCE_S + 1  # what nobody came for does not stop a later walk
    before = len(house.fetched)
    walk(house, range(100, 110))
    assert len(house.fetched) > before


def test_without_links_and_with_zero_nothing_is_fetched() -> None:
    house = House()
    house.is_linked = False
    walk(house, range(20))
    assert house.fetched == {}
    house = House(at_once=0)
    walk(house, range(20))
    assert house.fetched == {}


def test_failures_are_for_the_reader() -> None:
    house = House()
    house.fails = True
    walk(house, range(20))
    house.fails = False
    assert walk(house, range(20, 100)) <= 30


def test_a_folder_whose_listing_cannot_be_had_is_read_all_the_same() -> None:
    house = House()

    def unreachable() -> list[Sibling]:
        raise NetworkError("offline")

    follower = house.readahead.follow("folder", house.images[0], unreachable)
    assert follower is not None
    follower.began(was_here=False)
    assert house.fetched == {}


def test_images_that_came_later_are_found() -> None:
    house = House(count=10)
    walk(house, range(10))
    house.images.extend(Image(f"i{n}", f"{n:05}.jpg", "d1", "/", MB) for n in range(10, 40))
    house.now += 61
    assert walk(house, range(10, 40)) <= 5


def test_who_walks_through_files_that_are_here_has_the_disk_read_the_next_ones() -> None:
    house = House(50)
    house.here = {image.id for image in house.images}
    assert walk(house, range(50)) == 0
    assert house.fetched == {}
    assert sorted(house.expected) == [(number, MB) for number in range(5, 50)]
    house.expected.clear()
    assert walk(house, range(50), 64 * 1024) == 0  # once more, and only the beginnings
    assert sorted(number for number, _ in house.expected)[-40:] == list(range(10, 50))
    assert (49, 64 * 1024) in house.expected


def test_the_disk_is_not_told_where_several_programs_read() -> None:
    house = House(1000)
    house.here = {image.id for image in house.images}
    assert walk(house, [part + number for number in range(200) for part in (0, 200, 400, 600)]) == 0
    assert house.expected == []


def test_the_disk_is_not_told_of_files_that_are_read_in_no_order() -> None:
    house = House(1000)
    house.here = {image.id for image in house.images}
    numbers = [number * 37 % 1000 for number in range(300)]
    assert walk(house, numbers) == 0
    assert house.expected == []


def test_the_disk_is_not_told_where_others_read_between() -> None:
    house = House(1000)
    house.here = {image.id for image in house.images}
    walked = [[3 * step, 3 * step + 1, 3 * step + 2, 300 + 20 * step] for step in range(30)]
    assert walk(house, [number for part in walked for number in part]) == 0
    assert house.expected == []


def test_what_is_missing_among_files_that_are_here_is_fetched() -> None:
    house = House(100)
    house.here = {image.id for image in house.images[:50]}
    assert walk(house, range(100)) == 1
    assert house.fetched == dict.fromkeys(range(51, 100), MB)
