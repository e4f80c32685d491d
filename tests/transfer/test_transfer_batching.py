"""Which changes go together, and which wait for which. Pure: no journal, no clock."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from pictofs.transfer.batching import Outlook, next_batch
from pictofs.transfer.places import loose_key
from pictofs.transfer.records import Change, ChangeKind

D = "d1"


class Queue:
    """Changes in the order in which they are wished."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.in_flight: list[tuple[str, str]] = []
        self.queued: list[str] = []
        self._ids = itertools.count(1)

    def image(
        self, kind: ChangeKind, image_id: str, place: str, target: str | None = None, **more: str
    ) -> int:
        folder, _, filename = place.rpartition("/")
        target_dataset = more.get("target_dataset", D) if target is not None else None
        change = Change(
            next(self._ids), kind, more.get("dataset", D), folder or "/", filename, place, image_id,
            target_dataset_id=target_dataset, target_folder=target,
        )  # fmt: skip
        self.changes.append(change)
        return change.id

    def archive(self, image_id: str, place: str, **more: str) -> int:
        return self.image(ChangeKind.ARCHIVE, image_id, place, **more)

    def move(self, image_id: str, place: str, target: str, **more: str) -> int:
        return self.image(ChangeKind.MOVE, image_id, place, target, **more)

    def copy(self, image_id: str, place: str, target: str) -> int:
        return self.image(ChangeKind.COPY, image_id, place, target)

    def folder(self, kind: ChangeKind, path: str) -> int:
        self.changes.append(Change(next(self._ids), kind, D, path, "", path))
        return self.changes[-1].id

    def mkdir(self, path: str) -> int:
        return self.folder(ChangeKind.MKDIR, path)

    def rmdir(self, path: str) -> int:
        return self.folder(ChangeKind.RMDIR, path)

    def next(self, resting: tuple[int, ...] = ()) -> list[int]:
        outlook = Outlook(
            self.changes,
            {loose_key((D, folder, name)) for folder, name in self.in_flight},
            {(D, folder) for folder, _ in self.in_flight},
            {(D, folder) for folder in [*self.queued, *(folder for folder, _ in self.in_flight)]},
        )
        return [change.id for change in next_batch(outlook, resting)]

    def rounds(self) -> list[list[int]]:
        """The batches until nothing is left, each answered before the next."""
        found = []
        while batch := self.next():
            found.append(batch)
            self.changes = [change for change in self.changes if change.id not in batch]
        assert self.changes == []
        return found


@pytest.fixture
def queue() -> Queue:
    return Queue()


def test_rm_r_of_many_folders_is_one_batch_and_their_removal(queue: Queue) -> None:
    archives, removals = [], []
    for folder in ("/t/a", "/t/b", "/t/c"):
        archives += [queue.archive(f"{folder}{n}", f"{folder}/{n}.jpg") for n in range(3)]
        removals.append(queue.rmdir(folder))
    removals.append(queue.rmdir("/t"))
    assert queue.rounds() == [archives, *([number] for number in removals)]


def test_moves_to_one_folder_go_together_and_others_by_target(queue: Queue) -> None:
    to_b = [queue.move(str(n), f"/a/{n}.jpg", "/b") for n in range(3)]
    to_c = queue.move("7", "/a/7.jpg", "/c")
    to_b.append(queue.move("8", "/a/8.jpg", "/b"))
    assert queue.rounds() == [to_b, [to_c]]


def test_by_dataset(queue: Queue) -> None:
    first = queue.archive("1", "/x.jpg")
    other = queue.archive("2", "/x.jpg", dataset="d2")
    second = queue.archive("3", "/y.jpg")
    assert queue.rounds() == [[first, second], [other]]


def test_a_swap_through_a_temporary_folder_stays_in_order(queue: Queue) -> None:
    away = queue.move("1", "/a/x.jpg", "/t")
    over = queue.move("2", "/b/x.jpg", "/a")
    back = queue.move("1", "/t/x.jpg", "/b")
    late = queue.move("3", "/b/z.jpg", "/t")  # only this one may overtake
    assert queue.rounds() == [[away, late], [over], [back]]


