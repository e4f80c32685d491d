"""The journal: which files are not on the service yet and what becomes of them, and what is to change there.

The one source of truth about pending work. A row is the commit mark of a file: before it the spool file's
bytes are durable, after it nothing loses them. Owns the journal file, and the spool files that rows name: it
removes them with their rows, and at start those that no row ever named. What a row's states mean, and which
follow which: `records.State`. This is the side that the drive uses; the uploader's is `Journal.claims`, and
`Journal.changes` has what is to become of images and folders that are on the service.

A row in flight (SENDING, DONE) may be an image on the service already, so it is never changed: it is
abandoned, to be archived should it land, and another row takes its place. That one, like any row whose place
is not settled on the service, is not claimed before.

Thread-safe. Lock order: that of `journal_core`.
"""

from __future__ import annotations

import dataclasses
import errno
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from pictofs import namespace
from pictofs.api.models import Image
from pictofs.transfer.change_log import ChangeLog
from pictofs.transfer.claims import Claims
from pictofs.transfer.crashpoints import CrashPoint, reach
from pictofs.transfer.journal_core import JournalCore
from pictofs.transfer.ledger import Transaction
from pictofs.transfer.lock import StateLock
from pictofs.transfer.pacing import SYSTEM_CLOCK, Clock
from pictofs.transfer.records import (
    ChangeKind,
    Fate,
    Key,
    NewUpload,
    Outcome,
    State,
    Tally,
    Upload,
    UploadGoneError,
    archiving,
)
from pictofs.transfer.schema import JournalDamagedError, JournalError, JournalTooNewError
from pictofs.transfer.spool import Spool

__all__ = [
    "Fate",
    "Journal",
    "JournalDamagedError",
    "JournalError",
    "JournalTooNewError",
    "NewUpload",
    "Outcome",
    "State",
    "Upload",
    "UploadGoneError",
]

RESCUE_NAME = "rescued"
"""Folder beside the journal for spool files that a journal made just now found: bytes whose rows were lost
with an older one. They may be committed files, so they are never deleted."""


