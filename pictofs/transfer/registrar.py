"""The second half of an upload: register what is in storage, and record what became of it.

Steps without threads: `Uploader` calls `step` from one thread; tests call it as they like. Every request is
in the journal before it is sent, and stays with the same key and body until its answer is recorded; what no
answer will tell any more is found out by `evidence`.

Lock order: `Registrar._lock`, then the journal's. Not held while the service is asked or the drive is told.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pictofs.api.errors import (
    ConflictError,
    PictographError,
    ServerError,
)
from pictofs.api.models import Image, NewImage, RegisterResult
from pictofs.transfer.claims import Claims
from pictofs.transfer.crashpoints import CrashPoint, reach
from pictofs.transfer.evidence import Evidence, EvidenceRemote, Verdict
from pictofs.transfer.matching import match
from pictofs.transfer.pacing import Backoff, Clock, Health
from pictofs.transfer.records import Again, Member, Refused, Registration, Upload
from pictofs.transfer.refusals import (
    blames_one,
    in_words,
    is_about_taken_name,
    is_final,
    isolate,
    of_one_file,
)
from pictofs.transfer.replacing import Replacer, ReplaceRemote
from pictofs.transfer.spool import Spool
from pictofs.transfer.trouble import JOURNAL_TROUBLE_S, report, report_journal

__all__ = ["RegisterRemote", "Registrar"]

log = logging.getLogger(__name__)

_BATCH_ROWS = 500  # the service's bound
_QUIET_S = 2.0  # without another file reaching storage: do not wait for the stragglers
_OLDEST_S = 15.0  # the longest that a file in storage waits for others of a slow wave
_REST_S = 60.0  # of a row of which a refused batch said nothing
_REFUSED_S = 5.0  # after a refusal of what only helps, like a listing

# The service forgets an idempotency key after 24 h; an hour is for the request's own time and for clocks.
_KEY_LIFE_NS = 23 * 3600 * 10**9

# Server errors (not: no answer) to one request before it is taken apart, into so many: it may be one file's.
_SERVER_ERRORS = 12
_SPLIT = 8


class RegisterRemote(ReplaceRemote, EvidenceRemote, Protocol):
    """Raises api.errors."""

    def register(self, dataset_id: str, images: Sequence[NewImage], idempotency_key: str) -> RegisterResult:
        """Register what was put: one API request for up to 500."""


@dataclass(slots=True)
class _Pool:
    """What is in storage and not in a registration yet, of one dataset."""

    members: dict[int, Member] = field(default_factory=dict)
    first_s: float = 0.0
    last_s: float = 0.0
    flush: bool = False


@dataclass(frozen=True, slots=True)
class _Question:
    """Is this file on the service? If it is not: `if_absent`, where None is to register it again; if its name
    is taken by other bytes: `if_taken`."""

    file: NewImage
    if_absent: Refused | Again | None
    if_taken: Refused


@dataclass(slots=True)
class _Case:
    """A registration whose answer is not recorded, or questions that are open.

    Attributes:
        registration: None for questions about rows that are in none.
        tries: how often it was sent; from the second time on, an earlier one may have had the effect.
        server_errors: how often the server failed on it.
        questions: by upload id; None while its answer is still to be had.
        strangers: images of its answer whose file is not known.
    """

    dataset_id: str
    since_ns: int
    registration: Registration | None
    due_s: float = 0.0
    tries: int = 0
    server_errors: int = 0
    questions: dict[int, _Question] | None = None
    strangers: Sequence[Image] = ()


class Registrar:
    """See the module.

    A SENDING row that the sender has handed over is always in a pool, in a case or in `_in_the_way`.

    Args:
        on_landed: called with a row and its image before the row goes; again after a crash in between.
        on_archived: called with dataset and image id when an image was archived to be replaced.
        wake: called when `delay_s` may have changed.

    Attributes:
        landed_files, landed_bytes: what arrived since the start.
    """

    def __init__(
        self,
        claims: Claims,
        spool: Spool,
        remote: RegisterRemote,
        *,
        api: Health,
        backoff: Backoff,
        clock: Clock,
        errno_of: Callable[[BaseException], int],
        on_landed: Callable[[Upload, Image], None],
        on_archived: Callable[[str, str], None],
        wake: Callable[[], None],
    ) -> None:
        self._claims = claims
        self._remote = remote
        self._evidence = Evidence(remote, spool)
        self._replacer = Replacer(claims, remote, api=api, errno_of=errno_of)
        self._api = api
        self._backoff = backoff
        self._clock = clock
        self._errno_of = errno_of
        self._on_landed = on_landed
        self._on_archived = on_archived
        self._wake = wake
        self._lock = threading.Lock()
        self._pools: dict[str, _Pool] = {}
        self._cases: list[_Case] = []
        self._done: dict[int, Upload] = {}  # DONE rows of which the drive is to be told
        self._in_the_way: dict[
            int, Member
        ] = {}  # refused a URL because the image they replace is still there
        self._batch_rows: dict[int, int] = {}  # uploads that may only be in small requests, see _SPLIT
        self._rest_until_s = 0.0
        self.landed_files = 0
        self.landed_bytes = 0

    def load(self) -> None:
        """Take over what an earlier process left: unanswered requests, and rows that are DONE."""
        with self._lock:
            self._cases += (
                _Case(r.dataset_id, r.created_ns, r, tries=1) for r in self._claims.registrations()
            )
            self._done.update((row.id, row) for row in self._claims.done_rows())

    # From the sender

    def offer(self, member: Member) -> None:
        """A file is in storage."""
        self._return([member])
        self._wake()

    def flush(self, dataset_id: str) -> None:
        """A wave is through: nothing to wait for."""
        with self._lock:
            if dataset_id in self._pools:
                self._pools[dataset_id].flush = True
        self._wake()

    def take_over(self, member: Member, error: Exception) -> bool:
        """Its name is taken, said the service when asked for a URL. Whether that is a question for us: the
        row may be on the service already, or is to replace what is there."""
        row = member.upload
        if row.suspect:
            question = _Question(member.file, Again(in_words(error), _REST_S), self._refused(error))
            case = _Case(row.dataset_id, row.created_ns, None, questions={row.id: question})
            with self._lock:
                self._cases.append(case)
        elif self._replacer.is_needed(row):
            with self._lock:
                self._in_the_way[row.id] = member
        else:
            return False
        self._wake()
        return True

    def backlog(self) -> int:
        """Files in storage whose registration is not recorded."""
        with self._lock:
            waiting = sum(len(pool.members) for pool in self._pools.values())
            return waiting + sum(len(c.registration.upload_ids) for c in self._cases if c.registration)

    # Steps

    def delay_s(self) -> float | None:
        """Seconds until `step` has something to do, None until something changes."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            due_s = [case.due_s for case in self._cases]
            due_s += (_due_s(pool) for pool in self._pools.values())
            if self._done or self._in_the_way:
                due_s.append(now_s)
            local = bool(self._done)
        if not due_s:
            return None
        wait_s = max(min(due_s), self._rest_until_s) - now_s
        return max(0.0, wait_s if local else max(wait_s, self._api.pause_s()))

    def step(self) -> None:
        """Do one thing that is due: tell the drive, ask again, find out, or register."""
        try:
            self._land()
            if self._api.pause_s() > 0:
                return
            case = self._next_case()
            if case is not None:
                self._pursue(case)
            elif self._in_the_way:
                self._make_room()
            else:
                self._register_next()
        except PictographError as error:
            report(self._api, error)
            self._rest(_REFUSED_S if is_final(error) else 0.0)
        except OSError as error:
            report_journal(error)
            self._rest(JOURNAL_TROUBLE_S)

    def _next_case(self) -> _Case | None:
        now_s = self._clock.monotonic_s()
        with self._lock:
            due = [case for case in self._cases if case.due_s <= now_s]
            case = min(due, key=lambda case: case.due_s, default=None)
            if case is not None:
                case.due_s = now_s + _REST_S  # should anything unforeseen come between
            return case

    def _rest(self, wait_s: float) -> None:
        self._rest_until_s = self._clock.monotonic_s() + wait_s

    # Registering

    def _register_next(self) -> None:
        now_s = self._clock.monotonic_s()
        with self._lock:
            due = [d for d, pool in self._pools.items() if _due_s(pool) <= now_s]
            if not due:
                return
            dataset_id = due[0]
            members = self._pick(self._pools[dataset_id])
        refused = self._replacer.archive(dataset_id, members)
        self._settle(refused=refused)
        members = [member for member in members if member.upload.id not in refused]
        if members:
            self._register(members)

    def _pick(self, pool: _Pool) -> list[Member]:
        """What goes into the next request; it stays in the pool until it is in the journal."""
        picked: list[Member] = []
        limit = _BATCH_ROWS
        for member in pool.members.values():
            limit = min(limit, self._batch_rows.get(member.upload.id, _BATCH_ROWS))
            if len(picked) >= limit:
                break
            picked.append(member)
        return picked

    def _register(self, members: Sequence[Member]) -> None:
        for answer in isolate(members, self._send_new):
            refused: dict[int, Refused] = {}
            again: dict[int, Again] = {}
            questions: dict[int, _Question] = {}
            if answer.error is None:
                self._land()
            elif isinstance(answer.error, OSError):
                raise answer.error  # the journal's; what was not sent is in the pool
            elif is_final(answer.error):
                for member in answer.items:
                    row = member.upload
                    if not answer.was_sent:
                        again[row.id] = Again(in_words(answer.error), _REST_S)
                    elif is_about_taken_name(answer.error) and row.suspect:
                        rest = Again(in_words(answer.error), _REST_S)
                        questions[row.id] = _Question(member.file, rest, self._refused(answer.error))
                    else:
                        refused[row.id] = self._refused(answer.error)
                self._settle(refused=refused, again=again)
                if questions:
                    self._withdraw(questions)
                    row = answer.items[0].upload
                    self._open(_Case(row.dataset_id, row.created_ns, None, questions=questions))

    def _send_new(self, members: Sequence[Member]) -> None:
        """Journal one request, send it, and record its answer. Raises what the service raised; the members
        are in the pool again after a refusal."""
        registration = self._claims.begin_registration([(m.upload.id, m.file) for m in members])
        self._withdraw(member.upload.id for member in members)
        if registration is None:
            return
        case = _Case(registration.dataset_id, registration.created_ns, registration, tries=1)
        self._open(case)
        try:
            answer = self._remote.register(registration.dataset_id, registration.images, registration.key)
        except Exception as error:
            if is_final(error):
                self._api.ok()
                self._claims.dissolve(registration, suspect=False)
                self._close(case)
                kept = set(registration.upload_ids)
                self._return([member for member in members if member.upload.id in kept])
            else:
                self._unanswered(case, error)
            raise
        self._record(case, registration, answer)

    def _record(self, case: _Case, registration: Registration, answer: RegisterResult) -> None:
        """The service has answered: what became of each row."""
        self._api.ok()
        reach(CrashPoint.REGISTERED)
        rows = self._claims.members(registration)
        delay_s = self._backoff.delay_s(max((row.attempts for row in rows.values()), default=1))
        files = dict(zip(registration.upload_ids, registration.images, strict=True))
        found = match(files, answer, self._claims.is_adopted)
        refused: dict[int, Refused] = {}
        again: dict[int, Again] = {}
        questions: dict[int, _Question] = {}
        for upload_id, words in found.refused.items():
            row = rows.get(upload_id)
            if row is None:
                continue
            error = of_one_file(words)
            if error is None:
                again[upload_id] = Again(words, delay_s)
            elif is_about_taken_name(error) and (case.tries > 1 or row.suspect):
                # What took the name may be this very file, from a try of which we know nothing.
                questions[upload_id] = _Question(files[upload_id], self._refused(error), self._refused(error))
            else:
                refused[upload_id] = self._refused(error)
        for upload_id in found.unclear:
            row = rows.get(upload_id)
            if row is not None:
                rest = Again("the service did not say what became of it", delay_s, suspect=True)
                questions[upload_id] = _Question(files[upload_id], rest, self._name_taken())
        landed = {i: image for i, image in found.landed.items() if i in rows}
        self._settle(landed=landed, refused=refused, again=again)
        if questions:
            case.questions = questions
            case.strangers = found.strangers
            case.due_s = 0.0
        else:
            self._close(case)

    # Cases: asking again, finding out

    def _pursue(self, case: _Case) -> None:
        if case.questions is not None:
            self._examine(case)
            return
        registration = case.registration
        assert registration is not None  # of a case without questions
        age_ns = self._clock.wall_ns() - registration.created_ns
        if not 0 <= age_ns < _KEY_LIFE_NS:
            # The service has forgotten the key: the same request would be a second one.
            self._ask_all(case, registration, if_absent=None)
            return
        case.tries += 1
        try:
            answer = self._remote.register(registration.dataset_id, registration.images, registration.key)
        except Exception as error:  # noqa: BLE001  (sorted out by kind)
            if not is_final(error):
                self._unanswered(case, error)
                return
            # Refused now, but an earlier try may have been received.
            self._api.ok()
            several = len(registration.upload_ids) > 1 and blames_one(error)
            if several:
                self._keep_apart(registration, 2)
            self._ask_all(case, registration, if_absent=None if several else self._refused(error))
            return
        self._record(case, registration, answer)

    def _unanswered(self, case: _Case, error: Exception) -> None:
        """No answer: the same request is sent again, until there is one."""
        report(self._api, error)
        case.due_s = self._clock.monotonic_s() + self._backoff.delay_s(case.tries)
        if isinstance(error, ServerError) and case.registration is not None:
            case.server_errors += 1
            if case.server_errors % _SERVER_ERRORS == 0:
                # Perhaps it fails on this very request. Should lookups work, it is taken apart.
                self._keep_apart(case.registration, _SPLIT)
                self._ask_all(case, case.registration, if_absent=None)

    def _keep_apart(self, registration: Registration, parts: int) -> None:
        rows = max(1, len(registration.upload_ids) // parts)
        self._batch_rows.update(dict.fromkeys(registration.upload_ids, rows))

    def _ask_all(self, case: _Case, registration: Registration, *, if_absent: Refused | None) -> None:
        """Find out what became of each row that the request had."""
        files = dict(zip(registration.upload_ids, registration.images, strict=True))
        case.questions = {
            upload_id: _Question(files[upload_id], if_absent, self._name_taken())
            for upload_id in self._claims.members(registration)
        }

    def _examine(self, case: _Case) -> None:
        questions = case.questions or {}
        rows = {i: row for i in questions if (row := self._claims.get(i)) is not None}
        try:
            findings = self._evidence.examine(
                [(row, questions[i].file) for i, row in rows.items()],
                strangers=case.strangers,
                is_taken=self._claims.is_adopted,
                since_ns=case.since_ns,
            )
        except PictographError as error:
            report(self._api, error)
            case.tries += 1
            case.due_s = self._clock.monotonic_s() + self._backoff.delay_s(case.tries)
            if case.server_errors and not is_final(error):
                case.questions = None  # it is not that request: the service fails on everything
            return
        reach(CrashPoint.FOUND_OUT)
        landed: dict[int, Image] = {}
        refused: dict[int, Refused] = {}
        again: dict[int, Again] = {}
        anew: list[Member] = []
        for upload_id, finding in findings.items():
            question = questions[upload_id]
            verdict = question.if_taken if finding.verdict is Verdict.TAKEN else question.if_absent
            if finding.image is not None:
                landed[upload_id] = finding.image
            elif finding.verdict is Verdict.UNCLEAR:
                refused[upload_id] = _UNCLEAR
            elif isinstance(verdict, Refused):
                refused[upload_id] = verdict
            elif verdict is not None:
                again[upload_id] = verdict
            else:
                anew.append(Member(rows[upload_id], question.file))
        self._settle(landed=landed, refused=refused, again=again)
        if case.registration is not None:
            self._claims.dissolve(case.registration, suspect=True)
        self._close(case)
        self._return(anew)
        self.flush(case.dataset_id)

    def _make_room(self) -> None:
        """Archive what rows replace whose upload URL was refused because of it; then they start again."""
        with self._lock:
            dataset_id = next(iter(self._in_the_way.values())).upload.dataset_id
            members = [m for m in self._in_the_way.values() if m.upload.dataset_id == dataset_id]
        refused = self._replacer.archive(dataset_id, members)
        again = {m.upload.id: Again() for m in members if m.upload.id not in refused}
        self._settle(refused=refused, again=again)

    # Recording

    def _settle(
        self,
        *,
        landed: Mapping[int, Image] | None = None,
        refused: Mapping[int, Refused] | None = None,
        again: Mapping[int, Again] | None = None,
    ) -> None:
        if not (landed or refused or again):
            return
        done = self._claims.settle(landed=landed, refused=refused, again=again)
        settled = {*(landed or ()), *(refused or ()), *(again or ())}
        self._withdraw(settled)
        self._replacer.forget(settled - set(again or ()))
        with self._lock:
            self._done.update((row.id, row) for row in done)
            self.landed_files += len(done)
            self.landed_bytes += sum(row.size_bytes for row in done)
            for upload_id in settled - set(again or ()):
                self._batch_rows.pop(upload_id, None)

    def hurry(self) -> None:
        """Let everything that rests be due."""
        with self._lock:
            self._rest_until_s = 0.0
            for case in self._cases:
                case.due_s = 0.0

    def _land(self) -> None:
        """Tell the drive of what is DONE, then let the rows go."""
        with self._lock:
            rows = list(self._done.values())
        if not rows:
            return
        for row in rows:
            current = self._claims.get(row.id)
            assert row.image is not None  # of a DONE row
            if current is None or current.abandoned:
                continue
            try:
                if row.replaces_image_id is not None:
                    self._on_archived(row.dataset_id, row.replaces_image_id)
                self._on_landed(current, row.image)
            except Exception:
                log.exception("%s is on the service, but the drive could not take it over", row.path)
        reach(CrashPoint.LANDED_TOLD)
        self._claims.finish([row.id for row in rows])
        with self._lock:
            for row in rows:
                del self._done[row.id]

    def _return(self, members: Iterable[Member]) -> None:
        """Into the pool, or back into it."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            for member in members:
                pool = self._pools.setdefault(member.upload.dataset_id, _Pool(first_s=now_s))
                pool.members[member.upload.id] = member
                pool.last_s = now_s

    def _withdraw(self, upload_ids: Iterable[int]) -> None:
        """Out of the pools: they are in the journal now."""
        with self._lock:
            for upload_id in upload_ids:
                self._in_the_way.pop(upload_id, None)
                for pool in self._pools.values():
                    pool.members.pop(upload_id, None)
            for dataset_id in [d for d, pool in self._pools.items() if not pool.members]:
                del self._pools[dataset_id]

    def _open(self, case: _Case) -> None:
        with self._lock:
            self._cases.append(case)

    def _close(self, case: _Case) -> None:
        with self._lock:
            self._cases.remove(case)

    def _refused(self, error: Exception) -> Refused:
        return Refused(in_words(error), self._errno_of(error))

    def _name_taken(self) -> Refused:
        return self._refused(ConflictError("another image of this name already exists", status=0))


_UNCLEAR = Refused(
    "it may be on the service already, in another format, which cannot be told for certain; look there, then "
    "retry or discard it",
    errno.EEXIST,
)


def _due_s(pool: _Pool) -> float:
    """When a pool is to be registered, on the monotonic clock."""
    if pool.flush or len(pool.members) >= _BATCH_ROWS:
        return 0.0
    return min(pool.last_s + _QUIET_S, pool.first_s + _OLDEST_S)
