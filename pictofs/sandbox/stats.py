"""What a sandbox was asked, counted and remembered. Belongs to the event loop."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Any

REMEMBERED = 5_000
"""Requests kept word for word; older ones are only counted."""


class Stats:
    """Counters since the start or the last reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.by_route: Counter[str] = Counter()
        self.by_status: Counter[str] = Counter()
        self.storage: Counter[str] = Counter()
        self.key_leaks = 0
        self.replays = 0
        self.faulted = 0
        self.recent: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)

    def as_json(self) -> dict[str, Any]:
        names = ("puts", "gets", "heads", "refused", "bytes_in", "bytes_out")
        return {
            "api": {
                "total": sum(self.by_route.values()),
                "by_route": dict(self.by_route),
                "by_status": dict(self.by_status),
                "idempotent_replays": self.replays,
            },
            "storage": {
                "total": sum(self.storage[name] for name in ("puts", "gets", "heads", "others")),
                **{name: self.storage[name] for name in names},
            },
            "key_leaks": self.key_leaks,
            "faulted": self.faulted,
            "recent": list(self.recent),
        }


def key_names(body: Any, prefix: str = "") -> list[str]:
    """The keys of a JSON body, nested ones as `images[].filename` and `updates.status`."""
    names: set[str] = set()
    if isinstance(body, dict):
        for name, value in body.items():
            names |= {prefix + name, *key_names(value, f"{prefix}{name}.")}
    elif isinstance(body, list):
        for nested in _each(body):
            names |= set(key_names(nested, f"{prefix[:-1]}[]."))
    return sorted(names)


def _each(items: list[Any]) -> Iterable[Any]:
    """One item of every shape; thousands of ids have none."""
    shapes = {tuple(sorted(item)): item for item in items if isinstance(item, dict)}
    return shapes.values()
