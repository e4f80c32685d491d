"""The sliding window of API requests. Belongs to the event loop."""

from __future__ import annotations

import math
import time
from collections import deque

from pictofs.sandbox.errors import RefusalError
from pictofs.sandbox.faults import Faults


class RateLimit:
    """At most `Settings.rate_limit` requests within any `Settings.rate_window_s`."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._taken_s: deque[float] = deque()

    def take(self) -> None:
        """Count one request. Raises RefusalError(429) when the window is full; that one is not counted."""
        self._forget()
        if len(self._taken_s) >= self._faults.now.rate_limit:
            wait_s = max(1, math.ceil(self._reset_at_s() - time.time()))
            raise RefusalError(
                429,
                f"Rate limit reached: {self._faults.now.rate_limit} requests per hour. Retry in {wait_s} s.",
                details={"retry_after": wait_s},
                headers={"Retry-After": str(wait_s)},
            )
        self._taken_s.append(time.time())

    def headers(self) -> dict[str, str]:
        self._forget()
        limit = self._faults.now.rate_limit
        return {
            "X-RateLimit-Limit": str(limit),
            "X-RateLimit-Remaining": str(max(0, limit - len(self._taken_s))),
            "X-RateLimit-Reset": str(math.ceil(self._reset_at_s())),
        }

    def _reset_at_s(self) -> float:
        """When the oldest request leaves the window."""
        oldest_s = self._taken_s[0] if self._taken_s else time.time()
        return oldest_s + self._faults.now.rate_window_s

    def _forget(self) -> None:
        start_s = time.time() - self._faults.now.rate_window_s
        while self._taken_s and self._taken_s[0] <= start_s:
            self._taken_s.popleft()