class Journal:
    """The queue of one account.

    Attributes:
        claims: the uploader's side.
        changes: what is to become of images and folders on the service.
        rescued_files: spool files that were found without a journal and set aside in RESCUE_NAME.
    """

    def __init__(self, path: Path, spool: Spool, lock: StateLock, *, clock: Clock = SYSTEM_CLOCK) -> None:
        """Opens it and puts it in order after a crash.

        Args:
            lock: held; cleaning the spool under a running mount would take its bytes.

        Raises:
            JournalError: it is damaged, or of a later release; nothing was changed, in the spool either.
            ValueError: the lock is not held.
            OSError: the disk says no.
        """
        if not lock.held:
            raise ValueError("the state lock must be held")
        self._core = JournalCore(path, spool, clock)
        try:
            self.rescued_files = self._core.recover(path.parent / RESCUE_NAME)
        except BaseException:
            self._core.ledger.close()
            raise
        self.claims = Claims(self._core)
        self.changes = ChangeLog(self._core)

    def close(self) -> None:
        """Closes the file. Whoever still uses it gets OSError(EBADF)."""
        self._core.ledger.close()

    # What programs do to files

    def add(self, new: NewUpload) -> Upload:
        """Commit a file. Its spool file is durable already.

        Raises:
            FileExistsError: a row is at that place already.
            OSError: ENOSPC or EIO; nothing is committed then.
        """
        with self._core.ledger.transaction() as transaction:
            shown = self._core.mirror.find((new.dataset_id, new.folder, new.filename))
            if shown is not None and shown.state is State.DONE:
                # The drive has taken the image over and writes it anew, before the row could go.
                transaction.update_row(replace(shown, abandoned=True))
            self._core.make_room(transaction, (new.dataset_id, new.folder, new.filename))
            row = transaction.insert_row(self._row_of(new))
        reach(CrashPoint.ROW_ADDED)
        self._core.arrived()
        return row

    def replace(self, upload_id: int, new: NewUpload) -> Upload:
        """Commit a rewrite of a file: its row with other bytes, or another row if the old one is in flight.

        A file that has landed meanwhile is treated as one in flight: its image is archived.

        Raises:
            OSError: as for `add`.
        """
        with self._core.ledger.transaction() as transaction:
            old = self._core.mirror.rows.get(upload_id)
            row = self._row_of(new)
            if old is None or old.abandoned:
                landed = self._core.landed.get(upload_id)
                image_id = landed.image.id if landed is not None and landed.image is not None else None
                row = transaction.insert_row(
                    replace(row, replaces_image_id=image_id or row.replaces_image_id)
                )
            else:
                image_id = self._replaced(transaction, old, new.replaces_image_id, old.replaces_image_id)
                kept = old.old_archived and image_id == old.replaces_image_id
                row = replace(
                    row,
                    replaces_image_id=image_id,
                    old_archived=kept,
                    suspect=old.suspect,
                    supersedes=old.supersedes,
                )
                if old.in_flight:
                    transaction.update_row(replace(old, abandoned=True))
                    row = transaction.insert_row(row)
                else:
                    row = transaction.update_row(replace(row, id=old.id, created_ns=old.created_ns))
            if row.id != upload_id:
                self._core.follow(upload_id, row.id)
        reach(CrashPoint.ROW_REPLACED)
        if old is not None and row.id == old.id:
            self._core.spool.remove(old.spool_name)
        self._core.arrived()
        return row

    def rename(
        self,
        upload_id: int,
        *,
        dataset_id: str,
        folder: str,
        filename: str,
        state: State,
        reason: str | None,
        width: int | None,
        height: int | None,
        replaces_image_id: str | None,
    ) -> Upload:
        """Give a file another place, and what is judged by its name. A row at that place is displaced.

        An image that it was to replace at its old place is archived, as that place is left.

        Args:
            replaces_image_id: the uploaded image at the new place. That of the old place counts as None.

        Raises:
            UploadGoneError: it has landed or was forgotten.
            OSError: as for `add`.
        """
        place = (dataset_id, folder, filename)
        with self._core.ledger.transaction() as transaction:
            row = self._core.mirror.rows.get(upload_id)
            if row is None or row.abandoned:
                raise UploadGoneError(errno.ENOENT, f"upload {upload_id} is no longer in the journal")
            shown = self._core.mirror.find(place)
            displaced = shown if shown is not None and shown.id != row.id else None
            moved = replace(
                row,
                dataset_id=dataset_id,
                folder=folder,
                filename=filename,
                state=state,
                reason=reason,
                width=width,
                height=height,
                errno=None,
                attempts=0,
            )
            if place != row.key:
                self._core.make_room(transaction, place, besides=row.id)
                there = displaced.replaces_image_id if displaced is not None else None
                if replaces_image_id != row.replaces_image_id:
                    there = self._replaced(transaction, moved, replaces_image_id, there)
                if row.replaces_image_id is not None:
                    self._core.insert_wish(transaction, row.replaces_image_id, row)
                if row.supersedes is not None and place == _place_of(row.supersedes):
                    there = there or row.supersedes.id  # back under its old name: a rewrite of it
                    moved = replace(moved, supersedes=None)
                moved = replace(moved, replaces_image_id=there, old_archived=False)
            if displaced is not None:
                self._core.abandon_or_drop(transaction, displaced)
            if row.in_flight:
                spool_name = self._core.spool.link(row.spool_name)
                reach(CrashPoint.ROW_LINKED)
                transaction.update_row(replace(row, abandoned=True))
                moved = transaction.insert_row(
                    replace(moved, spool_name=spool_name, registration_id=None, image=None)
                )
                self._core.follow(upload_id, moved.id)
            else:
                transaction.update_row(moved)
        reach(CrashPoint.ROW_RENAMED)
        if displaced is not None:
            self._core.remove_bytes([displaced])
        self._core.arrived()
        return moved

    def remove(self, upload_id: int) -> None:
        """unlink: forget a file, and archive the image it was to replace. In flight, it is archived once it
        lands; an upload that has landed meanwhile is archived at once.

        Raises:
            OSError: as for `add`.
        """
        with self._core.ledger.transaction() as transaction:
            row = self._core.mirror.rows.get(upload_id)
            landed = self._core.landed.get(upload_id)
            if row is not None and not row.abandoned:
                self._core.abandon_or_drop(transaction, row)
                if row.replaces_image_id is not None:
                    self._core.insert_wish(transaction, row.replaces_image_id, row)
                if row.supersedes is not None:
                    self._core.insert_change(transaction, archiving(row.supersedes))
            elif row is None and landed is not None and landed.image is not None:
                self._core.insert_wish(transaction, landed.image.id, landed)
        reach(CrashPoint.ROW_REMOVED)
        if row is not None:
            self._core.remove_bytes([row])
        self._core.tell()

    def discard(self, upload_ids: Iterable[int]) -> list[Upload]:
        """Give uploads up, with their bytes: an image that one was to replace stays. Returns those given up.

        Raises:
            OSError: as for `add`.
        """
        with self._core.ledger.transaction() as transaction:
            rows = [row for row in map(self._core.mirror.rows.get, upload_ids) if row and not row.abandoned]
            for row in rows:
                self._core.abandon_or_drop(transaction, row)
                self._core.restore_old(transaction, row)
                if row.supersedes is not None:  # it was only hidden; the answer shows it again
                    self._core.insert_change(
                        transaction, replace(archiving(row.supersedes), kind=ChangeKind.RESTORE)
                    )
        reach(CrashPoint.ROW_REMOVED)
        self._core.remove_bytes(rows)
        self._core.tell()
        return rows

    def retry(self, upload_ids: Iterable[int] | None, *, force: bool = False) -> list[Upload]:
        """Queue FAILED rows again (None: all), and with `force` HELD ones too, but never a working name.

        Returns those queued. Raises OSError as `add` does.
        """
        with self._core.ledger.transaction() as transaction:
            chosen = self._core.mirror.rows if upload_ids is None else upload_ids
            rows = [
                replace(row, state=State.QUEUED, reason=None, errno=None, attempts=0, forced=force)
                for row in map(self._core.mirror.rows.get, list(chosen))
                if row is not None and (row.state is State.FAILED or (force and _may_be_forced(row)))
            ]
            transaction.update_rows(rows)
        self._core.arrived()
        return rows

    def set_mtime(self, upload_id: int, mtime_ns: int) -> Upload | None:
        """utimens: of the row, or of the image that it became. Returns the row, None when there is none.

        Not fsynced: a power cut may take back the last times set, as on a local disk.
        """
        with self._core.ledger.transaction(durable=False) as transaction:
            row = self._core.mirror.rows.get(upload_id)
            landed = self._core.landed.get(upload_id)
            if row is not None:
                row = transaction.update_row(replace(row, mtime_ns=mtime_ns))
            elif landed is not None and landed.image is not None:
                transaction.set_mtime(landed.image.id, mtime_ns)
        return row

    # Looking

    @property
    def version(self) -> int:
        """Grows with every change."""
        return self._core.mirror.version

    def get(self, upload_id: int) -> Upload | None:
        """A row, shown or abandoned."""
        with self._core.changed:
            return self._core.mirror.rows.get(upload_id)

    def find(self, dataset_id: str, folder: str, filename: str) -> Upload | None:
        """The row that is shown at a place."""
        with self._core.changed:
            return self._core.mirror.find((dataset_id, folder, filename))

    def children(self, dataset_id: str, folder: str) -> Mapping[str, Upload]:
        """The rows shown in a folder, by file name; the same object as long as nothing changed there."""
        with self._core.changed:
            return self._core.mirror.children(dataset_id, folder)

    def folders(self, dataset_id: str) -> set[str]:
        """The folders of a dataset that show rows."""
        with self._core.changed:
            return self._core.mirror.folders(dataset_id)

    def pending(self) -> list[Upload]:
        """Every row that is shown, oldest first."""
        with self._core.changed:
            return sorted(self._core.mirror.shown(), key=lambda row: row.id)

    def counts(self) -> dict[State, Tally]:
        """Shown rows and their bytes, by state."""
        with self._core.changed:
            return self._core.mirror.counts()

    def abandoned_names(self, dataset_id: str, folder: str) -> frozenset[str]:
        """Names in a folder under which a removed or renamed file may be on the service for a moment yet."""
        with self._core.changed:
            return self._core.mirror.abandoned_names(dataset_id, folder)

    # Waiting

    def wait(self, upload_id: int, timeout_s: float) -> Outcome:
        """Wait until a file is on the service, or will not go there by itself. Follows rewrites and renames.

        While somebody waits, the uploader does not collect.
        """
        deadline_s = time.monotonic() + timeout_s
        with self._core.changed:
            self._core.waited_for[upload_id] += 1
        try:
            self._core.tell()
            with self._core.changed:
                while (outcome := self._core.outcome(upload_id)) is None:
                    left_s = deadline_s - time.monotonic()
                    if left_s <= 0:
                        return Outcome(Fate.TIMEOUT)
                    self._core.changed.wait(left_s)
                return outcome
        finally:
            with self._core.changed:
                self._core.waited_for[upload_id] -= 1
                if not self._core.waited_for[upload_id]:
                    del self._core.waited_for[upload_id]

    def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait until the service has been told everything; what is held or failed does not count.

        Returns whether that is so.
        """
        return self._core.wait_for(lambda: not self._core.mirror.unfinished(), timeout_s)

    @property
    def is_waited_for(self) -> bool:
        """Whether a thread waits for a row."""
        return bool(self._core.waited_for)

    def listen(self, listener: Callable[[], None]) -> None:
        """Call this, without a lock, after changes that may mean work. It must return at once."""
        self._core.listeners.append(listener)

    # Times of images

    def image_mtimes(self) -> dict[str, int]:
        """Modification times of images and folders by id, ns since 1970: a copy."""
        with self._core.changed:
            return dict(self._core.ledger.mtimes)

    def set_image_mtime(self, image_id: str, mtime_ns: int) -> None:
        """Keep one for good. Not fsynced, like `set_mtime`."""
        with self._core.ledger.transaction(durable=False) as transaction:
            transaction.set_mtime(image_id, mtime_ns)

    def hidden(self) -> frozenset[str]:
        """Ids of the images that are about to leave their dataset: not to be shown there."""
        with self._core.changed:
            return self._core.mirror.hidden()

    # Parts

    def _row_of(self, new: NewUpload) -> Upload:
        fields = {field.name: getattr(new, field.name) for field in dataclasses.fields(new)}
        return Upload(id=0, created_ns=self._core.clock.wall_ns(), **fields)

    def _replaced(self, transaction: Transaction, row: Upload, *images: str | None) -> str | None:
        """The first of the images is the one that the row's next value replaces; the others, whose places it
        leaves or takes as well, are archived at once."""
        wanted = list(dict.fromkeys(image_id for image_id in images if image_id))
        for image_id in wanted[1:]:
            self._core.insert_wish(transaction, image_id, row)
        return wanted[0] if wanted else None


def _place_of(image: Image) -> Key:
    return image.dataset_id, image.directory_path, image.filename


def _may_be_forced(row: Upload) -> bool:
    """A working name never leaves this machine, whoever asks."""
    return row.state is State.HELD and not namespace.is_working_name(row.filename)
