"""What the hour's request budget looks like: our own count, and what the server's headers said last.

Lock order: `BudgetMeter._lock` only; nothing is called while it is held.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# The service counts in a sliding window of one hour; we keep it in minutes, which bounds the memory.
_WINDOW_MINUTES = 60


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
    """

    used: int
    limit: int | None
    remaining: int | None
    reset_at: float | None
    by_route: Mapping[str, int]


class BudgetMeter:
    """Counts requests and remembers the rate-limit headers. Safe from any thread."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._by_minute: Counter[int] = Counter()
        self._by_route: Counter[str] = Counter()
        self._limit: int | None = None
        self._remaining: int | None = None
        self._reset_at: float | None = None

    def count(self, route: str, headers: Mapping[str, str] | None) -> None:
        """One request went out; `headers` are the answer's, None when there was none."""
        minute = int(self._clock() // 60)
        limit = _number(headers, "X-RateLimit-Limit")
        remaining = _number(headers, "X-RateLimit-Remaining")
        reset_at = _number(headers, "X-RateLimit-Reset")
        with self._lock:
            self._by_route[route] += 1
            self._by_minute[minute] += 1
            for old in [m for m in self._by_minute if m <= minute - _WINDOW_MINUTES]:
                del self._by_minute[old]
            if limit is not None:
                self._limit = int(limit)
            if remaining is not None:
                self._remaining = int(remaining)
            if reset_at is not None:
                self._reset_at = reset_at

    def snapshot(self) -> Budget:
        now = self._clock()
        first = int(now // 60) - _WINDOW_MINUTES
        with self._lock:
            stale = self._reset_at is not None and now >= self._reset_at
            return Budget(
                used=sum(n for minute, n in self._by_minute.items() if minute > first),
                limit=self._limit,
                remaining=None if stale else self._remaining,
                reset_at=self._reset_at,
                by_route=dict(self._by_route),
            )


def _number(headers: Mapping[str, str] | None, name: str) -> float | None:
    try:
        return float((headers or {})[name])
    except (KeyError, ValueError):
        return None
