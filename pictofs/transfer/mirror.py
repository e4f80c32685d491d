"""The journal's rows in memory: everything the drive looks up without touching the disk.

Pure data, no lock of its own: `Ledger` changes it after each commit and guards it. Every operation is O(1) or
O(answer), never O(rows).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType

from pictofs.transfer.records import Key, Removal, RemovalAction, State, Tally, Upload

__all__ = ["Mirror", "loose_key"]

_NOTHING: Mapping[str, Upload] = MappingProxyType({})


def loose_key(key: Key) -> Key:
    """Equal for places whose names the service might make equal: it may sanitise a name, and stores .heic
    as .png. Two such files must not be in flight together, or one could take the other's bytes or answer."""
    dataset_id, folder, filename = key
    stem, dot, extension = filename.casefold().rpartition(".")
    extension = "png" if extension == "heic" else extension
    plain = "".join(character if character.isalnum() else "_" for character in stem)
    return dataset_id, folder.casefold(), plain + dot + extension


class Mirror:
    """Rows and removals, and what is derived from them."""

    def __init__(self) -> None:
        self.rows: dict[int, Upload] = {}
        self.removals: dict[int, Removal] = {}
        self.queued: dict[int, None] = {}  # ids of QUEUED rows in the order in which they are claimed
        self.version = 0  # counts changes of what is shown
        self._shown: dict[str, dict[str, dict[str, Upload]]] = {}  # dataset → folder → file name
        self._snapshots: dict[tuple[str, str], Mapping[str, Upload]] = {}
        self._tallies = {state: Tally() for state in State}  # shown rows only
        self._abandoned: set[int] = set()
        self._busy: Counter[Key] = Counter()  # loose keys of rows in flight and of removals
        self._removal_by_image: dict[str, Removal] = {}
        self._images: set[str] = set()  # what DONE rows became
        self._hidden: frozenset[str] | None = None

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

    def put_removal(self, removal: Removal) -> None:
        """Add a removal."""
        self.removals[removal.id] = removal
        self._removal_by_image[removal.image_id] = removal
        self._busy[loose_key(removal.key)] += 1
        self._hidden = None
        self.version += 1

    def drop_removal(self, removal_id: int) -> None:
        """Forget a removal, if it is still there."""
        removal = self.removals.pop(removal_id, None)
        if removal is not None:
            del self._removal_by_image[removal.image_id]
            self._release(removal.key)
            self._hidden = None
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
        return frozenset(r.filename for r in rows if (r.dataset_id, r.folder) == (dataset_id, folder))

    def hidden(self) -> frozenset[str]:
        """Ids of the images that are about to be archived."""
        if self._hidden is None:
            self._hidden = frozenset(
                r.image_id for r in self.removals.values() if r.action is RemovalAction.ARCHIVE
            )
        return self._hidden

    def removal_of(self, image_id: str) -> Removal | None:
        """The removal of an image."""
        return self._removal_by_image.get(image_id)

    def is_adopted(self, image_id: str) -> bool:
        """Whether an image is what a row became, or is to be archived."""
        removal = self.removal_of(image_id)
        return image_id in self._images or (removal is not None and removal.action is RemovalAction.ARCHIVE)

    def counts(self) -> dict[State, Tally]:
        """Shown rows and their bytes by state."""
        return {state: Tally(tally.files, tally.bytes) for state, tally in self._tallies.items()}

    def is_busy(self, key: Key) -> bool:
        """Whether something at this place, or at one much alike, is not settled on the service yet."""
        return self._busy[loose_key(key)] > 0 if self._busy else False

    def unfinished(self) -> int:
        """How many rows and removals the service has still to be told of."""
        moving = (State.QUEUED, State.SENDING, State.DONE)
        return sum(self._tallies[state].files for state in moving) + len(self._abandoned) + len(self.removals)

    def is_removing(self, dataset_id: str) -> bool:
        """Whether a dataset has images that are to be archived, or abandoned rows that may become some."""
        return any(self.rows[upload_id].dataset_id == dataset_id for upload_id in self._abandoned) or any(
            removal.dataset_id == dataset_id for removal in self.removals.values()
        )

    # Keeping the derived data

    def _show(self, row: Upload) -> None:
        folders = self._shown.setdefault(row.dataset_id, {})
        folders.setdefault(row.folder, {})[row.filename] = row
        self._snapshots.pop((row.dataset_id, row.folder), None)
        tally = self._tallies[row.state]
        tally.files += 1
        tally.bytes += row.size_bytes

    def _leave(self, row: Upload) -> None:
        if row.in_flight:
            self._release(row.key)
        if row.image is not None:
            self._images.discard(row.image.id)
        if row.abandoned:
            self._abandoned.discard(row.id)
            return
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

    def _release(self, key: Key) -> None:
        loose = loose_key(key)
        self._busy[loose] -= 1
        if not self._busy[loose]:
            del self._busy[loose]
