"""One flight per question: whoever asks what is being asked already waits for that answer, and shares it.

Lock order: `Flights._lock` alone; nothing is called while it is held.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import TypeVar

from pictofs.api.budget import Reason, because
from pictofs.api.errors import PictographError

_Answer = TypeVar("_Answer")


@dataclass
class _Flight:
    """A question under way. Followers wait on `done` and share the outcome."""

    done: threading.Event = field(default_factory=threading.Event)
    answer: object = None
    error: BaseException | None = None


class Flights:
    """The questions that are under way, by whatever names them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flying: dict[Hashable, _Flight] = {}

    def once(self, question: Hashable, ask: Callable[[], _Answer]) -> _Answer:
        """Ask, or wait for whoever is asking the same already and share the outcome, be it an exception."""
        flight, leads = self._board(question)
        if leads:
            return self._fly(question, flight, ask)
        # Bounded by the request timeouts of whoever leads.
        flight.done.wait()
        if flight.error is not None:
            raise flight.error
        return flight.answer  # type: ignore[return-value]

    def behind(
        self, question: Hashable, ask: Callable[[], object], failed: Callable[[PictographError], None]
    ) -> None:
        """Ask in the background, unless somebody does already. `failed` is told why there is no answer."""
        flight, leads = self._board(question)
        if not leads:
            return

        def run() -> None:
            try:
                with because(Reason.REFRESHING):
                    self._fly(question, flight, ask)
            except PictographError as error:
                failed(error)

        threading.Thread(target=run, name="metadata-refresh", daemon=True).start()

    def _board(self, question: Hashable) -> tuple[_Flight, bool]:
        """The question's flight, and whether the caller is to lead it."""
        with self._lock:
            flight = self._flying.get(question)
            if flight is not None:
                return flight, False
            flight = self._flying[question] = _Flight()
            return flight, True

    def _fly(self, question: Hashable, flight: _Flight, ask: Callable[[], _Answer]) -> _Answer:
        try:
            answer = ask()
        except BaseException as error:
            flight.error = error
            raise
        else:
            flight.answer = answer
            return answer
        finally:
            with self._lock:
                del self._flying[question]
            flight.done.set()


def aside(ask: Callable[[], _Answer]) -> Callable[[], _Answer]:
    """Ask in a thread of its own, beside what the caller goes on to do; call the result for the answer."""
    flight = _Flight()
    context = contextvars.copy_context()  # what the question is for is counted the same

    def run() -> None:
        try:
            flight.answer = context.run(ask)
        except BaseException as error:  # noqa: BLE001 - raised where the answer is wanted
            flight.error = error
        flight.done.set()

    def answer() -> _Answer:
        flight.done.wait()
        if flight.error is not None:
            raise flight.error
        return flight.answer  # type: ignore[return-value]

    threading.Thread(target=run, name="metadata-aside", daemon=True).start()
    return answer
