"""The uploader's side of the journal: claiming rows, journaling requests, recording answers.

One transaction per step, so that a crash between any two leaves a state that the next start understands:

    QUEUED ─claim─▶ SENDING ─begin_registration─▶ SENDING, registered? ─settle─▶ DONE ─finish─▶ gone

    SENDING without a registration: nothing was registered, the row is queued again
    SENDING with one: it was or was not received; the very same request is sent again, and its answer counts
    DONE: registered for certain; only the drive has still to be told

Thread-safe. Lock order: that of `journal_core`.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from pictofs.api.models import Image, NewImage
from pictofs.transfer.crashpoints import CrashPoint, reach
from pictofs.transfer.journal_core import JournalCore
from pictofs.transfer.pacing import QueueMarks, rested_s
from pictofs.transfer.places import ancestors, loose_key
from pictofs.transfer.records import (
    Again,
    Key,
    Refused,
    Registration,
    State,
    Upload,
    archiving,
)

__all__ = ["Claims"]


class Claims:
    """See the module. Every method that changes rows raises OSError (ENOSPC, EIO) and has changed nothing
    then; EBADF when the journal is closed."""

    def __init__(self, core: JournalCore) -> None:
        self._core = core

    def marks(self, *, urgent: bool = False) -> QueueMarks:
        """The queue, for the collector; `urgent` also when a thread waits for a row."""
        now_s = self._core.clock.monotonic_s()
        core = self._core
        with core.changed:
            core.wake_rested(now_s)
            first_s = core.arrivals.first_s
            return QueueMarks(
                ready=core.ready(),
                first_s=now_s if first_s is None else first_s,
                last_s=core.arrivals.last_s,
                burst_s=core.arrivals.burst_s,
                due_s=min(core.not_before_s.values(), default=None),
                urgent=urgent or bool(core.waited_for),
            )

    def get(self, upload_id: int) -> Upload | None:
        """A row, shown or abandoned."""
        with self._core.changed:
            return self._core.mirror.rows.get(upload_id)

    def claim(self, limit: int, max_bytes: int) -> list[Upload]:
        """Take QUEUED rows of one dataset, oldest first, into SENDING.

        At most `limit` rows, and `max_bytes` unless the first alone has more; none whose place is unsettled.
        """
        with self._core.ledger.transaction(durable=False) as transaction:
            rows = list(self._claimable(limit, max_bytes))
            transaction.update_rows(
                replace(row, state=State.SENDING, reason=None, attempts=row.attempts + 1) for row in rows
            )
        with self._core.changed:
            self._core.arrivals.claimed(self._core.clock.monotonic_s(), ready=self._core.ready())
            return [self._core.mirror.rows[row.id] for row in rows]

    def mark_old_archived(self, upload_ids: Iterable[int]) -> None:
        """The images that these rows replace will be archived now."""
        with self._core.ledger.transaction() as transaction:
            rows = [self._core.mirror.rows[upload_id] for upload_id in upload_ids]
            transaction.update_rows(replace(row, old_archived=True) for row in rows)
        reach(CrashPoint.OLD_MARKED)

    def begin_registration(self, members: Sequence[tuple[int, NewImage]]) -> Registration | None:
        """Journal a bulk-register request of SENDING rows of one dataset, before it is sent.

        Rows abandoned meanwhile are dropped instead: they never reach the service. None when no row is left.
        """
        registration = None
        with self._core.ledger.transaction() as transaction:
            rows = [(self._core.mirror.rows[upload_id], image) for upload_id, image in members]
            dropped = [row for row, _ in rows if row.abandoned]
            transaction.drop_rows(dropped)
            kept = [(row, image) for row, image in rows if not row.abandoned]
            if kept:
                registration = transaction.insert_registration(
                    secrets.token_hex(16), kept[0][0].dataset_id, kept, self._core.clock.wall_ns()
                )
                number = registration.id
                transaction.update_rows(replace(row, registration_id=number) for row, _ in kept)
        self._core.remove_bytes(dropped)
        reach(CrashPoint.REGISTRATION_JOURNALED)
        return registration

    def registrations(self) -> list[Registration]:
        """The requests that were journaled and whose answer is not known, oldest first."""
        return self._core.ledger.registrations()

    def members(self, registration: Registration) -> dict[int, Upload]:
        """The rows that still wait for its answer, by id, in its order."""
        with self._core.changed:
            rows = [self._core.mirror.rows.get(upload_id) for upload_id in registration.upload_ids]
        return {row.id: row for row in rows if row is not None and row.registration_id == registration.id}

    def dissolve(self, registration: Registration, *, suspect: bool) -> None:
        """A request is over without an effect on the rows that still wait for it: they can be in others.

        Args:
            suspect: so it seems; see `Upload.suspect`.
        """
        with self._core.ledger.transaction() as transaction:
            rows = self.members(registration).values()
            transaction.update_rows(
                replace(row, registration_id=None, suspect=row.suspect or suspect) for row in list(rows)
            )
            transaction.drop_answered_registrations()

    def settle(
        self,
        *,
        landed: Mapping[int, Image] | None = None,
        refused: Mapping[int, Refused] | None = None,
        again: Mapping[int, Again] | None = None,
    ) -> list[Upload]:
        """Record in one transaction what became of SENDING rows: DONE, FAILED, or QUEUED again.

        An abandoned row that did not land is dropped. Returns the rows that are DONE now; `finish` them.

        Raises:
            ValueError: two rows would become the same image.
        """
        landed, refused, again = landed or {}, refused or {}, again or {}
        images = [image.id for image in landed.values()]
        if len(set(images)) < len(images) or any(map(self.is_adopted, images)):
            raise ValueError(f"an image for two uploads: {sorted(images)}")
        with self._core.ledger.transaction() as transaction:
            rows = self._core.mirror.rows
            done = [
                replace(rows[i], state=State.DONE, image=image, reason=None, registration_id=None)
                for i, image in landed.items()
            ]
            dropped = [rows[i] for i in (*refused, *again) if rows[i].abandoned]
            parked = [rows[i] for i in refused if not rows[i].abandoned]
            queued = [rows[i] for i in again if not rows[i].abandoned]
            transaction.update_rows(done)
            transaction.drop_rows(dropped)
            for row in parked:
                self._core.restore_old(transaction, row)
            transaction.update_rows(
                replace(
                    row,
                    state=State.FAILED,
                    reason=refused[row.id].reason,
                    errno=refused[row.id].errno,
                    registration_id=None,
                    old_archived=False,
                )
                for row in parked
            )
            transaction.update_rows(
                replace(
                    row,
                    state=State.QUEUED,
                    reason=again[row.id].reason,
                    suspect=row.suspect or again[row.id].suspect,
                    registration_id=None,
                )
                for row in queued
            )
            transaction.drop_answered_registrations()
        with self._core.changed:
            now_s = self._core.clock.monotonic_s()
            self._core.not_before_s.update({row.id: rested_s(now_s, again[row.id].delay_s) for row in queued})
        reach(CrashPoint.SETTLED)
        self._core.remove_bytes(dropped)
        self._core.tell()
        return done

    def done_rows(self) -> list[Upload]:
        """The rows that are DONE and not finished."""
        with self._core.changed:
            return [row for row in self._core.mirror.rows.values() if row.state is State.DONE]

    def finish(self, upload_ids: Iterable[int]) -> None:
        """Delete DONE rows: the drive shows their images now. Their times are kept; what was abandoned
        meanwhile is to be archived, from the same transaction on."""
        with self._core.ledger.transaction() as transaction:
            rows = [self._core.mirror.rows[upload_id] for upload_id in upload_ids]
            transaction.drop_rows(rows)
            for row in rows:
                assert row.image is not None  # of a DONE row
                if row.abandoned:
                    self._core.insert_wish(transaction, row.image.id, row)
                else:
                    transaction.set_mtime(row.image.id, row.mtime_ns)
                    if row.supersedes is not None:
                        self._core.insert_change(transaction, archiving(row.supersedes))
                transaction.drop_changes(self._made_by(row.dataset_id, row.folder))
            self._core.has_landed(row for row in rows if not row.abandoned)
        reach(CrashPoint.ROWS_DELETED)
        for row in rows:
            self._core.spool.remove(row.spool_name)
        reach(CrashPoint.SPOOL_REMOVED)
        self._core.tell()

    def _made_by(self, dataset_id: str, folder: str) -> list[int]:
        """The changes that would make folders which an upload into this one has made."""
        making = (self._core.mirror.changes.making(dataset_id, above) for above in ancestors(folder))
        return [change.id for change in making if change is not None and change.batch_id is None]

    def is_adopted(self, image_id: str) -> bool:
        """Whether an image is known to be another row's, of now or earlier, or on its way out."""
        with self._core.changed:
            # Each image that ever landed from here has a modification time.
            return self._core.mirror.is_adopted(image_id) or image_id in self._core.ledger.mtimes

    def hurry(self) -> None:
        """Let rows that rest be claimed at once, and changes be sent."""
        with self._core.changed:
            now_s = self._core.clock.monotonic_s()
            self._core.not_before_s = dict.fromkeys(self._core.not_before_s, now_s)
            self._core.hurried_s = now_s
        self._core.tell()

    def _claimable(self, limit: int, max_bytes: int) -> Iterator[Upload]:
        mirror = self._core.mirror
        dataset_id = None
        taken: set[Key] = set()
        size_bytes = 0
        for upload_id in mirror.queued:
            row = mirror.rows[upload_id]
            if upload_id in self._core.not_before_s or dataset_id not in (None, row.dataset_id):
                continue
            place = loose_key(row.key)
            if place in taken or mirror.is_busy(row):
                continue
            size_bytes += row.size_bytes
            if taken and size_bytes > max_bytes:
                return
            dataset_id = row.dataset_id
            taken.add(place)
            yield row
            if len(taken) >= limit:
                return
