"""The journal's changes in memory: what is still to be done on the service, and which places that concerns.

Pure data, no lock of its own: `Ledger` changes it after each commit and guards it. Every operation is O(1) or
O(answer), but for `mention`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TypeVar

from pictofs.namespace import is_within
from pictofs.transfer.places import ancestors, loose_key
from pictofs.transfer.records import Change, ChangeKind, Key

__all__ = ["PendingChanges"]

T = TypeVar("T")

_HIDING = (ChangeKind.ARCHIVE, ChangeKind.TRANSFER)


class PendingChanges:
    """Changes by id, oldest first, and what is derived from them."""

    def __init__(self) -> None:
        self._changes: dict[int, Change] = {}
        self._by_image: dict[str, list[int]] = {}
        self._by_dataset: dict[str, dict[int, None]] = {}
        self._places: Counter[Key] = Counter()  # loose keys
        self._filled: Counter[Key] = Counter()  # where images are to appear
        self._leaving: Counter[tuple[str, str]] = Counter()  # datasets and folders that are to be removed
        self._made: dict[tuple[str, str], int] = {}  # the latest change that makes a folder
        self._removed: dict[tuple[str, str], int] = {}  # the latest that removes it
        self._kinds: Counter[ChangeKind] = Counter()
        self._hidden: frozenset[str] | None = None

    def __len__(self) -> int:
        return len(self._changes)

    def __iter__(self) -> Iterator[Change]:
        return iter(self._changes.values())

    def get(self, change_id: int) -> Change | None:
        """A change, None when it is settled."""
        return self._changes.get(change_id)

    def count(self, kind: ChangeKind) -> int:
        """How many there are of a kind."""
        return self._kinds[kind]

    # Changes of changes

    def put(self, change: Change) -> None:
        """Add a change, or put a new value in its place."""
        self.drop(change.id, keeps_turn=True)
        self._changes[change.id] = change
        if change.shown_id is not None:
            ids = self._by_image.setdefault(change.shown_id, [])
            if change.id not in ids:
                ids.append(change.id)
        for dataset_id in {dataset_id for dataset_id, _ in change.folders}:
            self._by_dataset.setdefault(dataset_id, {}).setdefault(change.id)
        self._kinds[change.kind] += 1
        self._places.update(map(loose_key, change.places))
        self._filled.update(change.places[1:])
        here = (change.dataset_id, change.folder)
        if change.kind is ChangeKind.RMDIR:
            self._leaving[here] += 1
            self._removed[here] = change.id
        elif change.kind is ChangeKind.MKDIR:
            self._made[here] = change.id
        self._hidden = None

    def drop(self, change_id: int, *, keeps_turn: bool = False) -> None:
        """Forget a change, if it is still there.

        Args:
            keeps_turn: it will be put again, in the same place among the others.
        """
        change = self._changes.get(change_id)
        if change is None:
            return
        if not keeps_turn:
            del self._changes[change_id]
            if change.shown_id is not None:
                ids = self._by_image[change.shown_id]
                ids.remove(change_id)
                if not ids:
                    del self._by_image[change.shown_id]
            for dataset_id in {dataset_id for dataset_id, _ in change.folders}:
                del self._by_dataset[dataset_id][change_id]
        self._kinds[change.kind] -= 1
        _subtract(self._places, map(loose_key, change.places))
        _subtract(self._filled, change.places[1:])
        here = (change.dataset_id, change.folder)
        if change.kind is ChangeKind.RMDIR:
            _subtract(self._leaving, [here])
        for latest in (self._made, self._removed):
            if latest.get(here) == change_id:
                del latest[here]
        self._hidden = None

    # Questions

    def of_dataset(self, dataset_id: str) -> list[Change]:
        """The changes that concern a dataset, oldest first."""
        return [self._changes[change_id] for change_id in self._by_dataset.get(dataset_id, ())]

    def latest(self, image_id: str) -> Change | None:
        """The last change of an image; one that copies by the copy's provisional id, not by its source's."""
        ids = self._by_image.get(image_id)
        return self._changes[ids[-1]] if ids else None

    def making(self, dataset_id: str, folder: str) -> Change | None:
        """The change that will make this folder."""
        return self._changes.get(self._made.get((dataset_id, folder), 0))

    def removing(self, dataset_id: str, folder: str) -> Change | None:
        """The change that will remove this folder."""
        return self._changes.get(self._removed.get((dataset_id, folder), 0))

    def hidden(self) -> frozenset[str]:
        """Ids of the images that are about to leave their dataset."""
        if self._hidden is None:
            latest = (self._changes[ids[-1]] for ids in self._by_image.values())
            self._hidden = frozenset(c.image_id for c in latest if c.image_id and c.kind in _HIDING)
        return self._hidden

    def concern(self, key: Key) -> bool:
        """Whether a change is to empty or fill this place, or one much alike, or to remove its folder."""
        if not self._changes:
            return False
        if self._places[loose_key(key)] > 0:
            return True
        dataset_id, folder, _ = key
        return bool(self._leaving) and any(
            (dataset_id, above) in self._leaving for above in ancestors(folder)
        )

    def fill(self, key: Key) -> bool:
        """Whether an image is to appear at this very place."""
        return self._filled[key] > 0

    def mention(self, dataset_id: str, folder: str, *, besides: Change | None = None) -> bool:
        """Whether a change has to do with a folder or with one below it."""
        return any(
            change is not besides
            and any(found == dataset_id and is_within(path, folder) for found, path in change.folders)
            for change in self.of_dataset(dataset_id)
        )


def _subtract(counter: Counter[T], keys: Iterable[T]) -> None:
    for key in keys:
        counter[key] -= 1
        if not counter[key]:
            del counter[key]
