"""Which changes go into the next request: in order where order matters, together where it does not.

Pure. The oldest change goes first, and with it all later ones of its kind, dataset and target that touch no
image, place or folder which a change before them, left out, mentions as well. What waits holds up only
what touches the same. Archiving an image of which nothing else is wanted before it comes first of all: it
hinders nobody and makes room.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from pictofs.transfer.places import ancestors, loose_key
from pictofs.transfer.records import Change, ChangeKind, Key

__all__ = ["BATCH_IDS", "Outlook", "next_batch"]

BATCH_IDS = 10_000
"""Images in one request, as the service bounds it."""

Folder = tuple[str, str]  # dataset id, path

_FOLDER_KINDS = (ChangeKind.MKDIR, ChangeKind.RMDIR)


@dataclass(frozen=True, slots=True)
class Outlook:
    """The queue, and the uploads that it has to mind.

    Attributes:
        changes: oldest first, those in requests too.
        in_flight: loose keys of uploads that may be on the service any moment, and of images that are to be
            archived once their copies have landed.
        folders_in_flight: their folders.
        moving_folders: the same with those of queued uploads: which will make their folders.
    """

    changes: Sequence[Change]
    in_flight: Collection[Key]
    folders_in_flight: Collection[Folder]
    moving_folders: Collection[Folder]


def next_batch(outlook: Outlook, resting: Collection[int] = ()) -> list[Change]:
    """The changes of the next request; empty when each waits for something.

    Args:
        resting: ids of changes to leave alone, unless a folder that is to be made is needed by an image.
    """
    landing = {(d, above) for d, folder in outlook.folders_in_flight for above in ancestors(folder)}
    making = {(d, above) for d, folder in outlook.moving_folders for above in ancestors(folder)}
    blocked = _Mentions()
    waiting: dict[Folder, Change] = {}
    batch: list[Change] = []

    def waits(change: Change) -> bool:
        here = (change.dataset_id, change.folder)
        if change.kind is ChangeKind.MKDIR:
            return change.id in resting or here in making
        if change.kind is ChangeKind.RMDIR:
            return change.id in resting or here in landing
        if change.kind is ChangeKind.ARCHIVE:
            return change.id in resting
        return change.id in resting or loose_key(change.places[-1]) in outlook.in_flight

    for change in _in_order(outlook.changes):
        if change.batch_id is None and not blocked.touch(change):
            if not waits(change):
                if not batch or (_group(change) == _group(batch[0]) and change.kind not in _FOLDER_KINDS):
                    batch.append(change)
                    if len(batch) == BATCH_IDS:
                        break
                    continue
            elif change.kind is ChangeKind.MKDIR:
                waiting[change.dataset_id, change.folder] = change
        elif change.batch_id is None and not batch and change.image_id is not None and waiting:
            needed = (
                waiting[d, above]
                for d, folder in change.folders
                for above in ancestors(folder)
                if (d, above) in waiting
            )
            batch.extend([first] if (first := next(needed, None)) is not None else [])
        blocked.add(change)
    return batch


def _in_order(changes: Sequence[Change]) -> list[Change]:
    seen: set[str | None] = {None}
    first: list[Change] = []
    then: list[Change] = []
    for change in changes:
        free = change.kind is ChangeKind.ARCHIVE and change.image_id not in seen
        (first if free else then).append(change)
        seen.add(change.image_id)
    return first + then


def _group(change: Change) -> tuple[object, ...]:
    return change.kind, change.dataset_id, change.target_dataset_id, change.target_folder


class _Mentions:
    """What some changes have to do with."""

    def __init__(self) -> None:
        self._images: set[str] = set()
        self._places: set[Key] = set()
        self._whole: set[Folder] = set()  # folders that are made or removed
        self._above: set[Folder] = set()  # folders that are mentioned, and all that hold them

    def add(self, change: Change) -> None:
        if change.image_id is not None:
            self._images.add(change.image_id)
        else:
            self._whole.add((change.dataset_id, change.folder))
        self._places.update(map(loose_key, change.places))
        self._above.update((d, above) for d, folder in change.folders for above in ancestors(folder))

    def touch(self, change: Change) -> bool:
        if change.image_id is None:
            if (change.dataset_id, change.folder) in self._above:
                return True
        elif change.image_id in self._images or any(loose_key(p) in self._places for p in change.places):
            return True
        return bool(self._whole) and any(
            (d, above) in self._whole for d, folder in change.folders for above in ancestors(folder)
        )
