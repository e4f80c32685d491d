"""When a request is sent again, and after how long: urllib3's `Retry` with the service's rules.

Sent again: 408, 429, 500, 502, 503, 504, and connections that fail or break. Every method is, since writes
carry an idempotency key that stays the same. Waits grow exponentially, with jitter; a longer `Retry-After` is
waited for instead, and one beyond the policy's bound ends the attempts. After a 429 everybody waits together
(`gate`). Timings are those of the official SDK
(`_http/retry.py`, 1.69.146).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from urllib3 import BaseHTTPResponse
from urllib3.connectionpool import ConnectionPool
from urllib3.exceptions import ConnectTimeoutError, MaxRetryError, ProtocolError, ResponseError
from urllib3.util.retry import Retry

from pictofs.api.answers import retry_after_s
from pictofs.api.transport.failures import ClientClosedError
from pictofs.api.transport.gate import Turn

RETRYABLE_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_BACKOFF_BASE_S = 1.0
_BACKOFF_CAP_S = 30.0
_JITTER = (0.75, 1.25)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient one user of the client is.

    Attributes:
        max_retries: further attempts after the first.
        retry_after_limit_s: the longest `Retry-After` to sit out, and the longest that one call waits in all
            for the end of a rate limit. 0 means that a 429 is never waited for: it comes back at once as
            `RateLimitError`, for a caller that stops a whole queue on it.
        backoff_base_s: the wait before the second attempt; doubles from there.
    """

    max_retries: int = 3
    retry_after_limit_s: float = 120.0
    backoff_base_s: float = _BACKOFF_BASE_S


class Attempts(Retry):
    """One request's attempts so far, as urllib3 asks about them. Immutable: an increment makes a new one."""

    # Only `status_forcelist` decides; urllib3 would also repeat a 413 that carries a Retry-After.
    RETRY_AFTER_STATUS_CODES = frozenset()

    def __init__(
        self,
        *args: Any,
        policy: RetryPolicy,
        closing: threading.Event,
        turn: Turn | None,
        on_repeat: Callable[[Mapping[str, str] | None], None],
        **options: Any,
    ) -> None:
        """`closing` ends a wait early. `turn` is the way through the gate, None for storage. `on_repeat`
        hears of each attempt that reached the server and will be followed by another, with the answer's
        headers or None."""
        super().__init__(*args, **options)
        self._policy = policy
        self._closing = closing
        self.turn = turn
        self._on_repeat = on_repeat

    @classmethod
    def of(
        cls,
        policy: RetryPolicy,
        closing: threading.Event,
        turn: Turn | None,
        on_repeat: Callable[[Mapping[str, str] | None], None],
    ) -> Attempts:
        """All attempts that `policy` allows, none made yet."""
        return cls(
            total=policy.max_retries,
            other=0,  # a certificate that fails to verify does not get better
            allowed_methods=None,
            status_forcelist=RETRYABLE_STATUSES,
            raise_on_status=False,
            policy=policy,
            closing=closing,
            turn=turn,
            on_repeat=on_repeat,
        )

    def new(self, **changes: Any) -> Attempts:
        return super().new(
            policy=self._policy, closing=self._closing, turn=self.turn, on_repeat=self._on_repeat, **changes
        )

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Attempts:
        """Raises MaxRetryError when there is to be no further attempt."""
        if response is not None and self._is_too_long_a_wait(response):
            reason = ResponseError("the server asks for a longer wait than allowed")
            raise MaxRetryError(_pool, url, reason)  # type: ignore[arg-type]
        following = super().increment(method, url, response, error, _pool, _stacktrace)
        if not isinstance(error, ConnectTimeoutError):  # that one never reached the server
            self._on_repeat(response.headers if response is not None else None)
        return following

    def after_broken_answer(self, method: str | None) -> Attempts:
        """As `increment`, after an answer that came, and was counted, but whose body broke off."""
        return super().increment(method, error=ProtocolError("the answer broke off"))

    def get_backoff_time(self) -> float:
        """Seconds to wait before the next attempt."""
        return self._backoff_s(len(self.history)) if self.history else 0.0

    def _backoff_s(self, failures: int) -> float:
        # 2**30 is far past the cap, and keeps the float finite.
        wait_s = self._policy.backoff_base_s * 2.0 ** min(failures - 1, 30)
        return min(wait_s, _BACKOFF_CAP_S) * random.uniform(*_JITTER)  # noqa: S311 - spreads load only

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        """Raises ClientClosedError when the client is closed meanwhile, RateLimitError from the gate."""
        if response is not None and response.status == 429 and self.turn is not None:
            self.turn.enter()
            return
        asked_s = retry_after_s(response.headers) if response is not None else None
        if self._closing.wait(max(asked_s or 0.0, self.get_backoff_time())):
            raise ClientClosedError

    def _is_too_long_a_wait(self, response: BaseHTTPResponse) -> bool:
        asked_s = retry_after_s(response.headers)
        if response.status == 429 and self.turn is not None:
            pause_s = self._backoff_s(len(self.history) + 1) if asked_s is None else asked_s
            return not self.turn.refused(pause_s, response.headers.get("X-Request-Id"))
        return asked_s is not None and asked_s > self._policy.retry_after_limit_s
