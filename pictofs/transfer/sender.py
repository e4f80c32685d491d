"""The first half of an upload: collect rows into waves, get their upload URLs, put their bytes into storage.

Steps without threads: `Uploader` calls `dispatch` from one thread and `put` from several; tests call them as
they like. A wave is what one request for URLs covers. What is in storage goes on to the `Registrar`.

Lock order: `Sender._lock`, then those of registrar and journal. Not held while the service is asked.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pictofs.api.errors import ApiError, PictographError, ServerError, StorageError
from pictofs.api.models import NewImage
from pictofs.transfer.claims import Claims
from pictofs.transfer.crashpoints import CrashPoint, reach
from pictofs.transfer.pacing import Backoff, Clock, Collector, Health, RateMeter, Throughput
from pictofs.transfer.records import Again, Member, Refused, Upload
from pictofs.transfer.refusals import in_words, is_about_taken_name, is_final, is_stale_url, isolate
from pictofs.transfer.registrar import Registrar
from pictofs.transfer.spool import Spool
from pictofs.transfer.trouble import JOURNAL_TROUBLE_S, report, report_journal

__all__ = ["WAVE_BYTES", "WAVE_ROWS", "WAVE_S", "PutJob", "SendRemote", "Sender"]

log = logging.getLogger(__name__)

WAVE_ROWS = 500
"""Files in one bulk request, as the service bounds it."""

# Upload URLs live for 15 minutes, so a wave should be in storage within five, at the rate of late.
WAVE_S = 300.0
WAVE_BYTES = 256 * 1024 * 1024  # while no rate is known

# What an upload may take before it counts as stuck: a floor for a slow start, and the slowest line that is
# still of use when all workers share it.
_PUT_FLOOR_S = 60.0
_PUT_BYTES_PER_S = 64 * 1024

# While programs commit files, one file goes up at a time: a copy that is under way has the first claim to CPU
# and disk, and what it copies is sent all the faster once it pauses. Not for longer than a moment, though: a
# copy of an hour should go up while it lasts, and a stuck file must not be what all others wait for.
_YIELD_S = 0.25
_YIELD_BURST_S = 30.0

_PUT_TRIES = 4  # with one URL, before the row goes back to the queue for another
_STORAGE_REFUSALS = 8  # claims after which a refusal of storage that is not about the URL is believed
_BACKLOG_ROWS = 2 * WAVE_ROWS  # in storage and not registered; no more is sent before the service takes these
_UNDECIDED_S = 60.0  # rest of rows in a refused batch that too many refusals left undecided


class SendRemote(Protocol):
    """Raises api.errors; `put` an OSError when the file cannot be read."""

    def upload_urls(self, dataset_id: str, images: Sequence[NewImage]) -> Sequence[str]:
        """One URL for each, in order: one API request for up to 500."""

    def put(self, url: str, path: Path, content_type: str, timeout_s: float) -> None:
        """A file's bytes into storage, within the timeout as a whole."""


@dataclass(slots=True)
class _Wave:
    dataset_id: str
    open_jobs: int


@dataclass(slots=True, order=True)
class PutJob:
    """One file to be put. Ordered by when it is due."""

    due_s: float
    number: int
    member: Member = field(compare=False)
    url: str = field(compare=False)
    wave: _Wave = field(compare=False)
    tries: int = field(compare=False, default=0)


