"""The hour's request budget: our own count by route and by reason, and what the server's headers said last.

What a request is for follows from its route, unless the thread that sends it says otherwise with `because`.
`Allowance` is the one place that knows when questions that nobody waits for must stop.

Lock order: `BudgetMeter._lock` only; nothing is called while it is held.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum

# The service counts in a sliding window of one hour; we keep it in minutes, which bounds the memory.
_WINDOW_MINUTES = 60

REFRESH_SHARE = 0.10
"""Share of the hour's requests below which nothing is refreshed in the background (semantics.md)."""

PREFETCH_SHARE = 0.02
"""Share below which nothing is fetched ahead either."""


class Reason(Enum):
    """What a request is for."""

    BROWSING = "browsing"
    """Names, sizes, attributes that somebody looks at."""
    READING = "reading"
    """Bytes of images, and the signed links to them."""
    UPLOADING = "uploading"
    CHANGING = "changing"
    """Moving, removing, making folders, setting attributes."""
    REFRESHING = "refreshing"
    """Whether something known has changed; in the background."""
    PREFETCHING = "prefetching"
    """What will probably be wanted next."""
    CONTROL = "control"
    """Commands of `pictofs` to a running mount."""


_READING = re.compile(r"GET /datasets/\{dataset\}/download|GET /images/\{image\}|(GET|HEAD) \{url\}")
_UPLOADING = re.compile(r"POST /images/(bulk-)?(upload-url|register)")

_reason: ContextVar[Reason | None] = ContextVar("reason", default=None)


@contextmanager
def because(reason: Reason) -> Iterator[None]:
    """What this thread asks within the block is for this reason, whatever the route."""
    token = _reason.set(reason)
    try:
        yield
    finally:
        _reason.reset(token)


def reason_of(route: str) -> Reason:
    """What a request of this route (`"GET /datasets/{dataset}"`) is for, when nobody says otherwise."""
    if _READING.fullmatch(route):
        return Reason.READING
    if _UPLOADING.fullmatch(route):
        return Reason.UPLOADING
    return Reason.BROWSING if route.startswith("GET ") else Reason.CHANGING


@dataclass(frozen=True, slots=True)
class Budget:
    """A snapshot.

    Attributes:
        used: requests this client sent in the last hour, retries included; other users of the key not.
        limit: requests per hour that the server allows, None until it said so.
        remaining: requests left as of the server's last answer, other users of the key included; None until
            it said so, and again once `reset_at` has passed.
        reset_at: Unix time in seconds at which the window resets, None until the server said so.
        by_route: requests by route (`"GET /datasets/{dataset}"`) since the client was made.
        by_reason: `used` by reason.
        pause_s: seconds for which the server has asked to be left alone (429), 0 when it has not.
    """

    used: int
    limit: int | None
    remaining: int | None
    reset_at: float | None
    by_route: Mapping[str, int]
    by_reason: Mapping[Reason, int] = field(default_factory=dict)
    pause_s: float = 0.0


class BudgetMeter:
    """Counts requests and remembers the rate-limit headers. Safe from any thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._by_minute: dict[int, Counter[Reason]] = {}
        self._by_route: Counter[str] = Counter()
        self._limit: int | None = None
        self._remaining: int | None = None
        self._reset_at: float | None = None

    def count(self, route: str, headers: Mapping[str, str] | None) -> None:
        """One request went out; `headers` are the answer's, None when there was none."""
        minute = int(self._clock() // 60)
        reason = _reason.get() or reason_of(route)
        limit = _number(headers, "X-RateLimit-Limit")
        remaining = remaining_in(headers)
        reset_at = _number(headers, "X-RateLimit-Reset")
        with self._lock:
            self._by_route[route] += 1
            self._by_minute.setdefault(minute, Counter())[reason] += 1
            for old in [m for m in self._by_minute if m <= minute - _WINDOW_MINUTES]:
                del self._by_minute[old]
            if limit is not None:
                self._limit = int(limit)
            if remaining is not None:
                self._remaining = remaining
            if reset_at is not None:
                self._reset_at = reset_at

    def snapshot(self) -> Budget:
        now = self._clock()
        first = int(now // 60) - _WINDOW_MINUTES
        with self._lock:
            by_reason: Counter[Reason] = Counter()
            for minute, counted in self._by_minute.items():
                if minute > first:
                    by_reason.update(counted)
            stale = self._reset_at is not None and now >= self._reset_at
            return Budget(
                used=by_reason.total(),
                limit=self._limit,
                remaining=None if stale else self._remaining,
                reset_at=self._reset_at,
                by_route=dict(self._by_route),
                by_reason=dict(by_reason),
            )


class Allowance:
    """What may still be asked that nobody waits for. What somebody waits for is never held back by it.

    Args:
        budget: how the hour's requests stand.
    """

    def __init__(self, budget: Callable[[], Budget]) -> None:
        self._budget = budget

    def may_refresh(self) -> bool:
        """Whether to ask in the background if something known has changed."""
        return self._leaves(REFRESH_SHARE)

    def may_prefetch(self) -> bool:
        """Whether to ask ahead for what will probably be wanted."""
        return self._leaves(PREFETCH_SHARE)

    def _leaves(self, share: float) -> bool:
        budget = self._budget()
        if budget.pause_s > 0:
            return False
        if budget.limit is None or budget.remaining is None:
            return True
        return budget.remaining >= share * budget.limit


def remaining_in(headers: Mapping[str, str] | None) -> int | None:
    """Requests left, as an answer's headers say; None when they do not."""
    left = _number(headers, "X-RateLimit-Remaining")
    return None if left is None else int(left)


def _number(headers: Mapping[str, str] | None, name: str) -> float | None:
    try:
        return float((headers or {})[name])
    except (KeyError, ValueError):
        return None
