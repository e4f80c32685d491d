"""Removing images: archived on the service in batches, for certain, though `rm` has long returned.

Owns the journal's removals from the wish to the answer, and one thread. What comes within 50 ms goes in one
request, and so does what comes while a request is under way. Also brings back images whose replacement was
refused.

Lock order: `ArchiveQueue._lock`, then the journal's. Not held while the service or the drive is called.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pictofs.api.errors import NotFoundError
from pictofs.api.models import BatchResult, Image
from pictofs.transfer.crashpoints import CrashPoint, reach
from pictofs.transfer.journal import Journal
from pictofs.transfer.pacing import SYSTEM_CLOCK, Clock, Health
from pictofs.transfer.records import Removal, RemovalAction
from pictofs.transfer.refusals import Answer, blames_one, in_words, is_final, is_gone_already, isolate
from pictofs.transfer.trouble import JOURNAL_TROUBLE_S, report, report_journal

__all__ = ["ArchiveQueue", "ArchiveRemote", "RemovalProblem"]

log = logging.getLogger(__name__)

_BATCH_IDS = 10_000  # the service's bound
_QUIET_S = 0.05
_OLDEST_S = 2.0  # the longest that a removal waits for others; rm -r of a big tree then takes a few requests
_PROBLEMS = 100  # the latest, for status
_UNDECIDED_S = 60.0  # after a refused batch whose guilty were too many to single out

_GONE = "not found"
_NOT_FOUND_BUT_LISTED = "the service lists it, and will not find it to archive it"


class ArchiveRemote(Protocol):
    """Raises api.errors. `archive` and `restore` are one API request each, for up to 10,000 ids."""

    def archive(self, dataset_id: str, image_ids: Sequence[str]) -> BatchResult: ...
    def restore(self, dataset_id: str, image_ids: Sequence[str]) -> BatchResult: ...
    def find(self, dataset_id: str, folder: str, filename: str | None) -> Sequence[Image]: ...


@dataclass(frozen=True, slots=True)
class RemovalProblem:
    """A change that the service refused; it was given up."""

    path: str
    action: RemovalAction
    reason: str


class ArchiveQueue:
    """See the module."""

    def __init__(
        self,
        journal: Journal,
        remote: ArchiveRemote,
        *,
        api: Health,
        on_archived: Callable[[str, str], None],
        on_refused: Callable[[str, str, str], None],
        on_restored: Callable[[str, str], None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Args:
        api: the API's health, shared with the uploader.
        on_archived: called with dataset and image id, while the image still counts as hidden.
        on_refused: called with dataset id, path and reason when an image stays after all.
        on_restored: called with dataset and image id when one is back from the archive.
        """
        self._journal = journal
        self._remote = remote
        self._api = api
        self._on_archived = on_archived
        self._on_refused = on_refused
        self._on_restored = on_restored
        self._clock = clock
        self._lock = threading.Lock()
        self._first_s: float | None = None
        self._last_s = 0.0
        self._rest_until_s = 0.0
        self._flushes = 0
        self._problems: deque[RemovalProblem] = deque(maxlen=_PROBLEMS)
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        journal.listen(self._wake.set)

    # The drive's side

    def add(self, image_id: str, dataset_id: str, path: str, *, folder: str, filename: str) -> None:
        """Archive an image. It is hidden from now on, and nothing is uploaded to its place before it is gone.

        Args:
            path: what people call it.
            folder, filename: its place on the service.

        Raises:
            OSError: it could not be remembered.
        """
        now_s = self._clock.monotonic_s()
        with self._lock:
            self._last_s = now_s
            if self._first_s is None:
                self._first_s = now_s
        self._journal.add_removal(image_id, dataset_id, folder, filename, path)

    def flush(self, dataset_id: str, timeout_s: float) -> bool:
        """Wait until nothing that was removed from a dataset is on the service any more, or will land there.
        Whether that is so."""
        with self._lock:
            self._flushes += 1
        self._wake.set()
        try:
            return self._journal.wait_until_removed(dataset_id, timeout_s)
        finally:
            with self._lock:
                self._flushes -= 1

    def hidden(self) -> frozenset[str]:
        """Ids of the images that are to be archived."""
        return self._journal.hidden()

    def problems(self) -> list[RemovalProblem]:
        """What the service refused of late."""
        with self._lock:
            return list(self._problems)

    # The thread

    def start(self) -> None:
        """Start it, in the process that is to do the work."""
        self._thread = threading.Thread(target=self._loop, name="pictofs-archive", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop after the request under way, but wait no longer than this for it."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _loop(self) -> None:
        while not self._stopping:
            self._wake.clear()
            delay_s = self.delay_s()
            if delay_s is None or delay_s > 0:
                self._wake.wait(delay_s)
                continue
            try:
                self.step()
            except Exception:
                log.exception("archiving failed unexpectedly, and goes on")
                self._rest(JOURNAL_TROUBLE_S)

    # Steps

    def delay_s(self) -> float | None:
        """Seconds until `step` has something to do, None until something changes."""
        if not self._journal.removal_count:
            return None
        now_s = self._clock.monotonic_s()
        with self._lock:
            due_s = self._rest_until_s
            if not self._flushes and self._journal.removal_count < _BATCH_IDS and self._first_s is not None:
                due_s = max(due_s, min(self._last_s + _QUIET_S, self._first_s + _OLDEST_S))
        return max(0.0, due_s - now_s, self._api.pause_s())

    def step(self) -> None:
        """Send one batch: the oldest wishes, of one dataset and one kind."""
        with self._lock:
            self._first_s = None
        removals = self._journal.removals()
        if not removals:
            return
        kind = (removals[0].dataset_id, removals[0].action)
        batch = [removal for removal in removals if (removal.dataset_id, removal.action) == kind][:_BATCH_IDS]
        try:
            for answer in isolate(batch, self._send, blames=_blames):
                self._record(answer)
        except OSError as error:
            report_journal(error)
            self._rest(JOURNAL_TROUBLE_S)

    def _send(self, removals: Sequence[Removal]) -> dict[int, str]:
        """One request. Returns what was refused, by removal id."""
        first = removals[0]
        ask = self._remote.archive if first.action is RemovalAction.ARCHIVE else self._remote.restore
        try:
            result = ask(first.dataset_id, [removal.image_id for removal in removals])
        except NotFoundError:
            listed = self._listed_ids(first)
            if listed is None or (len(removals) == 1 and first.image_id not in listed):
                return dict.fromkeys((removal.id for removal in removals), _GONE)
            if first.image_id in listed:  # so it was not about the image; who knows what the service missed
                return dict.fromkeys((removal.id for removal in removals), _NOT_FOUND_BUT_LISTED)
            raise
        reasons = {failure.id: failure.reason for failure in result.failed}
        return {r.id: reasons[r.image_id] for r in removals if r.image_id in reasons}

    def _listed_ids(self, removal: Removal) -> set[str] | None:
        """Ids of the images at a removal's place, None when its dataset is gone."""
        try:
            images = self._remote.find(removal.dataset_id, removal.folder, removal.filename)
        except NotFoundError:
            return None
        return {image.id for image in images}

    def _record(self, answer: Answer[Removal, dict[int, str]]) -> None:
        if answer.result is not None:
            self._api.ok()
            refused = answer.result
        elif answer.error is not None and answer.was_sent and is_final(answer.error):
            self._api.ok()
            refused = dict.fromkeys((removal.id for removal in answer.items), in_words(answer.error))
        elif answer.error is not None:
            if answer.was_sent:
                report(self._api, answer.error)
            if is_final(answer.error) or isinstance(answer.error, OSError):
                self._rest(_UNDECIDED_S)
            return
        reach(CrashPoint.REMOVAL_ANSWERED)
        for removal in answer.items:
            self._tell(removal, refused.get(removal.id))
        self._journal.settle_removals(answer.items)

    def _tell(self, removal: Removal, reason: str | None) -> None:
        """What became of one. An image that is gone is as good as archived."""
        archived = removal.action is RemovalAction.ARCHIVE
        try:
            if reason is not None and not (archived and is_gone_already(reason)):
                log.warning("%s of %s was refused: %s", removal.action.value, removal.path, reason)
                with self._lock:
                    self._problems.append(RemovalProblem(removal.path, removal.action, reason))
                if archived:
                    self._on_refused(removal.dataset_id, removal.path, reason)
            elif archived:
                self._on_archived(removal.dataset_id, removal.image_id)
            else:
                self._on_restored(removal.dataset_id, removal.image_id)
        except Exception:
            log.exception("the drive could not take over what became of %s", removal.path)

    def _rest(self, wait_s: float) -> None:
        self._rest_until_s = self._clock.monotonic_s() + wait_s


def _blames(error: Exception) -> bool:
    return blames_one(error) or isinstance(error, NotFoundError)
