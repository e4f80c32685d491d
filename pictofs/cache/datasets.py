"""The datasets of the organization by their names on the drive: fresh for the ttl, then asked for behind.

Lock order: `Datasets._lock` is innermost; nothing is called while it is held.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Collection, Iterable, Sequence

from pictofs import namespace
from pictofs.api.errors import PictographError
from pictofs.api.models import Dataset
from pictofs.cache.flights import Flights
from pictofs.cache.listings import Listings

log = logging.getLogger(__name__)

_QUESTION = "datasets"
_NEVER = -math.inf


class Datasets:
    """The datasets. Arguments as for `MetadataCache`.

    Args:
        ask: one question to the service.
        on_told: the ids that there are, after each answer.
    """

    def __init__(
        self,
        ask: Callable[[], Sequence[Dataset]],
        flights: Flights,
        *,
        ttl_s: float,
        only: Collection[str],
        may_revalidate: Callable[[], bool],
        listings: Listings | None,
        on_told: Callable[[Collection[str]], None],
        clock: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._flights = flights
        self._ttl_s = ttl_s
        self._only = frozenset(only)
        self._may_revalidate = may_revalidate
        self._listings = listings
        self._on_told = on_told
        self._clock = clock
        self._lock = threading.Lock()
        self._by_name: dict[str, Dataset] | None = None
        self._told_at = _NEVER
        self._failed_at = _NEVER
        self._saved: Sequence[Dataset] = ()
        self._is_outdated = False  # to be asked for before they are shown again
        self._reasons = 0  # counts what made them outdated: an answer asked for before is so still

    @property
    def told_at(self) -> float:
        """When the last answer was asked for; monotonic seconds."""
        return self._told_at

    def get(self) -> dict[str, Dataset]:
        """By local name. Raises PictographError when not known and not told."""
        with self._lock:
            known, is_outdated = self._by_name, self._is_outdated
        if known is None:
            known = self._flights.once(_QUESTION, self._first)
        elif is_outdated:
            try:
                known = self.ask()
            except PictographError as error:
                self._not_told(error)
        age_s = self._clock() - max(self._told_at, self._failed_at)
        if age_s >= self._ttl_s and self._may_revalidate():
            self._flights.behind(_QUESTION, self._fetch, self._not_told)
        return known

    def known(self) -> dict[str, Dataset] | None:
        """As last told, by local name; never asks."""
        with self._lock:
            return self._by_name

    def find(self, dataset_id: str) -> Dataset | None:
        """A dataset as last told, by id; never asks."""
        return next((d for d in (self.known() or {}).values() if d.id == dataset_id), None)

    def ask(self) -> dict[str, Dataset]:
        """As they are now. Raises PictographError when not told."""
        told = self._flights.once(_QUESTION, self._fetch)
        # It may have been a flight that began too early.
        return self._flights.once(_QUESTION, self._fetch) if self._is_outdated else told

    def take(self, rows: Sequence[Dataset], asked_at: float) -> None:
        """The answer to somebody else, who asked at that time; monotonic seconds. Before anybody looks."""
        self._take(rows, asked_at, self._reasons)

    def refresh(self) -> None:
        """Ask at the next look; without an answer, what is known stays."""
        with self._lock:
            self._is_outdated = True
            self._reasons += 1

    def forget(self) -> None:
        """They were changed here: what is on the disk is old as well."""
        self.refresh()
        if self._listings is not None:
            self._saved = ()
            self._listings.forget_datasets()

    def _first(self) -> dict[str, Dataset]:
        saved = self._listings.datasets() if self._listings else None
        if saved is None:
            return self._fetch()
        by_name = self._named(saved)
        with self._lock:
            self._by_name = by_name
        return by_name

    def _fetch(self) -> dict[str, Dataset]:
        with self._lock:
            asked_at, reasons = self._clock(), self._reasons
        return self._take(self._ask(), asked_at, reasons)

    def _take(self, rows: Sequence[Dataset], asked_at: float, reasons: int) -> dict[str, Dataset]:
        by_name = self._named(rows)
        with self._lock:
            self._by_name, self._told_at = by_name, asked_at
            is_outdated = self._is_outdated = reasons != self._reasons
        self._on_told({dataset.id for dataset in by_name.values()})
        if self._listings is not None and not is_outdated and rows != self._saved:
            self._listings.save_datasets(rows)
            self._saved = rows
        return by_name

    def _named(self, rows: Iterable[Dataset]) -> dict[str, Dataset]:
        shown = [d for d in rows if not self._only or {d.name, d.id} & self._only]
        by_name: dict[str, Dataset] = {}
        for dataset in sorted(shown, key=lambda d: (namespace.to_local(d.name) != d.name, d.id)):
            name = namespace.to_local(dataset.name)
            if not namespace.fits(name) or name in by_name:
                name = namespace.with_id(name, dataset.id)
            by_name[name] = dataset
        return by_name

    def _not_told(self, error: PictographError) -> None:
        log.warning("The datasets could not be asked for, the last known ones are shown: %s", error)
        with self._lock:  # Not again before another ttl has passed.
            self._failed_at = self._clock()
            self._is_outdated = False
