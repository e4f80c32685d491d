"""The uploader: the threads that bring the queue's files to the service, and what they say of themselves.

One thread collects waves and asks for their URLs, several put bytes into storage, one registers; so the next
wave is on the line while the last one is being registered. What they do is in `Sender` and `Registrar`; here
is when.

Lock order: `Uploader._work` (waiting workers), then those of sender, registrar, journal. Never held while the
service is asked.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pictofs.api.models import Image
from pictofs.transfer.journal import Journal
from pictofs.transfer.pacing import SYSTEM_CLOCK, Backoff, Clock, Health, Pause, Throughput
from pictofs.transfer.records import Upload
from pictofs.transfer.registrar import RegisterRemote, Registrar
from pictofs.transfer.sender import Sender, SendRemote
from pictofs.transfer.spool import Spool

__all__ = ["UploadRemote", "Uploader", "UploaderStatus"]

log = logging.getLogger(__name__)

WORKERS = 8
"""PUTs side by side: the round trips of small files overlap, and a stuck one leaves seven."""

_STORAGE_PATIENCE = WORKERS  # failures in a row, without a success, before storage as a whole is left alone
_UNFORESEEN_S = 5.0  # rest of a thread after a bug, so that it neither spins nor ends
_COLLECTS_S = 2.0  # a dispatcher that wakes up within this need not be told of each commit


class UploadRemote(SendRemote, RegisterRemote, Protocol):
    """The service, as the uploader needs it. Every method raises api.errors and is bounded in time."""


@dataclass(frozen=True, slots=True)
class UploaderStatus:
    """What the uploader says of itself.

    Attributes:
        waiting: why nothing moves, None when nothing is in the way.
        needs_person: it waits for somebody to act: the key was refused.
        rate_bytes_per_s: of late, None when nothing was sent.
        throughput: on the whole, None when nothing was sent yet.
        on_the_line: files whose bytes are being sent now.
        landed_files, landed_bytes: what arrived since the start.
    """

    waiting: Pause | None
    needs_person: bool
    rate_bytes_per_s: float | None
    throughput: Throughput | None
    on_the_line: int
    landed_files: int
    landed_bytes: int


class Uploader:
    """See the module.

    Attributes:
        api: the health of the API, to be shared with whoever else asks it in the background.
    """

    def __init__(
        self,
        journal: Journal,
        spool: Spool,
        remote: UploadRemote,
        *,
        on_landed: Callable[[Upload, Image], None],
        on_archived: Callable[[str, str], None],
        content_type_of: Callable[[str], str],
        errno_of: Callable[[BaseException], int],
        workers: int = WORKERS,
        clock: Clock = SYSTEM_CLOCK,
        backoff: Backoff | None = None,
    ) -> None:
        """Args:
        on_landed: called with a row and the image it became, before row and spool file go; again after a
            crash in between. No lock is held.
        on_archived: called with dataset and image id when an image was archived because a row replaces it.
        content_type_of: a file name's content type; ValueError for one the service does not take.
        errno_of: the errno that stands for an error of the service.
        """
        backoff = backoff or Backoff()
        self._journal = journal
        self._workers = workers
        self.api = Health(clock, backoff)
        self._storage = Health(clock, backoff, patience=_STORAGE_PATIENCE)
        self._dispatch_wake = threading.Event()
        self._register_wake = threading.Event()
        self._work = threading.Condition()
        self._stop = threading.Event()
        self._dispatcher_sleeps = True
        self._drains = 0
        self._threads: list[threading.Thread] = []
        self.registrar = Registrar(
            journal.claims,
            spool,
            remote,
            api=self.api,
            backoff=backoff,
            clock=clock,
            errno_of=errno_of,
            on_landed=on_landed,
            on_archived=on_archived,
            wake=self._register_wake.set,
        )
        self.sender = Sender(
            journal.claims,
            spool,
            remote,
            self.registrar,
            workers=workers,
            api=self.api,
            storage=self._storage,
            backoff=backoff,
            clock=clock,
            content_type_of=content_type_of,
            errno_of=errno_of,
        )
        self.registrar.load()
        journal.listen(self._journal_changed)

    def start(self) -> None:
        """Start the threads, in the process that is to do the work: they do not survive a fork."""
        loops = [("dispatch", self._dispatch_loop), ("register", self._register_loop)]
        loops += [(f"put-{number}", self._put_loop) for number in range(1, self._workers + 1)]
        self._threads = [
            threading.Thread(target=loop, name=f"pictofs-{name}", daemon=True) for name, loop in loops
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop after the requests under way, but wait no longer than this for them: what they leave undone
        the next start takes up. The journal may be closed then."""
        self._stop.set()
        self._wake_all()
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))

    def drain(self, deadline_s: float) -> bool:
        """Send at once whatever is queued, for at most so many seconds. Whether nothing is left to be sent;
        what is held or failed does not count."""
        with self._work:
            self._drains += 1
            self.sender.draining = True
        self._wake_all()
        try:
            return self._journal.wait_until_idle(deadline_s)
        finally:
            with self._work:
                self._drains -= 1
                self.sender.draining = self._drains > 0

    def kick(self) -> None:
        """Try again now, whatever the trouble was."""
        self.api.clear()
        self._storage.clear()
        self._journal.claims.hurry()
        self.registrar.hurry()
        self._wake_all()

    def status(self) -> UploaderStatus:
        """What it does and why it waits."""
        return UploaderStatus(
            waiting=self.api.pause or self._storage.pause,
            needs_person=self.api.refused,
            rate_bytes_per_s=self.sender.rate_bytes_per_s(),
            throughput=self.sender.throughput(),
            on_the_line=self.sender.busy(),
            landed_files=self.registrar.landed_files,
            landed_bytes=self.registrar.landed_bytes,
        )

    def _journal_changed(self) -> None:
        self.sender.unstall()
        if self._dispatcher_sleeps or self._journal.is_waited_for:
            self._dispatch_wake.set()

    def _wake_all(self) -> None:
        self._dispatch_wake.set()
        self._register_wake.set()
        with self._work:
            self._work.notify_all()

    def _dispatch_loop(self) -> None:
        while not self._stop.is_set():
            self._dispatcher_sleeps = True  # before the look, so that no commit is missed after it
            self._dispatch_wake.clear()
            delay_s = self.sender.delay_s()
            if delay_s is None or delay_s > 0:
                self._dispatcher_sleeps = delay_s is None or delay_s > _COLLECTS_S
                self._dispatch_wake.wait(delay_s)
                continue
            self._guarded(self.sender.dispatch)
            with self._work:
                self._work.notify_all()
            self._register_wake.set()

    def _register_loop(self) -> None:
        while not self._stop.is_set():
            self._register_wake.clear()
            delay_s = self.registrar.delay_s()
            if delay_s is None or delay_s > 0:
                self._register_wake.wait(delay_s)
                continue
            self._guarded(self.registrar.step)
            self._dispatch_wake.set()  # there may be room for another wave, or an end to a pause

    def _put_loop(self) -> None:
        while not self._stop.is_set():
            with self._work:
                job = self.sender.take()
                if job is None:
                    if not self._stop.is_set():
                        self._work.wait(self.sender.take_delay_s())
                    continue
            self._guarded(lambda job=job: self.sender.put(job))  # type: ignore[misc]
            self._dispatch_wake.set()
            with self._work:
                self._work.notify_all()  # a job may rest, or a pause be over

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception:
            if self._stop.is_set():
                return
            log.exception("%s failed unexpectedly, and goes on", threading.current_thread().name)
            self._stop.wait(_UNFORESEEN_S)