class Sender:
    """See the module.

    Attributes:
        draining: somebody waits for the queue to run empty: do not collect.
    """

    def __init__(
        self,
        claims: Claims,
        spool: Spool,
        remote: SendRemote,
        registrar: Registrar,
        *,
        workers: int,
        api: Health,
        storage: Health,
        backoff: Backoff,
        clock: Clock,
        content_type_of: Callable[[str], str],
        errno_of: Callable[[BaseException], int],
    ) -> None:
        self._claims = claims
        self._spool = spool
        self._remote = remote
        self._registrar = registrar
        self._workers = workers
        self._api = api
        self._storage = storage
        self._backoff = backoff
        self._clock = clock
        self._content_type_of = content_type_of
        self._errno_of = errno_of
        self._collector = Collector(full_rows=WAVE_ROWS)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._jobs: deque[PutJob] = deque()
        self._later: list[PutJob] = []  # a heap: jobs that rest between tries
        self._busy = 0
        self._rate = RateMeter(clock)
        self._stalled_ready: int | None = None  # how many rows were ready when none of them could be claimed
        self._owed_refused: dict[int, Refused] = {}  # verdicts that the journal could not take yet
        self._owed_again: dict[int, Again] = {}
        self._disk_ok_s = 0.0
        self.draining = False

    # Waves

    def delay_s(self) -> float | None:
        """Seconds until `dispatch` has something to do, None until something changes."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            if self._owed_refused or self._owed_again:
                return max(0.0, self._disk_ok_s - now_s)
            if self._jobs or self._busy >= self._workers:
                return None
        if self._registrar.backlog() >= _BACKLOG_ROWS:
            return None
        marks = self._claims.marks(urgent=self.draining)
        if marks.ready and marks.ready == self._stalled_ready:
            return None if marks.due_s is None else max(0.0, marks.due_s - now_s)
        delay_s = self._collector.delay_s(now_s, marks)
        if delay_s is None:
            return None
        return max(delay_s, self._api.pause_s(), self._storage.pause_s(), self._disk_ok_s - now_s)

    def unstall(self) -> None:
        """The journal has changed: rows that could not be claimed may be free now."""
        self._stalled_ready = None

    def dispatch(self) -> None:
        """Claim a wave, ask for its URLs, and line its files up for `take`."""
        self._settle({}, {})
        try:
            rows = self._claims.claim(WAVE_ROWS, self._wave_bytes())
        except OSError as error:
            self._disk_trouble(error)
            return
        if not rows:
            self._stalled_ready = self._claims.marks().ready
            return
        self._collector.sent()
        reach(CrashPoint.CLAIMED)
        members: list[Member] = []
        refused: dict[int, Refused] = {}
        for row in rows:
            try:
                members.append(Member(row, self._describe(row)))
            except ValueError as error:
                refused[row.id] = Refused(str(error), errno.EINVAL)
        self._settle(refused, {})
        if members:
            self._ask_urls(rows[0].dataset_id, members)

    def _ask_urls(self, dataset_id: str, members: Sequence[Member]) -> None:
        def send(group: Sequence[Member]) -> Sequence[str]:
            urls = self._remote.upload_urls(dataset_id, [member.file for member in group])
            if len(urls) != len(group):
                raise ServerError(f"{len(urls)} upload URLs for {len(group)} files", status=200)
            return urls

        jobs: list[tuple[Member, str]] = []
        refused: dict[int, Refused] = {}
        again: dict[int, Again] = {}
        # One for the whole wave, so that it stays one.
        delay_s = self._backoff.delay_s(max(member.upload.attempts for member in members))
        for answer in isolate(members, send):
            if answer.result is not None:
                self._api.ok()
                jobs += zip(answer.items, answer.result, strict=True)
                continue
            assert answer.error is not None
            if answer.was_sent:
                report(self._api, answer.error)
            for member in answer.items:
                row = member.upload
                if not is_final(answer.error):
                    again[row.id] = Again(in_words(answer.error), delay_s)
                elif not answer.was_sent:
                    again[row.id] = Again(in_words(answer.error), _UNDECIDED_S)
                elif is_about_taken_name(answer.error) and self._registrar.take_over(member, answer.error):
                    pass  # it may be our own, or is to be replaced: the registrar finds out
                else:
                    refused[row.id] = Refused(in_words(answer.error), self._errno_of(answer.error))
        self._settle(refused, again)
        reach(CrashPoint.URLS_RECEIVED)
        wave = _Wave(dataset_id, len(jobs))
        with self._lock:
            self._jobs += (PutJob(0.0, next(self._numbers), member, url, wave) for member, url in jobs)

    def _describe(self, row: Upload) -> NewImage:
        return NewImage(
            filename=row.filename,
            directory_path=row.folder,
            content_type=self._content_type_of(row.filename),
            file_size=row.size_bytes,
            width=row.width,
            height=row.height,
        )

    def _wave_bytes(self) -> int:
        with self._lock:
            rate = self._rate.bytes_per_s() or 0.0
        return max(WAVE_BYTES, int(rate * WAVE_S))

    # Bytes

    def take(self) -> PutJob | None:
        """The next file to `put`, None while there is none."""
        now_s = self._clock.monotonic_s()
        if self._storage.pause_s() > 0:
            return None
        with self._lock:
            while self._later and self._later[0].due_s <= now_s:
                self._jobs.append(heapq.heappop(self._later))
            if not self._jobs or (self._busy and self._yield_s(now_s) > 0):
                return None
            self._busy += 1
            return self._jobs.popleft()

    def take_delay_s(self) -> float | None:
        """Seconds until `take` may have a file, None until something changes."""
        with self._lock:
            if not self._jobs and not self._later:
                return None
            now_s = self._clock.monotonic_s()
            wait_s = 0.0 if self._jobs else self._later[0].due_s - now_s
            if self._busy:
                wait_s = max(wait_s, self._yield_s(now_s))
        return max(0.0, wait_s, self._storage.pause_s())

    def _yield_s(self, now_s: float) -> float:
        """Seconds for which programs have the first claim, 0 when nobody copies in or somebody waits."""
        marks = self._claims.marks(urgent=self.draining)
        until_s = min(marks.last_s + _YIELD_S, marks.burst_s + _YIELD_BURST_S)
        return 0.0 if marks.urgent else max(0.0, until_s - now_s)

    def put(self, job: PutJob) -> None:
        """Put one file; returns when it is in storage, or what to do instead is decided."""
        started_s = self._clock.monotonic_s()
        upload = job.member.upload
        retry = False
        try:
            row = self._claims.get(upload.id)
            if row is None or row.abandoned:
                self._settle({}, {upload.id: Again()} if row is not None else {})  # which drops it
                return
            found_bytes = self._spool.size_bytes(upload.spool_name)
            if found_bytes != upload.size_bytes:
                words = (
                    "are missing" if found_bytes is None else f"are {found_bytes}, not {upload.size_bytes}"
                )
                self._settle({upload.id: Refused(f"its bytes in the spool {words}", errno.EIO)}, {})
                return
            try:
                self._remote.put(
                    job.url,
                    self._spool.path(upload.spool_name),
                    job.member.file.content_type,
                    _PUT_FLOOR_S + upload.size_bytes / _PUT_BYTES_PER_S,
                )
            except Exception as error:  # noqa: BLE001  (sorted out by kind)
                retry = self._put_failed(job, error)
            else:
                self._storage.ok()
                reach(CrashPoint.PUT_DONE)
                with self._lock:
                    self._rate.add(started_s, upload.size_bytes)
                self._registrar.offer(job.member)
        finally:
            self._done_with(job, retry=retry)

    def _done_with(self, job: PutJob, *, retry: bool) -> None:
        with self._lock:
            self._busy -= 1
            if retry:
                heapq.heappush(self._later, job)
                return
            job.wave.open_jobs -= 1
            is_last = job.wave.open_jobs == 0
        if is_last:
            reach(CrashPoint.ALL_PUT)
            self._registrar.flush(job.wave.dataset_id)

    def _put_failed(self, job: PutJob, error: Exception) -> bool:
        """Decide; whether the same job is to be tried again."""
        row = job.member.upload
        words = in_words(error)
        if isinstance(error, OSError):
            if isinstance(error, FileNotFoundError):
                self._settle({row.id: Refused("its bytes in the spool are missing", errno.EIO)}, {})
            else:
                self._settle({}, {row.id: Again(words, self._backoff.delay_s(row.attempts))})
            return False
        if not isinstance(error, PictographError):
            log.error("putting %s failed unexpectedly", row.path, exc_info=error)
        if is_stale_url(error):
            delay_s = 0.0 if row.attempts == 1 else self._backoff.delay_s(row.attempts)
            self._settle({}, {row.id: Again(words, delay_s)})
            return False
        if _is_storage_refusal(error) and (_is_too_large(error) or row.attempts >= _STORAGE_REFUSALS):
            self._settle({row.id: Refused(words, self._errno_of(error))}, {})
            return False
        self._storage.failed(words)
        job.tries += 1
        if job.tries < _PUT_TRIES:
            job.due_s = self._clock.monotonic_s() + self._backoff.delay_s(job.tries)
            return True
        self._settle({}, {row.id: Again(words, self._backoff.delay_s(row.attempts + _PUT_TRIES))})
        return False

    # Verdicts

    def _settle(self, refused: dict[int, Refused], again: dict[int, Again]) -> None:
        """Record verdicts, with those that the journal could not take earlier."""
        with self._lock:
            refused = {**self._owed_refused, **refused}
            again = {**self._owed_again, **again}
            self._owed_refused, self._owed_again = {}, {}
        if not refused and not again:
            return
        try:
            self._claims.settle(refused=refused, again=again)
        except OSError as error:
            with self._lock:
                self._owed_refused.update(refused)
                self._owed_again.update(again)
            self._disk_trouble(error)

    def _disk_trouble(self, error: OSError) -> None:
        report_journal(error)
        self._disk_ok_s = self._clock.monotonic_s() + JOURNAL_TROUBLE_S

    # Looking

    def busy(self) -> int:
        """Files on the line now."""
        with self._lock:
            return self._busy

    def rate_bytes_per_s(self) -> float | None:
        """Of late, None when nothing was sent."""
        with self._lock:
            return self._rate.bytes_per_s()

    def throughput(self) -> Throughput | None:
        """On the whole, None when nothing was sent yet."""
        with self._lock:
            return self._rate.on_the_whole()


def _is_storage_refusal(error: Exception) -> bool:
    if isinstance(error, StorageError):
        return 400 <= error.status < 500 and error.status not in (408, 429)
    return isinstance(error, ApiError)


def _is_too_large(error: Exception) -> bool:
    return isinstance(error, StorageError) and error.status == 413
