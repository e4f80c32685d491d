"""An account's journal when nothing is mounted: looked at without disturbing, worked on under its lock.

Looking takes no lock, so that it never makes a mount fail that starts at the same moment: SQLite keeps
readers and the one writer apart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from pictofs.mount import accounts
from pictofs.mount.status import StatusReport, collect
from pictofs.mount.uploads import UploadDesk, UploadRow, list_rows
from pictofs.transfer.journal import Journal
from pictofs.transfer.ledger import Ledger
from pictofs.transfer.lock import StateLock, StateLockedError
from pictofs.transfer.records import ChangeKind, State, Tally, Upload
from pictofs.transfer.schema import JournalError
from pictofs.transfer.spool import Spool


class OfflineError(Exception):
    """The journal cannot be used now. The message is a sentence."""


class _Look:
    """A journal as it stands, once."""

    def __init__(self, path: Path) -> None:
        """Raises OfflineError: there is none, or it cannot be read."""
        if not path.exists():
            raise OfflineError(f"there is no journal at {path}.")
        try:
            with contextlib.closing(Ledger(path, read_only=True)) as ledger, ledger.changed:
                self._counts = ledger.mirror.counts()
                self._rows = list(ledger.mirror.shown())
                self.removals = ledger.mirror.removals()
                self.changes = len(ledger.mirror.changes) - ledger.mirror.changes.count(ChangeKind.ARCHIVE)
        except (OSError, JournalError) as error:
            raise OfflineError(str(error)) from None

    def counts(self) -> dict[State, Tally]:
        return self._counts

    def pending(self) -> list[Upload]:
        return self._rows


def read_report(folder: Path) -> StatusReport:
    """The state of the account in this state folder.

    Raises:
        OfflineError: it has no journal, or one that cannot be read.
    """
    look = _Look(folder / accounts.JOURNAL_NAME)
    note = accounts.read_note(folder)
    return collect(
        look,
        account=note.label,
        path_of=accounts.path_of(note),
        removals=look.removals,
        changes=look.changes,
    )


def read_rows(folder: Path) -> list[UploadRow]:
    """What is pending in the account in this state folder.

    Raises:
        OfflineError: it has no journal, or one that cannot be read.
    """
    look = _Look(folder / accounts.JOURNAL_NAME)
    spool = Spool(folder / accounts.SPOOL_NAME)
    return list_rows(look.pending(), spool, accounts.path_of(accounts.read_note(folder)))


@contextlib.contextmanager
def open_desk(folder: Path) -> Iterator[UploadDesk]:
    """Work on the account's journal; nobody can mount the account meanwhile.

    Raises:
        OfflineError: it is in use, has no journal, or one that cannot be read.
    """
    path = folder / accounts.JOURNAL_NAME
    if not path.exists():
        raise OfflineError(f"there is no journal at {path}.")
    with contextlib.ExitStack() as stack:
        try:
            lock = stack.enter_context(StateLock(folder))
            spool = Spool(folder / accounts.SPOOL_NAME)
            journal = stack.enter_context(contextlib.closing(Journal(path, spool, lock)))
        except (StateLockedError, JournalError) as error:
            raise OfflineError(str(error)) from None
        yield UploadDesk(journal, spool, accounts.path_of(accounts.read_note(folder)))
