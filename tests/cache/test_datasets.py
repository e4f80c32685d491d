"""The datasets by name: as last told, to whomever."""

from __future__ import annotations

import threading

from pictofs.api.models import Dataset
from pictofs.cache.datasets import Datasets
from pictofs.cache.flights import Flights

TTL_S = 60.0
ROWS = [Dataset("d1", "animals"), Dataset("d2", "other")]


def test_what_somebody_else_was_told_is_as_good_as_an_answer() -> None:
    now = [1000.0]
    asked = threading.Event()
    told: list[set[str]] = []

    def ask() -> list[Dataset]:
        asked.set()
        return ROWS

    datasets = Datasets(
        ask,
        Flights(),
        ttl_s=TTL_S,
        only=(),
        may_revalidate=lambda: True,
        listings=None,
        on_told=lambda ids: told.append(set(ids)),
        clock=lambda: now[0],
    )
    datasets.take(ROWS, now[0] - 10)
    now[0] += TTL_S - 11
    assert set(datasets.get()) == {"animals", "other"}
    assert told == [{"d1", "d2"}]
    assert not asked.is_set()
    now[0] += 1
    datasets.get()
    assert asked.wait(10)