def test_an_image_does_not_go_before_its_place_is_free(queue: Queue) -> None:
    removed = queue.archive("1", "/b/x.jpg")
    moved = queue.move("2", "/a/x.jpg", "/b")
    alike = queue.move("3", "/a/X.JPG", "/c")
    again = queue.move("2", "/b/x.jpg", "/d")
    assert queue.rounds() == [[removed], [moved], [alike], [again]]


def test_archiving_comes_first_unless_the_image_is_moved_before(queue: Queue) -> None:
    """An upload that was removed in flight lands late, at the place that an image has been moved to since."""
    moved = queue.move("1", "/a/x.jpg", "/b")
    then = queue.archive("1", "/b/x.jpg")
    landed = queue.archive("9", "/b/x.jpg")
    assert queue.rounds() == [[landed], [moved], [then]]


def test_copies_go_before_what_becomes_of_their_source(queue: Queue) -> None:
    copied = queue.copy("1", "/a/x.jpg", "/b")
    with_it = queue.copy("2", "/a/y.jpg", "/b")
    elsewhere = queue.copy("1", "/a/x.jpg", "/c")
    gone = queue.archive("1", "/a/x.jpg")
    moved = queue.move("2", "/a/y.jpg", "/c")
    folder = queue.rmdir("/a")
    free = queue.archive("3", "/e/z.jpg")
    assert queue.rounds() == [[free], [copied, with_it], [elsewhere], [gone], [moved], [folder]]


def test_a_copy_waits_until_its_place_is_free(queue: Queue) -> None:
    gone = queue.archive("9", "/b/x.jpg")
    copied = queue.copy("1", "/a/x.jpg", "/b")
    queue.in_flight.append(("/b", "y.jpg"))
    queue.copy("2", "/a/y.jpg", "/b")
    assert queue.next() == [gone]
    queue.changes = [change for change in queue.changes if change.id != gone]
    assert queue.next() == [copied]


def test_what_is_in_a_request_holds_up_only_what_touches_it(queue: Queue) -> None:
    queue.move("1", "/a/x.jpg", "/b")
    queue.changes[0] = replace(queue.changes[0], batch_id=7)
    queue.move("1", "/b/x.jpg", "/c")
    queue.rmdir("/a")
    free = queue.move("2", "/e/y.jpg", "/c")
    assert queue.next() == [free]


def test_a_folder_is_left_to_the_uploads_into_it(queue: Queue) -> None:
    made = queue.mkdir("/a")
    queue.queued.append("/a/b")
    assert queue.next() == []
    queue.queued.clear()
    assert queue.next(resting=(made,)) == []
    assert queue.next() == [made]


def test_a_folder_that_an_image_needs_is_made_at_once(queue: Queue) -> None:
    made = queue.mkdir("/a")
    other = queue.mkdir("/b")
    moved = queue.move("1", "/x.jpg", "/a")
    queue.queued.append("/a")
    assert queue.next(resting=(made, other)) == [made]
    queue.changes = [change for change in queue.changes if change.id != made]
    assert queue.next(resting=(other,)) == [moved]


def test_a_folder_is_removed_after_what_may_land_in_it(queue: Queue) -> None:
    queue.rmdir("/a")
    queue.in_flight.append(("/a/b", "x.jpg"))
    assert queue.next() == []
    queue.in_flight.clear()
    assert queue.next() == [1]


def test_an_image_waits_for_an_upload_that_may_land_at_its_target(queue: Queue) -> None:
    queue.move("1", "/a/x.jpg", "/b")
    free = queue.move("2", "/a/y.jpg", "/b")
    queue.in_flight.append(("/b", "x.jpg"))
    assert queue.next() == [free]


def test_removing_and_making_a_folder_again_stay_in_order(queue: Queue) -> None:
    gone = queue.rmdir("/a")
    made = queue.mkdir("/a")
    moved = queue.move("1", "/x.jpg", "/a")
    above = queue.rmdir("/a")
    assert queue.rounds() == [[gone], [made], [moved], [above]]
