"""The journal's changes: what is to become of images and folders on the service, until it has answered.

    add ─▶ waiting ─begin─▶ in a batch, journaled with its key and body ─settle─▶ gone
                   ◀─dissolve─

A change in a batch may have had its effect; the very same request is sent again until there is an answer. Two
changes of a folder that undo each other before they are sent are forgotten together, and a folder that
an upload has made need not be made.

Thread-safe. Lock order: that of `journal_core`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from pictofs.namespace import is_within
from pictofs.transfer.batching import Outlook
from pictofs.transfer.crashpoints import CrashPoint, reach
from pictofs.transfer.journal_core import JournalCore
from pictofs.transfer.ledger import Transaction
from pictofs.transfer.records import Batch, Change, ChangeKind, archiving

__all__ = ["ChangeLog"]


class ChangeLog:
    """See the module. Every method that changes something raises OSError (ENOSPC, EIO) and has changed
    nothing then; EBADF when the journal is closed."""

    def __init__(self, core: JournalCore) -> None:
        self._core = core
        self._made: set[int] = set()  # only grows and shrinks by whole updates, by the queue's thread

    # The drive's side

    def add(self, changes: Iterable[Change], times_ns: Mapping[str, int] = {}) -> list[Change]:
        """Remember changes, all or none, with modification times by image id. Not fsynced: a power cut may
        undo the last ones, as on a local disk.

        Returns them as they are in the journal, without those that were not needed.
        """
        added: list[Change] = []
        with self._core.ledger.transaction(durable=False) as transaction:
            for change in changes:
                if not self._cancels(transaction, change):
                    known = self._core.insert_change(transaction, change)
                    added += [known] if known is not None else []
            for image_id, mtime_ns in times_ns.items():
                transaction.set_mtime(image_id, mtime_ns)
        reach(CrashPoint.CHANGE_ADDED)
        self._core.tell()
        return added

    def _cancels(self, transaction: Transaction, change: Change) -> bool:
        """Whether a change undoes one of a folder that is not on its way; that one is forgotten then."""
        mirror = self._core.mirror
        here = (change.dataset_id, change.folder)
        if change.kind is ChangeKind.MKDIR:
            undone = mirror.changes.removing(*here)
        elif change.kind is ChangeKind.RMDIR:
            undone = mirror.changes.making(*here)
            uploads = mirror.moving_folders()
            if any(d == change.dataset_id and is_within(folder, change.folder) for d, folder in uploads):
                return False  # an upload may make it all the same
            if undone is not None and mirror.changes.mention(*here, besides=undone):
                return False  # and so may a move
        else:
            return False
        if undone is None or undone.batch_id is not None:
            return False
        transaction.drop_changes([undone.id])
        return True

    def __len__(self) -> int:
        return len(self._core.mirror.changes)

    def removals(self) -> int:
        """How many images are to be archived, now or when a file has landed."""
        return self._core.mirror.removals()

    def others(self) -> int:
        """How many changes are about something else."""
        return len(self) - self._core.mirror.changes.count(ChangeKind.ARCHIVE)

    def all(self) -> list[Change]:
        """All of them, oldest first."""
        with self._core.changed:
            return list(self._core.mirror.changes)

    def of_dataset(self, dataset_id: str) -> list[Change]:
        """Those that concern a dataset, oldest first."""
        with self._core.changed:
            return self._core.mirror.changes.of_dataset(dataset_id)

    def latest(self, image_id: str) -> Change | None:
        """The last one of an image; one that copies by the copy's provisional id, not by its source's."""
        with self._core.changed:
            return self._core.mirror.changes.latest(image_id)

    def is_made(self, change_id: int) -> bool:
        """Whether the service has made it, though it is not settled yet: a listing asked for from now on
        shows it."""
        return change_id in self._made

    def mention(self, dataset_id: str, folder: str) -> bool:
        """Whether one has to do with a folder or with one below it."""
        with self._core.changed:
            return self._core.mirror.changes.mention(dataset_id, folder)

    def wait_until_settled(self, dataset_id: str, folder: str, timeout_s: float) -> bool:
        """Wait until nothing in or below a folder is to be changed, or may land there though it was removed.

        Returns whether that is so.
        """
        return self._core.wait_for(lambda: not self._core.mirror.is_unsettled(dataset_id, folder), timeout_s)

    def wait(self, change_ids: Sequence[int], timeout_s: float) -> bool:
        """Wait until these are settled, and what followed from them. Whether they are."""
        changes = self._core.mirror.changes
        followed = self._core.followed

        def settled() -> bool:
            ids = {followed.get(change_id, change_id) for change_id in change_ids}
            return all(changes.get(change_id) is None for change_id in (*ids, *change_ids))

        return self._core.wait_for(settled, timeout_s)

    # The queue's side

    def outlook(self) -> Outlook:
        """The queue as it is now, to plan the next request."""
        with self._core.changed:
            mirror = self._core.mirror
            return Outlook(
                list(mirror.changes),
                mirror.places_in_flight(),
                mirror.folders_in_flight(),
                mirror.moving_folders(),
            )

    def resting(self, rest_s: float) -> dict[int, float]:
        """Which folders to be made are younger than this, and nobody waits: seconds until each is not."""
        core = self._core
        with core.changed:
            since_s = core.clock.monotonic_s() - rest_s
            if core.idle_waits:
                return {}
            return {
                change_id: added_s - since_s
                for change_id, added_s in core.made_s.items()
                if added_s > max(since_s, core.hurried_s) and core.mirror.changes.get(change_id) is not None
            }

    def arrivals(self) -> tuple[float | None, float, bool]:
        """When changes were added since the last batch, first and last on the monotonic clock; and whether to
        send at once, because somebody waits or asked for it."""
        core = self._core
        with core.changed:
            urgent = core.idle_waits > 0 or core.last_change_s <= core.hurried_s
            return core.first_change_s, core.last_change_s, urgent

    def collected(self) -> None:
        """A batch is about to be chosen: what is added from now on is for the next."""
        with self._core.changed:
            self._core.first_change_s = None

    def begin(self, batch: Batch, changes: Sequence[Change]) -> Batch:
        """Journal a request before it is sent; `batch.id`, `key` and `created_ns` are given here."""
        batch = replace(batch, key=secrets.token_hex(16), created_ns=self._core.clock.wall_ns())
        with self._core.ledger.transaction() as transaction:
            batch = transaction.insert_batch(batch)
            transaction.assign_batch(changes, batch.id)
        reach(CrashPoint.BATCH_JOURNALED)
        return batch

    def batches(self) -> list[Batch]:
        """The requests that were journaled and whose answer is not known, oldest first."""
        return self._core.ledger.batches()

    def dissolve(self, batch: Batch) -> None:
        """A request is over without an effect: its changes may be in others."""
        changes = self._members(batch)
        with self._core.ledger.transaction() as transaction:
            transaction.assign_batch(changes, None)
            transaction.drop_answered_batches()

    def members(self, batch: Batch) -> list[Change]:
        """The changes that wait for a request's answer, in its order."""
        with self._core.changed:
            return self._members(batch)

    def _members(self, batch: Batch) -> list[Change]:
        changes = map(self._core.mirror.changes.get, batch.change_ids)
        return [change for change in changes if change is not None and change.batch_id == batch.id]

    def made(self, changes: Iterable[Change]) -> None:
        """The service has made these; call it before the drive is told and `settle` after."""
        self._made.update(change.id for change in changes)

    def settle(
        self, done: Sequence[Change], refused: Sequence[Change] = (), *, successors: Mapping[str, str] = {}
    ) -> None:
        """The service has answered these. An image that was copied to another dataset is to be archived where
        it came from, from the same transaction on.

        Args:
            successors: ids under which copies were shown, and those that they have: they keep their times.
        """
        core = self._core
        with core.ledger.transaction() as transaction:
            transaction.drop_changes(change.id for change in (*done, *refused))
            for change in done:
                if change.kind is ChangeKind.TRANSFER and change.image is not None:
                    archive = core.insert_change(transaction, archiving(change.image, change.path))
                    if archive is not None:
                        core.remember_followed(change.id, archive.id)
            for old, new in successors.items():
                mtime_ns = core.ledger.mtimes.get(old)
                if mtime_ns is not None:
                    transaction.set_mtime(new, mtime_ns)
            copies = (c.image.id for c in (*done, *refused) if c.kind is ChangeKind.COPY and c.image)
            transaction.drop_mtimes(image_id for image_id in copies if image_id in core.ledger.mtimes)
            transaction.drop_answered_batches()
        self._made.difference_update(change.id for change in done)
        reach(CrashPoint.CHANGES_SETTLED)
        core.tell()
