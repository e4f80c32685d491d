"""The journal's rows in memory: everything the drive looks up without touching the disk.

Pure data, no lock of its own: `Ledger` changes it after each commit and guards it. Every operation is O(1) or
O(answer), never O(rows).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TypeVar

from pictofs.api.models import Image
from pictofs.namespace import is_within
from pictofs.transfer.pending import PendingChanges
from pictofs.transfer.places import loose_key
from pictofs.transfer.records import Change, ChangeKind, Key, State, Tally, Upload

__all__ = ["Mirror"]

T = TypeVar("T")

_NOTHING: Mapping[str, Upload] = MappingProxyType({})


class Mirror:
    """Rows and changes, and what is derived from them."""

    def __init__(self) -> None:
        self.rows: dict[int, Upload] = {}
        self.changes = PendingChanges()
        self.queued: dict[int, None] = {}  # ids of QUEUED rows in the order in which they are claimed
        self.version = 0  # counts changes of what is shown
        self._shown: dict[str, dict[str, dict[str, Upload]]] = {}  # dataset → folder → file name
        self._snapshots: dict[tuple[str, str], Mapping[str, Upload]] = {}
        self._tallies = {state: Tally() for state in State}  # shown rows only
        self._abandoned: set[int] = set()
        self._busy: Counter[Key] = Counter()  # loose keys of rows in flight
        self._images: set[str] = set()  # what DONE rows became
        self._superseded: set[str] = set()  # what shown rows are copies of
        self._emptied: Counter[tuple[str, str]] = Counter()  # where those are, of rows that will land:
        self._emptied_places: Counter[Key] = Counter()  # folders and loose keys
        self._in_flight: Counter[tuple[str, str]] = Counter()  # rows by dataset and folder
        self._moving: Counter[tuple[str, str]] = Counter()  # the same, and those that are queued

    # Changes

    def put(self, row: Upload) -> None:
        """Add a row or put a new value in its place."""
        old = self.rows.get(row.id)
        if old is not None:
            self._leave(old)
        self.rows[row.id] = row
        if row.state is State.QUEUED:
            self.queued.setdefault(row.id)  # a row that stays queued keeps its turn
        else:
            self.queued.pop(row.id, None)
        if row.in_flight:
            self._busy[loose_key(row.key)] += 1
            self._in_flight[row.dataset_id, row.folder] += 1
        if row.in_flight or row.state is State.QUEUED:
            self._moving[row.dataset_id, row.folder] += 1
        if row.image is not None:
            self._images.add(row.image.id)
        if row.abandoned:
            self._abandoned.add(row.id)
        else:
            self._show(row)
        self.version += 1

    def drop(self, upload_id: int) -> None:
        """Forget a row."""
        row = self.rows.pop(upload_id)
        self._leave(row)
        self.queued.pop(upload_id, None)
        self.version += 1

    def put_change(self, change: Change) -> None:
        """Add a change, or put a new value in its place."""
        self.changes.put(change)
        self.version += 1

    def drop_change(self, change_id: int) -> None:
        """Forget a change, if it is still there."""
        self.changes.drop(change_id)
        self.version += 1

    # Questions

    def find(self, key: Key) -> Upload | None:
        """The row shown at a place."""
        dataset_id, folder, filename = key
        return self._shown.get(dataset_id, {}).get(folder, {}).get(filename)

    def children(self, dataset_id: str, folder: str) -> Mapping[str, Upload]:
        """The rows shown in a folder; the same object as long as nothing changed there."""
        snapshot = self._snapshots.get((dataset_id, folder))
        if snapshot is None:
            rows = self._shown.get(dataset_id, {}).get(folder)
            if not rows:
                return _NOTHING
            snapshot = self._snapshots[dataset_id, folder] = MappingProxyType(dict(rows))
        return snapshot

    def folders(self, dataset_id: str) -> set[str]:
        """The folders that show rows."""
        return set(self._shown.get(dataset_id, ()))

    def shown(self) -> Iterator[Upload]:
        """Every row that is shown."""
        return (row for row in self.rows.values() if not row.abandoned)

    def abandoned_names(self, dataset_id: str, folder: str) -> frozenset[str]:
        """Names in a folder under which an abandoned row may appear on the service for a moment."""
        rows = (self.rows[upload_id] for upload_id in self._abandoned)
        names = frozenset(r.filename for r in rows if (r.dataset_id, r.folder) == (dataset_id, folder))
        return frozenset(n for n in names if not self.changes.fill((dataset_id, folder, n)))

    def hidden(self) -> frozenset[str]:
        """Ids of the images that are about to leave their dataset, or that a shown row is a copy of."""
        return self.changes.hidden() | self._superseded

    def is_adopted(self, image_id: str) -> bool:
        """Whether an image is what a row became, or is about to be changed."""
        return image_id in self._images or self.changes.latest(image_id) is not None

    def counts(self) -> dict[State, Tally]:
        """Shown rows and their bytes by state."""
        return {state: Tally(tally.files, tally.bytes) for state, tally in self._tallies.items()}

    def is_busy(self, row: Upload) -> bool:
        """Whether something else at a row's place, or at one much alike, is not settled on the service."""
        loose = loose_key(row.key)
        if self._emptied_places:
            own = row.supersedes is not None and _loose_place(row.supersedes) == loose
            if self._emptied_places[loose] > own:
                return True
        return (bool(self._busy) and self._busy[loose] > 0) or self.changes.concern(row.key)

    def copies_of(self, place: Key) -> list[Upload]:
        """The rows that are copies of an image at this place, or at one much alike, and will land."""
        loose = loose_key(place)
        if not self._emptied_places[loose]:
            return []
        copies = (row for row in self.shown() if row.supersedes is not None)
        return [row for row in copies if row.supersedes and _loose_place(row.supersedes) == loose]

    def places_in_flight(self) -> set[Key]:
        """Loose keys of the rows in flight, and of the images that are archived once their copies have
        landed."""
        return {*self._busy, *self._emptied_places}

    def folders_in_flight(self) -> set[tuple[str, str]]:
        """Datasets and folders of the rows in flight, shown or not; and of the images that are archived once
        their copies have landed."""
        return {*self._in_flight, *self._emptied}

    def moving_folders(self) -> set[tuple[str, str]]:
        """Datasets and folders of the rows that are on their way or will be, shown or not."""
        return set(self._moving)

    def removals(self) -> int:
        """How many images are to be archived, now or when a row has landed."""
        later = len(self._abandoned) + sum(self._emptied_places.values())
        return self.changes.count(ChangeKind.ARCHIVE) + later

    def unfinished(self) -> int:
        """How many rows and changes the service has still to be told of."""
        moving = (State.QUEUED, State.SENDING, State.DONE)
        return sum(self._tallies[s].files for s in moving) + len(self._abandoned) + len(self.changes)

    def is_unsettled(self, dataset_id: str, folder: str) -> bool:
        """Whether something in or below a folder is to be changed, or an abandoned row may land there."""
        abandoned = ((r.dataset_id, r.folder) for r in map(self.rows.__getitem__, self._abandoned))
        return self.changes.mention(dataset_id, folder) or any(
            found == dataset_id and is_within(path, folder) for found, path in abandoned
        )

    # Keeping the derived data

    def _show(self, row: Upload) -> None:
        folders = self._shown.setdefault(row.dataset_id, {})
        folders.setdefault(row.folder, {})[row.filename] = row
        self._snapshots.pop((row.dataset_id, row.folder), None)
        if row.supersedes is not None:
            self._superseded.add(row.supersedes.id)
            if row.in_flight or row.state is State.QUEUED:
                self._emptied[row.supersedes.dataset_id, row.supersedes.directory_path] += 1
                self._emptied_places[_loose_place(row.supersedes)] += 1
        tally = self._tallies[row.state]
        tally.files += 1
        tally.bytes += row.size_bytes

    def _leave(self, row: Upload) -> None:
        if row.in_flight:
            _decrement(self._busy, loose_key(row.key))
            _decrement(self._in_flight, (row.dataset_id, row.folder))
        if row.in_flight or row.state is State.QUEUED:
            _decrement(self._moving, (row.dataset_id, row.folder))
        if row.image is not None:
            self._images.discard(row.image.id)
        if row.abandoned:
            self._abandoned.discard(row.id)
            return
        if row.supersedes is not None:
            self._superseded.discard(row.supersedes.id)
            if row.in_flight or row.state is State.QUEUED:
                _decrement(self._emptied, (row.supersedes.dataset_id, row.supersedes.directory_path))
                _decrement(self._emptied_places, _loose_place(row.supersedes))
        tally = self._tallies[row.state]
        tally.files -= 1
        tally.bytes -= row.size_bytes
        folders = self._shown[row.dataset_id]
        names = folders[row.folder]
        del names[row.filename]
        if not names:
            del folders[row.folder]
        if not folders:
            del self._shown[row.dataset_id]
        self._snapshots.pop((row.dataset_id, row.folder), None)


def _loose_place(image: Image) -> Key:
    return loose_key((image.dataset_id, image.directory_path, image.filename))


def _decrement(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
