"""Sets of whole numbers kept as half-open intervals: which bytes of a file are here. Pure.

Not thread-safe by itself: whoever owns a set guards it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator


class Ranges:
    """Intervals `[start, end)`, disjoint, in order, never touching each other."""

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []

    def add(self, start: int, end: int) -> None:
        """Put `[start, end)` in; an empty interval changes nothing."""
        if start >= end:
            return
        first = bisect_left(self._ends, start)  # the first interval that reaches `start`
        last = bisect_right(self._starts, end)  # past the last one that begins by `end`
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start: int, end: int) -> None:
        """Take `[start, end)` out."""
        kept = [(s, e) for s, e in self if e <= start or s >= end]
        for s, e in self:
            if s < end and e > start:
                kept += [part for part in ((s, start), (end, e)) if part[0] < part[1]]
        kept.sort()
        self._starts = [s for s, _ in kept]
        self._ends = [e for _, e in kept]

    def covers(self, start: int, end: int) -> bool:
        """Whether all of `[start, end)` is in. An empty interval is."""
        return self.first_gap(start, end) is None

    def first_gap(self, start: int, end: int) -> tuple[int, int] | None:
        """The first interval within `[start, end)` that is not in, as long as it goes; None: all is in."""
        index = bisect_right(self._starts, start) - 1
        if index >= 0 and self._ends[index] > start:
            start = self._ends[index]
        if start >= end:
            return None
        index += 1
        return start, min(end, self._starts[index]) if index < len(self._starts) else end

    def total(self) -> int:
        """How many numbers are in."""
        return sum(self._ends) - sum(self._starts)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._starts, self._ends, strict=True)

    def __repr__(self) -> str:
        return f"Ranges({[*self]})"
