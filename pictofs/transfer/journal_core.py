"""What both sides of the journal stand on: its state, its order after a crash, and changes that they share.

`Journal` is the drive's side, `Claims` the uploader's; nobody else uses this.

Lock order: that of `ledger`. Everything here that is not in the ledger is guarded by `Ledger.changed`;
listeners and spool removals run with no lock held.
"""

from __future__ import annotations

import errno
import logging
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pictofs.transfer.ledger import Ledger, Transaction
from pictofs.transfer.pacing import Arrivals, Clock
from pictofs.transfer.records import (
    Change,
    ChangeKind,
    Fate,
    Key,
    Outcome,
    State,
    Upload,
    archiving,
)
from pictofs.transfer.spool import Spool

log = logging.getLogger(__name__)

_WISHES = (ChangeKind.ARCHIVE, ChangeKind.RESTORE)

_REMEMBERED = 10_000  # fsync and close ask within moments; a bound on memory, some 5 MB


class JournalCore:
    """The rows, and what is known of them in this process only.

    Attributes:
        arrivals: when rows became ready.
        not_before_s: rows that rest after trouble, by id, until this monotonic time.
        waited_for: how many threads wait for each row.
        landed: rows that landed lately, with their images.
        successors: which row took an abandoned one's place, lately.
        first_change_s, last_change_s: when changes were added since the last batch; monotonic.
        hurried_s: what was there then is to be sent at once; monotonic.
        made_s: when folders that are to be made were added, lately, by change id; monotonic.
        followed: which change came of another, lately.
        idle_waits: how many threads wait for changes.
    """

    def __init__(self, path: Path, spool: Spool, clock: Clock) -> None:
        self.ledger = Ledger(path)
        self.mirror = self.ledger.mirror
        self.changed = self.ledger.changed
        self.spool = spool
        self.clock = clock
        self.arrivals = Arrivals()
        self.not_before_s: dict[int, float] = {}
        self.waited_for: Counter[int] = Counter()
        self.landed: OrderedDict[int, Upload] = OrderedDict()
        self.successors: OrderedDict[int, int] = OrderedDict()
        self.first_change_s: float | None = None
        self.last_change_s = -math.inf
        self.hurried_s = -math.inf
        self.made_s: OrderedDict[int, float] = OrderedDict()
        self.followed: OrderedDict[int, int] = OrderedDict()
        self.idle_waits = 0
        self.listeners: list[Callable[[], None]] = []

    # After a start

    def recover(self, rescue: Path) -> int:
        """Put rows and spool in order after whatever ended the last process. Returns the files set aside.

        A claimed row whose registration was never journaled was not registered: it is queued again, or
        dropped when it was abandoned. Spool files without a row were never committed, or are left over from a
        row that is gone; only below a journal made just now can they be more, so those are set aside instead.
        """
        sizes = {name: self.spool.size_bytes(name) for name in self.spool.names()}
        with self.ledger.transaction() as transaction:
            for row in list(self.mirror.rows.values()):
                self._recover_row(transaction, row, sizes.get(row.spool_name))
            transaction.drop_answered_registrations()
            transaction.drop_answered_batches()
        rescued = 0
        for name in sizes.keys() - {row.spool_name for row in self.mirror.rows.values()}:
            if self.ledger.is_new and sizes[name]:
                self.spool.set_aside(name, rescue)
                rescued += 1
            else:
                self.spool.remove(name)
        if rescued:
            log.warning("%d files were found without a journal and set aside in %s", rescued, rescue)
        if self.mirror.queued:
            self.arrivals.note(self.clock.monotonic_s())
        return rescued

    def _recover_row(self, transaction: Transaction, row: Upload, found_bytes: int | None) -> None:
        interrupted = row.state is State.SENDING and row.registration_id is None
        if interrupted and row.abandoned:
            transaction.drop_rows([row])
        elif (interrupted or not row.in_flight) and found_bytes != row.size_bytes:
            words = "missing" if found_bytes is None else f"cut to {found_bytes} of {row.size_bytes}"
            reason = f"its bytes in the spool are {words}"
            transaction.update_row(replace(row, state=State.FAILED, reason=reason, errno=errno.EIO))
        elif interrupted:
            transaction.update_row(replace(row, state=State.QUEUED))

    # Parts of transactions

    def insert_wish(
        self, transaction: Transaction, image_id: str, row: Upload, kind: ChangeKind = ChangeKind.ARCHIVE
    ) -> None:
        """Archive or restore an image at a row's place."""
        self.insert_change(
            transaction, Change(0, kind, row.dataset_id, row.folder, row.filename, row.path, image_id)
        )

    def insert_change(self, transaction: Transaction, change: Change) -> Change | None:
        """Remember a change. Of two wishes about the same image that are not on their way the last counts.

        Returns it as it is in the journal, None when it is there already.
        """
        if change.kind in _WISHES and change.image_id is not None:
            latest = self.mirror.changes.latest(change.image_id)
            if latest is not None and latest.kind is change.kind is ChangeKind.ARCHIVE:
                return None
            if latest is not None and latest.kind in _WISHES and latest.batch_id is None:
                transaction.drop_changes([latest.id])
        if change.kind in (ChangeKind.MOVE, ChangeKind.TRANSFER, ChangeKind.COPY):
            self.make_room(transaction, change.places[-1])
        change = transaction.insert_change(change)
        now_s = self.clock.monotonic_s()
        with self.changed:
            self.last_change_s = now_s
            if self.first_change_s is None:
                self.first_change_s = now_s
            if change.kind is ChangeKind.MKDIR:
                _remember(self.made_s, change.id, now_s)
        return change

    def remember_followed(self, change_id: int, next_id: int) -> None:
        """Whoever waits for one change waits for the next as well. Before the commit that drops the first."""
        with self.changed:
            _remember(self.followed, change_id, next_id)

    def make_room(self, transaction: Transaction, place: Key, besides: int | None = None) -> None:
        """An upload or an image is to go to a place that another leaves when its copy, a queued row, has
        landed. Two such might wait for each other, so it is archived now: its bytes are here as well.

        Args:
            besides: the row that goes there.
        """
        for row in self.mirror.copies_of(place):
            if row.state is State.QUEUED and row.id != besides and row.supersedes is not None:
                transaction.update_row(replace(row, supersedes=None))
                self.insert_change(transaction, archiving(row.supersedes))

    def abandon_or_drop(self, transaction: Transaction, row: Upload) -> None:
        """Forget a row: at once, or when it is settled if it is in flight."""
        if row.in_flight:
            transaction.update_row(replace(row, abandoned=True))
        else:
            transaction.drop_rows([row])

    def restore_old(self, transaction: Transaction, row: Upload) -> None:
        """The row will not take its image's place: bring that one back."""
        if row.replaces_image_id is not None and row.old_archived:
            self.insert_wish(transaction, row.replaces_image_id, row, ChangeKind.RESTORE)

    def follow(self, upload_id: int, successor_id: int) -> None:
        """Whoever waits for the one waits for the other now. Before the commit that abandons the first."""
        with self.changed:
            _remember(self.successors, upload_id, successor_id)

    def has_landed(self, rows: Iterable[Upload]) -> None:
        """Remember these DONE rows, whose deletion is about to be committed."""
        with self.changed:
            for row in rows:
                _remember(self.landed, row.id, row)

    # After transactions

    def arrived(self) -> None:
        """A row may be ready: note the time and tell."""
        with self.changed:
            self.arrivals.note(self.clock.monotonic_s())
        self.tell()

    def tell(self) -> None:
        """Something may have to be done."""
        for listener in self.listeners:
            listener()

    def remove_bytes(self, rows: Iterable[Upload]) -> None:
        """Remove the spool files of rows that are gone; those of rows still in flight stay."""
        for row in rows:
            if row.id not in self.mirror.rows:
                self.spool.remove(row.spool_name)

    # Waiting

    def wait_for(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until something is so; it is looked at with `changed` held. Changes do not rest meanwhile."""
        with self.changed:
            self.idle_waits += 1
        try:
            self.tell()
            with self.changed:
                return self.changed.wait_for(is_so, timeout_s)
        finally:
            with self.changed:
                self.idle_waits -= 1

    # Questions, with `changed` held

    def outcome(self, upload_id: int) -> Outcome | None:
        """How an upload ended, None while it is under way."""
        while True:
            row = self.mirror.rows.get(upload_id)
            if row is not None and not row.abandoned:
                break
            if upload_id in self.landed:
                return Outcome(Fate.LANDED, image=self.landed[upload_id].image)
            successor = self.successors.get(upload_id)
            if successor is None:
                return Outcome(Fate.FORGOTTEN, reason="the file was removed", errno=errno.ENOENT)
            upload_id = successor
        if row.state is State.FAILED:
            return Outcome(Fate.FAILED, reason=row.reason, errno=row.errno)
        if row.state is State.HELD:
            return Outcome(Fate.HELD, reason=row.reason)
        return None

    def ready(self) -> int:
        """How many rows are queued and not resting."""
        return len(self.mirror.queued) - len(self.not_before_s)

    def wake_rested(self, now_s: float) -> None:
        """Forget the rest of rows for which it is over, or which are not queued any more."""
        over = [
            upload_id
            for upload_id, at_s in self.not_before_s.items()
            if at_s <= now_s or upload_id not in self.mirror.queued
        ]
        for upload_id in over:
            del self.not_before_s[upload_id]
        if over and self.ready():
            self.arrivals.due(now_s)


T = TypeVar("T")


def _remember(memory: OrderedDict[int, T], key: int, value: T) -> None:
    memory[key] = value
    while len(memory) > _REMEMBERED:
        memory.popitem(last=False)
