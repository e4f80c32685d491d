"""When the uploader moves: how long a burst is collected, how long trouble makes it wait, how fast it is.

Pure arithmetic on a clock that tests replace; no threads, no waiting.

Lock order: `Health._lock` only.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

__all__ = [
    "SYSTEM_CLOCK",
    "Arrivals",
    "Backoff",
    "Clock",
    "Collector",
    "Health",
    "Pause",
    "QueueMarks",
    "RateMeter",
    "Throughput",
    "rested_s",
]


@dataclass(frozen=True, slots=True)
class Clock:
    """Where time comes from.

    Attributes:
        monotonic_s: for intervals.
        wall_ns: ns since 1970, for what is recorded.
    """

    monotonic_s: Callable[[], float] = time.monotonic
    wall_ns: Callable[[], int] = time.time_ns


SYSTEM_CLOCK = Clock()


class Backoff:
    """Exponential waits with jitter, so that what failed together does not come back together."""

    def __init__(
        self,
        *,
        base_s: float = 0.5,
        cap_s: float = 60.0,
        uniform: Callable[[float, float], float] | None = None,
    ) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._uniform = uniform or random.uniform

    def delay_s(self, failures: int) -> float:
        """The wait after so many failures in a row (from 1)."""
        exponent = min(failures - 1, 30)  # far past the cap; keeps the power a sane number
        return min(self._cap_s, self._base_s * 2.0**exponent) * self._uniform(0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Pause:
    """Why nothing moves, in words for people; times are ns since 1970, `until_ns` None when open-ended."""

    reason: str
    since_ns: int
    until_ns: int | None


class Health:
    """Whether one service (the API, or its storage) can be asked now. Shared by all who ask it.

    Failures in a row lengthen a pause that holds for all, so an outage costs a request now and then and not
    one per file. The first success ends it.
    """

    def __init__(self, clock: Clock, backoff: Backoff, *, patience: int = 1) -> None:
        """Args:
        patience: failures in a row before there is a pause at all.
        """
        self._clock = clock
        self._backoff = backoff
        self._patience = patience
        self._lock = threading.Lock()
        self._failures = 0
        self._until_s = 0.0
        self._pause: Pause | None = None
        self._refused = False

    def ok(self) -> None:
        """It answered."""
        with self._lock:
            self._failures = 0
            self._until_s = 0.0
            self._pause = None
            self._refused = False

    def failed(self, reason: str, *, wait_s: float | None = None, refused: bool = False) -> None:
        """It did not, or not usefully.

        Args:
            wait_s: how long to leave it alone, when it said so; such a pause needs no patience.
            refused: it will not answer until a person does something; still asked again after `wait_s`.
        """
        with self._lock:
            now_s = self._clock.monotonic_s()
            if now_s < self._until_s and wait_s is None:
                return  # one that was under way when the pause began: no news
            self._failures += 1
            self._refused = refused
            if wait_s is None:
                if self._failures < self._patience:
                    return
                wait_s = self._backoff.delay_s(self._failures - self._patience + 1)
            self._until_s = max(self._until_s, now_s + wait_s)
            now_ns = self._clock.wall_ns()
            since_ns = self._pause.since_ns if self._pause else now_ns
            self._pause = Pause(reason, since_ns, now_ns + int((self._until_s - now_s) * 1e9))

    def pause_s(self) -> float:
        """Seconds until it may be asked, 0 when now."""
        with self._lock:
            return max(0.0, self._until_s - self._clock.monotonic_s())

    def clear(self) -> None:
        """Ask again at once, but remember the trouble until an answer comes."""
        with self._lock:
            self._until_s = 0.0

    @property
    def pause(self) -> Pause | None:
        """The trouble since the last answer, None when there is none."""
        with self._lock:
            return self._pause

    @property
    def refused(self) -> bool:
        """Whether it waits for a person."""
        with self._lock:
            return self._refused


@dataclass(frozen=True, slots=True)
class QueueMarks:
    """The queue as the collector sees it; times on the monotonic clock.

    Attributes:
        ready: rows that may be claimed, as far as is known without looking at each.
        first_s: since when the oldest of them waits.
        last_s: when the latest was committed.
        burst_s: when the burst that it belongs to began.
        due_s: when the next delayed row comes due, None when there is none.
        urgent: somebody waits for a row.
    """

    ready: int
    first_s: float
    last_s: float
    burst_s: float
    due_s: float | None
    urgent: bool


def rested_s(now_s: float, delay_s: float) -> float:
    """When a rest of `delay_s` is over. Longer ones end at common times: rows that failed one by one go up
    again together, in one wave and not in one each."""
    grid_s = next((grid_s for grid_s in (32.0, 8.0, 1.0) if delay_s >= grid_s), 0.0)
    return math.ceil((now_s + delay_s) / grid_s) * grid_s if grid_s else now_s + delay_s


class Arrivals:
    """When rows became ready: what `QueueMarks` says of it. Its owner locks."""

    _BURST_ENDS_S = 1.5  # without a commit; above the stutter of a busy disk's fsync

    def __init__(self) -> None:
        self.first_s: float | None = None
        self.last_s = -self._BURST_ENDS_S
        self.burst_s = 0.0

    def note(self, now_s: float) -> None:
        """A row was committed."""
        if now_s - self.last_s >= self._BURST_ENDS_S:
            self.burst_s = now_s
        self.last_s = now_s
        self.due(now_s)

    def due(self, now_s: float) -> None:
        """A delayed row is ready again: no commit, and nothing to collect around."""
        if self.first_s is None:
            self.first_s = now_s

    def claimed(self, now_s: float, *, ready: int) -> None:
        """Rows were claimed; so many are left."""
        self.first_s = now_s if ready else None


class Collector:
    """How long to go on collecting before a wave is sent.

    A wave costs two API requests whatever its size, so a burst should become few waves; yet a lone file must
    not wait, and a long burst must start before it ends. So a wave goes when the queue was quiet for a
    moment, when it is full, or when its oldest row has waited for a while; and both waits grow with each wave
    of the same burst: 1,000 files take 2 to 4 waves, whether they arrive within one second or within forty.
    """

    _QUIET_S = (0.15, 0.6, 1.2)  # a lone file goes within 0.2 s; a stutter rarely splits a burst
    _WAIT_S = (5.0, 10.0, 20.0)  # a copy of some thousand files is done before its own uploads slow it down
    _URGENT_QUIET_S = 0.01  # lets parallel writers that all wait share a wave

    def __init__(self, *, full_rows: int) -> None:
        self._full_rows = full_rows
        self._waves = 0
        self._burst_s = 0.0

    def delay_s(self, now_s: float, marks: QueueMarks) -> float | None:
        """Seconds until the next wave should be claimed, 0 for now, None while there is nothing to claim."""
        if not marks.ready:
            return None if marks.due_s is None else max(0.0, marks.due_s - now_s)
        if marks.burst_s != self._burst_s:
            self._burst_s = marks.burst_s
            self._waves = 0
        if marks.urgent:
            return max(0.0, marks.last_s + self._URGENT_QUIET_S - now_s)
        quiet_s = self._QUIET_S[min(self._waves, len(self._QUIET_S) - 1)]
        wait_s = self._WAIT_S[min(self._waves, len(self._WAIT_S) - 1)]
        if marks.ready >= self._full_rows:
            wait_s = self._WAIT_S[0]
        return max(0.0, min(marks.last_s + quiet_s, marks.first_s + wait_s) - now_s)

    def sent(self) -> None:
        """A wave was claimed."""
        self._waves += 1


@dataclass(frozen=True, slots=True)
class Throughput:
    """What went over the line while something was on it, since the start."""

    files_per_s: float
    bytes_per_s: float


class RateMeter:
    """Bytes per second over the last half minute, and on the whole. Its owner locks."""

    _WINDOW_S = 30.0

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sent: deque[tuple[float, float, int]] = deque()  # (started, ended, bytes), by end
        self._files = self._bytes = 0
        self._busy_s = self._last_s = 0.0

    def add(self, started_s: float, size_bytes: int) -> None:
        """A file of so many bytes went from `started_s` until now."""
        now_s = self._clock.monotonic_s()
        self._sent.append((started_s, now_s, size_bytes))
        self._files += 1
        self._bytes += size_bytes
        self._busy_s += now_s - max(started_s, self._last_s)
        self._last_s = now_s
        self._forget()

    def on_the_whole(self) -> Throughput | None:
        """None when nothing was sent yet."""
        if not self._files:
            return None
        busy_s = max(self._busy_s, 0.001)
        return Throughput(self._files / busy_s, self._bytes / busy_s)

    def bytes_per_s(self) -> float | None:
        """None when nothing was sent lately."""
        self._forget()
        if not self._sent:
            return None
        now_s = self._clock.monotonic_s()
        since_s = max(min(started_s for started_s, _, _ in self._sent), now_s - self._WINDOW_S)
        return sum(size for _, _, size in self._sent) / max(now_s - since_s, 0.001)

    def _forget(self) -> None:
        oldest_s = self._clock.monotonic_s() - self._WINDOW_S
        while self._sent and self._sent[0][1] < oldest_s:
            self._sent.popleft()
