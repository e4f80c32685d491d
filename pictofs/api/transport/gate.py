"""One pause for everybody when the hour's requests are used up, so that a 429 never becomes a storm.

A 429 closes the gate for as long as the service asks. Whoever has the patience waits in front of it, the
others are refused here and cost no request. Then one request goes first, alone; while its answers say that
little is left, they go one after the other, and once there is room again the gate is open.

Lock order: `Gate._changed` only; nothing is called while it is held.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pictofs.api.errors import RateLimitError
from pictofs.api.transport.failures import ClientClosedError

PROBE_S = 60.0
"""Even a longer pause is tested this often: the plan may have changed, or the service have forgotten."""

ROOM_REQUESTS = 50
"""With so many left all may go at once again: as many as there are threads that serve the drive."""

TRICKLE_S = 1.0
"""How long nobody asks after an answer that says that nothing is left."""


class Gate:
    """Shared by all requests of one key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._narrow = False  # since a 429, until an answer says that there is room again
        self._until_s = 0.0
        self._probe_s = 0.0  # when the first may go; not later than `_until_s`
        self._inside = False  # one is on its way
        self._request_id: str | None = None  # of the last 429, for those who are refused here
        self._closing = False

    def turn(self, patience_s: float) -> Turn:
        """The way of one call through the gate, all its attempts; it waits `patience_s` in all."""
        return Turn(self, patience_s)

    def pause_s(self) -> float:
        """Seconds for which the service has asked to be left alone, 0 when it has not."""
        with self._changed:
            return max(0.0, self._until_s - self._clock()) if self._narrow else 0.0

    def close(self) -> None:
        """End all waits: they raise ClientClosedError."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()


class Turn:
    """One call's way; used by one thread at a time."""

    def __init__(self, gate: Gate, patience_s: float) -> None:
        self._gate = gate
        self._deadline_s = gate._clock() + patience_s
        self._is_alone = False

    def enter(self) -> None:
        """Return when a request may be sent. Follow it with `refused`, `answered` or `failed`.

        Raises:
            RateLimitError: that is not before the patience ends (status 0: nothing was sent).
            ClientClosedError.
        """
        gate = self._gate
        with gate._changed:
            while True:
                if gate._closing:
                    raise ClientClosedError
                if self._is_alone or not gate._narrow:
                    return
                now_s = gate._clock()
                if now_s >= gate._probe_s and not gate._inside:
                    gate._inside = self._is_alone = True
                    return
                if max(now_s, gate._probe_s) >= self._deadline_s:
                    wait_s = max(gate._until_s - now_s, TRICKLE_S)
                    raise RateLimitError(
                        "the hour's requests are used up",
                        status=0,
                        retry_after_s=wait_s,
                        request_id=gate._request_id,
                    )
                until_s = self._deadline_s if gate._inside else gate._probe_s
                gate._changed.wait(max(0.0, min(until_s, self._deadline_s) - now_s))

    def refused(self, wait_s: float, request_id: str | None = None) -> bool:
        """The answer was a 429 that asks for such a pause; whether this call may wait for its end."""
        gate = self._gate
        with gate._changed:
            now_s = gate._clock()
            gate._narrow = True
            gate._request_id = request_id
            gate._until_s = max(gate._until_s, now_s + wait_s)
            gate._probe_s = min(gate._until_s, now_s + PROBE_S)
            self._leave()
            return gate._until_s < self._deadline_s

    def answered(self, remaining: int | None) -> None:
        """Another answer, with what it said is left of the hour's requests."""
        gate = self._gate
        with gate._changed:
            if not self._is_alone:
                return  # sent before the pause: says nothing about now
            if remaining is None or remaining >= ROOM_REQUESTS:
                gate._narrow = False
            gate._until_s = gate._probe_s = gate._clock() + (TRICKLE_S if remaining == 0 else 0.0)
            self._leave()

    def failed(self) -> None:
        """There was no answer."""
        with self._gate._changed:
            self._leave()

    def _leave(self) -> None:
        if self._is_alone:
            self._is_alone = self._gate._inside = False
        self._gate._changed.notify_all()
