"""When a listing goes to the disk: once it was fetched, a while after changes made here, and at the end.

Writing is never on the way of a request: one thread does it, started with the first need.

Lock order: `Keeper._lock`; the marks of `Listings` are set and taken away under it. A snapshot is taken and
written without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pictofs.cache.listings import Listings, Saved

CHANGES_S = 30.0
"""How long changes made here are collected. A listing of 100,000 images is 8 MB, so not for each of them."""

CLOSE_S = 5.0
"""The longest that the end waits for what is being written: a slow disk, a listing of a million images."""


class Keeper:
    """Keeps listings on the disk up to date.

    Args:
        listings: the disk.
        snapshot: a dataset's listing as it is now; None when there is none worth keeping.
    """

    def __init__(
        self,
        listings: Listings,
        snapshot: Callable[[str], Saved | None],
        *,
        changes_s: float = CHANGES_S,
    ) -> None:
        self._listings = listings
        self._snapshot = snapshot
        self._changes_s = changes_s
        self._lock = threading.Condition()
        self._due: dict[str, float] = {}  # dataset id → when, monotonic seconds
        self._changed: set[str] = set()  # marked: changed since its last snapshot
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def fetched(self, dataset_id: str) -> None:
        """There is a new listing: write it soon."""
        with self._lock:
            self._plan(dataset_id, 0.0)

    def changed(self, dataset_id: str) -> None:
        """This machine has changed something in a dataset: what is on the disk is old from here on.

        Call it after the change, or a snapshot could miss it and take its mark away.
        """
        with self._lock:
            if dataset_id not in self._changed:
                self._listings.mark(dataset_id)
                self._changed.add(dataset_id)
            if dataset_id not in self._due:
                self._plan(dataset_id, self._changes_s)

    def close(self) -> None:
        """Write what is not written yet, and end."""
        with self._lock:
            self._is_closing = True
            self._lock.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_S)

    def _plan(self, dataset_id: str, delay_s: float) -> None:
        self._due[dataset_id] = time.monotonic() + delay_s
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="listing-keeper", daemon=True)
            self._thread.start()
        self._lock.notify_all()

    def _run(self) -> None:
        while (dataset_id := self._next()) is not None:
            saved = self._snapshot(dataset_id)
            if saved is not None and self._listings.save(saved):
                with self._lock:
                    if dataset_id not in self._changed:
                        self._listings.unmark(dataset_id)

    def _next(self) -> str | None:
        """Wait for the next dataset whose time has come; None at the end."""
        with self._lock:
            while True:
                due = min(self._due, key=self._due.__getitem__, default=None)
                if due is None and self._is_closing:
                    return None
                left_s = None if due is None else self._due[due] - time.monotonic()
                if due is not None and left_s is not None and (left_s <= 0 or self._is_closing):
                    del self._due[due]
                    self._changed.discard(due)  # a change from now on may miss the snapshot
                    return due
                self._lock.wait(left_s)
