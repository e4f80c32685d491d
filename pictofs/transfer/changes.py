"""Changing what is on the service, in batches and for certain, though `rm`, `mv` and `mkdir` have returned.

Owns the journal's changes from the wish to the answer, and one thread. What comes within 50 ms goes in one
request, and so does what comes while a request is under way; `batching` says what may go together. Every
request is in the journal before it is sent, and is repeated as it was until it is answered; what no answer
will tell any more is found out by `outcomes`.

Lock order: `ChangeQueue._lock`, then the journal's. Not held while the service or the drive is called.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pictofs.api.errors import NotFoundError, PictographError, ServerError
from pictofs.api.models import BatchResult, Directory, Image
from pictofs.transfer.batching import BATCH_IDS, next_batch
from pictofs.transfer.crashpoints import CrashPoint, reach
from pictofs.transfer.journal import Journal
from pictofs.transfer.outcomes import Outcomes, OutcomesRemote, Unknown
from pictofs.transfer.pacing import SYSTEM_CLOCK, Backoff, Clock, Health
from pictofs.transfer.records import Batch, Change, ChangeKind
from pictofs.transfer.refusals import blames_one, in_words, is_final, is_gone_already, isolate
from pictofs.transfer.trouble import JOURNAL_TROUBLE_S, report, report_journal

__all__ = ["Became", "ChangeProblem", "ChangeQueue", "ChangeRemote"]

log = logging.getLogger(__name__)

Became = Image | Directory | Unknown | None
"""What a change made of an image or a folder, as the service says; None when it need not say."""

_QUIET_S = 0.05
_OLDEST_S = 2.0  # the longest that a change waits for others; rm -r of a big tree then takes a few requests
_MKDIR_REST_S = 3.0  # a folder is made by the first upload into it; only one that stays empty costs a request
_REPLAN_S = 0.05  # between looks at a queue in which everything waits
_PROBLEMS = 100  # the latest, for status
_REMEMBERED = 10_000  # whoever waits for an answer asks within moments
_UNDECIDED_S = 60.0  # after a refused batch whose guilty were too many to single out

# The service forgets an idempotency key after 24 h; an hour is for the request's own time and for clocks.
_KEY_LIFE_NS = 23 * 3600 * 10**9

# Server errors (not: no answer) to one request before it is taken apart, into so many: it may be one image's.
_SERVER_ERRORS = 12
_SPLIT = 8

_GONE = "not found"
_NOT_COPIED = "the service did not copy it; perhaps another file has its name now"
_NOT_FOUND_BUT_LISTED = "the service lists it, and will not find it to change it"


class ChangeRemote(OutcomesRemote, Protocol):
    """Raises api.errors. Each is one API request, but for a name that is known."""

    def dataset_name(self, dataset_id: str, *, anew: bool = False) -> str: ...
    def change_images(self, batch: Batch) -> BatchResult: ...
    def create_directory(self, dataset_id: str, path: str) -> Directory: ...
    def delete_directory(self, dataset_id: str, path: str) -> None: ...


@dataclass(frozen=True, slots=True)
class ChangeProblem:
    """A change that the service refused; it was given up."""

    path: str
    kind: ChangeKind
    reason: str


@dataclass(slots=True)
class _Case:
    """A request whose answer is not recorded.

    Attributes:
        tries: how often it was sent; from the second time on, an earlier one may have had the effect.
        server_errors: how often the server failed on it.
    """

    batch: Batch
    tries: int
    due_s: float = 0.0
    server_errors: int = 0


class ChangeQueue:
    """See the module."""

    def __init__(
        self,
        journal: Journal,
        remote: ChangeRemote,
        *,
        api: Health,
        errno_of: Callable[[BaseException], int],
        on_done: Callable[[Change, Became], None],
        on_refused: Callable[[Change, str], None],
        clock: Clock = SYSTEM_CLOCK,
        backoff: Backoff | None = None,
    ) -> None:
        """Args:
        api: the API's health, shared with the uploader.
        errno_of: the errno that stands for an error of the service.
        on_done: called with a change that is done, while it is still in the journal.
        on_refused: called with one that will not be, and why, when it is in the journal no more.
        """
        self._journal = journal
        self._log = journal.changes
        self._remote = remote
        self._outcomes = Outcomes(remote)
        self._api = api
        self._errno_of = errno_of
        self._on_done = on_done
        self._on_refused = on_refused
        self._clock = clock
        self._backoff = backoff or Backoff()
        self._lock = threading.Lock()
        self._cases = {batch.id: _Case(batch, tries=1) for batch in journal.changes.batches()}
        self._refusals: OrderedDict[int, tuple[int, str]] = OrderedDict()
        self._problems: deque[ChangeProblem] = deque(maxlen=_PROBLEMS)
        self._batch_ids: dict[int, int] = {}  # changes that may only be in small requests, see _SPLIT
        self._rest_until_s = 0.0
        self._stalled: tuple[int, bool] | None = None  # journal version and urgency when everything waited
        self._planned_s = 0.0  # when that was
        self._rested_s: list[float] = []  # and when something will have rested
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        journal.listen(self._wake.set)

    # The drive's side

    def add(self, changes: Sequence[Change], times_ns: Mapping[str, int] = {}) -> list[int]:
        """Remember changes, all or none, in this order, and modification times by image id. Returns their
        ids, for `wait`.

        Raises:
            OSError: they could not be remembered.
        """
        return [change.id for change in self._log.add(changes, times_ns)]

    def wait(self, path: str, change_ids: Sequence[int], timeout_s: float) -> None:
        """Wait until changes are done.

        Raises:
            OSError: the refusal's errno and reason, EIO when time is up (the change goes on).
        """
        if not self._log.wait(change_ids, timeout_s):
            raise OSError(errno.EIO, "the service has not answered yet; the change goes on", path)
        with self._lock:
            refusal = next((self._refusals[i] for i in change_ids if i in self._refusals), None)
        if refusal is not None:
            raise OSError(*refusal, path)

    def settle(self, dataset_id: str, folder: str, timeout_s: float) -> bool:
        """Wait until nothing in or below a folder is to be changed, or will land there though it was removed.
        Whether that is so."""
        return self._log.wait_until_settled(dataset_id, folder, timeout_s)

    def problems(self) -> list[ChangeProblem]:
        """What the service refused of late."""
        with self._lock:
            return list(self._problems)

    # The thread

    def start(self) -> None:
        """Start it, in the process that is to do the work."""
        self._thread = threading.Thread(target=self._loop, name="pictofs-changes", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stop after the request under way, but wait no longer than this for it."""
        self._stop.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            delay_s = self.delay_s()
            if delay_s is None or delay_s > 0:
                self._wake.wait(delay_s)
                continue
            try:
                self.step()
            except Exception:
                if self._stop.is_set():
                    return
                log.exception("changing something on the service failed unexpectedly, and goes on")
                self._rest(JOURNAL_TROUBLE_S)

    # Steps

    def delay_s(self) -> float | None:
        """Seconds until `step` has something to do, None until something changes."""
        if not len(self._log):
            return None
        due_s = [case.due_s for case in self._cases.values()]
        due_s += self._plan_due_s()
        if not due_s:
            return None
        return max(0.0, max(min(due_s), self._rest_until_s) - self._clock.monotonic_s(), self._api.pause_s())

    def _plan_due_s(self) -> list[float]:
        """When the next batch is to be chosen, as a list of none or one."""
        first_s, last_s, urgent = self._log.arrivals()
        earliest_s = 0.0
        if self._stalled is not None:
            if self._stalled == (self._journal.version, urgent):
                return self._rested_s
            earliest_s = self._planned_s + _REPLAN_S
        if first_s is None or urgent or len(self._log) >= BATCH_IDS:
            return [earliest_s]
        return [max(earliest_s, min(last_s + _QUIET_S, first_s + _OLDEST_S))]

    def step(self) -> None:
        """Send one request: again one that was not answered, else the next batch."""
        now_s = self._clock.monotonic_s()
        due = [case for case in self._cases.values() if case.due_s <= now_s]
        case = min(due, key=lambda case: (case.server_errors, case.due_s), default=None)
        try:
            # One that the server fails on again and again must not be what all others wait for.
            others_first = case is None or case.server_errors >= _SERVER_ERRORS
            if not (others_first and self._send_next(now_s)) and case is not None:
                self._pursue(case)
        except PictographError as error:
            report(self._api, error)
        except OSError as error:
            report_journal(error)
            self._rest(JOURNAL_TROUBLE_S)

    def _send_next(self, now_s: float) -> bool:
        """Send the next batch; whether there was one."""
        version, urgent = self._journal.version, self._log.arrivals()[2]
        self._log.collected()
        resting = self._log.resting(_MKDIR_REST_S)
        changes = self._few(next_batch(self._log.outlook(), resting))
        if not changes:
            self._stalled = (version, urgent)
            self._planned_s = now_s
            self._rested_s = [now_s + min(resting.values())] if resting else []
            return False
        self._stalled = None
        for answer in isolate(changes, self._send_new, blames=_blames):
            if answer.error is None:
                continue
            if isinstance(answer.error, OSError):
                raise answer.error  # the journal's
            if is_final(answer.error) and answer.was_sent:
                self._api.ok()
                reason, number = in_words(answer.error), self._errno_of(answer.error)
                self._settle({}, dict.fromkeys((c.id for c in answer.items), (number, reason)), answer.items)
            elif is_final(answer.error):
                self._rest(_UNDECIDED_S)
            elif answer.was_sent:
                report(self._api, answer.error)
        return True

    def _few(self, changes: list[Change]) -> list[Change]:
        """As many of them as may be in one request."""
        limit = BATCH_IDS
        for count, change in enumerate(changes):
            limit = min(limit, self._batch_ids.get(change.id, BATCH_IDS))
            if count >= limit:
                return changes[:count]
        return changes

    def _send_new(self, changes: Sequence[Change]) -> bool:
        """Journal one request, send it, and record its answer. Raises what the service raised; after a
        refusal the changes are in no request."""
        try:
            batch = self._describe(changes)
        except NotFoundError:  # a dataset is gone
            self._settle({}, {change.id: (errno.ENOENT, _GONE) for change in changes}, changes)
            return True
        batch = self._log.begin(batch, changes)
        case = self._cases[batch.id] = _Case(batch, tries=1)
        try:
            answer = self._ask(batch)
        except NotFoundError:
            self._dissolve(case)
            if not self._not_found(batch, changes):
                raise
            return True
        except Exception as error:
            if is_final(error):
                self._dissolve(case)
            else:
                self._unanswered(case, error)
            raise
        self._record(case, changes, answer)
        return True

    def _describe(self, changes: Sequence[Change]) -> Batch:
        """The request for changes that go together."""
        first = changes[0]
        name = target_name = ""
        if first.image_id is not None:
            name = self._remote.dataset_name(first.dataset_id)
            if first.kind is ChangeKind.TRANSFER and first.target_dataset_id is not None:
                target_name = self._remote.dataset_name(first.target_dataset_id)
        return Batch(
            id=0,
            key="",
            kind=first.kind,
            dataset_id=first.dataset_id,
            dataset_name=name,
            target_dataset_id=first.target_dataset_id,
            target_dataset_name=target_name,
            folder=first.folder if first.target_folder is None else first.target_folder,
            change_ids=tuple(change.id for change in changes),
            image_ids=tuple(change.image_id for change in changes if change.image_id is not None),
            created_ns=0,
        )

    def _ask(self, batch: Batch) -> BatchResult | Directory | None:
        """One request."""
        if batch.kind is ChangeKind.MKDIR:
            return self._remote.create_directory(batch.dataset_id, batch.folder)
        if batch.kind is ChangeKind.RMDIR:
            with contextlib.suppress(NotFoundError):  # it is gone, or never was there
                self._remote.delete_directory(batch.dataset_id, batch.folder)
            return None
        return self._remote.change_images(batch)

    def _not_found(self, batch: Batch, changes: Sequence[Change]) -> bool:
        """What to make of a 404: it is about the dataset, its name, or an image. False if only smaller
        requests will tell."""
        try:
            if self._has_other_name(batch):
                return self._send_new(changes)
            listed = self._is_listed(changes[0])
        except NotFoundError:
            reason = (errno.ENOENT, _GONE)
        else:
            if not listed and len(changes) > 1:
                return False
            # If it is listed it was not about the image; who knows what the service missed.
            reason = (errno.EIO, _NOT_FOUND_BUT_LISTED) if listed else (errno.ENOENT, _GONE)
        self._settle({}, {change.id: reason for change in changes}, changes)
        return True

    def _has_other_name(self, batch: Batch) -> bool:
        """Whether a dataset was renamed since the request named it. Raises NotFoundError when it is gone."""
        names = [(batch.dataset_id, batch.dataset_name), (batch.target_dataset_id, batch.target_dataset_name)]
        return any(
            dataset_id is not None and name and self._remote.dataset_name(dataset_id, anew=True) != name
            for dataset_id, name in names
        )

    def _is_listed(self, change: Change) -> bool:
        """Whether an image is at its place. Raises NotFoundError when its dataset is gone."""
        images = self._remote.find(change.dataset_id, change.folder, change.filename)
        return any(image.id == change.image_id for image in images)

    # Requests that were not answered

    def _pursue(self, case: _Case) -> None:
        case.due_s = self._clock.monotonic_s() + _UNDECIDED_S  # should anything unforeseen come between
        changes = self._log.members(case.batch)
        age_ns = self._clock.wall_ns() - case.batch.created_ns
        if not 0 <= age_ns < _KEY_LIFE_NS:
            # The service has forgotten the key: the same request would be a second one.
            self._find_out(case, changes)
            return
        case.tries += 1
        try:
            answer = self._ask(case.batch)
        except Exception as error:  # noqa: BLE001  (sorted out by kind)
            if is_final(error):
                self._find_out(case, changes)  # refused now, but an earlier try may have been received
            else:
                report(self._api, error)
                self._unanswered(case, error)
            return
        self._record(case, changes, answer)

    def _unanswered(self, case: _Case, error: Exception) -> None:
        """The same request is sent again, until there is an answer."""
        case.due_s = self._clock.monotonic_s() + self._backoff.delay_s(case.tries)
        if isinstance(error, ServerError):
            case.server_errors += 1
            if case.server_errors % _SERVER_ERRORS == 0 and len(case.batch.image_ids) > 1:
                # Perhaps it fails on one of these images.
                few = max(1, len(case.batch.image_ids) // _SPLIT)
                self._batch_ids.update(dict.fromkeys(case.batch.change_ids, few))
                self._find_out(case, self._log.members(case.batch))

    def _find_out(self, case: _Case, changes: Sequence[Change]) -> None:
        """Learn from the listing which changes have had their effect; the others are sent anew."""
        done = self._outcomes.find_out(case.batch, changes)
        self._settle(done, {}, [c for c in changes if c.id in done])
        self._dissolve(case)

    def _dissolve(self, case: _Case) -> None:
        self._log.dissolve(case.batch)
        self._cases.pop(case.batch.id, None)

    # Answers

    def _record(self, case: _Case, changes: Sequence[Change], answer: BatchResult | Directory | None) -> None:
        """The service has answered: what became of each change."""
        self._api.ok()
        reach(CrashPoint.BATCH_ANSWERED)
        refused: dict[int, tuple[int, str]] = {}
        became: Mapping[int, Became]
        if isinstance(answer, BatchResult):
            reasons = {failure.id: failure.reason for failure in answer.failed}
            refused = {c.id: (errno.EIO, reasons[c.image_id]) for c in changes if c.image_id in reasons}
            done = [change for change in changes if change.id not in refused]
            try:
                became = self._outcomes.of_answer(case.batch, done, answer)
            except PictographError as error:
                # The very same request has the very same answer, later.
                report(self._api, error)
                case.due_s = self._clock.monotonic_s() + self._backoff.delay_s(case.tries)
                return
            missing = (change_id for change_id, made in became.items() if made is Unknown.MISSING)
            refused |= dict.fromkeys(missing, (errno.EIO, _NOT_COPIED))
        else:
            became = {change.id: answer for change in changes}
        self._settle(became, refused, changes)
        self._cases.pop(case.batch.id, None)

    def _settle(
        self,
        became: Mapping[int, Became],
        refused: Mapping[int, tuple[int, str]],
        changes: Sequence[Change],
    ) -> None:
        """Tell the drive and the journal. An image that is gone is as good as archived."""
        undone: list[Change] = []
        done: list[Change] = []
        for change in changes:
            reason = refused.get(change.id)
            gone = change.kind is ChangeKind.ARCHIVE and reason is not None and is_gone_already(reason[1])
            (done if reason is None or gone else undone).append(change)
        self._log.made(done)
        for change in done:
            self._tell(change, functools.partial(self._on_done, change, became.get(change.id)))
        with self._lock:
            for change in undone:
                number, words = refused[change.id]
                log.warning("%s of %s was refused: %s", change.kind.value, change.path, words)
                self._problems.append(ChangeProblem(change.path, change.kind, words))
                self._refusals[change.id] = (number, words)
                while len(self._refusals) > _REMEMBERED:
                    self._refusals.popitem(last=False)
        copies = {
            change.shown_id: image.id
            for change in done
            if change.shown_id is not None and isinstance(image := became.get(change.id), Image)
        }
        for change in changes:
            self._batch_ids.pop(change.id, None)
        self._log.settle(done, undone, successors={old: new for old, new in copies.items() if old != new})
        for change in undone:
            self._tell(change, functools.partial(self._on_refused, change, refused[change.id][1]))

    def _tell(self, change: Change, tell: Callable[[], None]) -> None:
        try:
            tell()
        except Exception:
            log.exception("the drive could not take over what became of %s", change.path)

    def _rest(self, wait_s: float) -> None:
        self._rest_until_s = self._clock.monotonic_s() + wait_s


def _blames(error: Exception) -> bool:
    return blames_one(error) or isinstance(error, NotFoundError)
