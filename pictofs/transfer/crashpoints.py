"""Named moments at which a test may kill this process, one at every transition of the upload queue.

A leaf: imports nothing of pictofs. `reach` does nothing unless `PICTOFS_CRASH_AT=<name>[:<n>]` was set when
the process started; then the n-th reach of that point (default: the first) is SIGKILL, which no handler sees
and no buffer survives. tests/transfer/test_transfer_crash.py covers each name.
"""

from __future__ import annotations

import enum
import os
import signal
import threading

__all__ = ["CrashPoint", "reach"]

_VARIABLE = "PICTOFS_CRASH_AT"


class CrashPoint(enum.Enum):
    """In the order in which a file meets them on its way up."""

    SPOOL_CREATED = "spool-created"  # an empty spool file, nothing written
    SPOOL_WRITTEN = "spool-written"  # bytes written, not yet fsynced
    SPOOL_SYNCED = "spool-synced"  # bytes and directory entry durable, no row
    ROW_ADDED = "row-added"  # the commit mark is durable
    ROW_REPLACED = "row-replaced"  # a rewrite is committed; the old bytes not yet removed
    ROW_LINKED = "row-linked"  # rename of a row in flight: second link made, not committed
    ROW_RENAMED = "row-renamed"  # a rename is committed
    ROW_REMOVED = "row-removed"  # a removal is committed; the bytes not yet removed
    CLAIMED = "claimed"  # rows are SENDING, nothing asked of the service
    URLS_RECEIVED = "urls-received"  # upload URLs are here, no byte sent
    PUT_DONE = "put-done"  # one file's bytes are in storage
    ALL_PUT = "all-put"  # the wave's bytes are in storage, nothing registered
    OLD_MARKED = "old-marked"  # overwrite: intent to archive the old image is durable
    OLD_ARCHIVED = "old-archived"  # overwrite: the old image is archived, the new one not registered
    REGISTRATION_JOURNALED = "registration-journaled"  # key and body durable, not sent
    REGISTERED = "registered"  # the service has answered, nothing recorded
    FOUND_OUT = "found-out"  # an open question was answered by the listing, nothing recorded
    SETTLED = "settled"  # the answer is durable (rows DONE or FAILED)
    LANDED_TOLD = "landed-told"  # on_landed has run, rows still there
    ROWS_DELETED = "rows-deleted"  # rows gone, spool files still there
    SPOOL_REMOVED = "spool-removed"  # everything of the landed rows is gone
    CHANGE_ADDED = "change-added"  # a change of an image or folder is in the journal
    BATCH_JOURNALED = "batch-journaled"  # the request for changes is durable, not sent
    BATCH_ANSWERED = "batch-answered"  # the service has answered it, nothing recorded
    CHANGES_SETTLED = "changes-settled"  # the answer is durable


def _armed() -> tuple[CrashPoint, int] | None:
    setting = os.environ.get(_VARIABLE)
    if not setting:
        return None
    name, _, count = setting.partition(":")
    return CrashPoint(name), int(count or 1)


_ARMED = _armed()
_lock = threading.Lock()
_reached = 0


def reach(point: CrashPoint) -> None:
    """Dies here if this is the point and the count the environment asks for; otherwise nothing."""
    if _ARMED is None or _ARMED[0] is not point:
        return
    global _reached
    with _lock:
        _reached += 1
        if _reached == _ARMED[1]:
            os.kill(os.getpid(), signal.SIGKILL)
