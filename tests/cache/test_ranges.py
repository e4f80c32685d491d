"""Interval sets against plain sets of numbers."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from pictofs.cache.ranges import Ranges

_interval = st.tuples(st.integers(0, 40), st.integers(0, 40))
_steps = st.lists(st.tuples(st.booleans(), _interval), max_size=12)


@given(_steps, _interval)
def test_they_hold_what_was_put_in_and_not_taken_out(
    steps: list[tuple[bool, tuple[int, int]]], question: tuple[int, int]
) -> None:
    ranges, numbers = Ranges(), set[int]()
    for adds, (start, end) in steps:
        if adds:
            ranges.add(start, end)
            numbers |= {*range(start, end)}
        elif start < end:
            ranges.remove(start, end)
            numbers -= {*range(start, end)}
    assert {n for start, end in ranges for n in range(start, end)} == numbers
    assert ranges.total() == len(numbers)
    intervals = [*ranges]
    assert all(a[1] < b[0] for a, b in itertools.pairwise(intervals)), "they touch"
    start, end = question
    missing = [n for n in range(start, end) if n not in numbers]
    assert ranges.covers(start, end) == (not missing)
    gap = ranges.first_gap(start, end)
    if missing:
        assert gap is not None
        assert gap[0] == missing[0]
        assert {*range(*gap)} <= {*missing}
        assert gap[1] == end or gap[1] in numbers, "the gap goes on"
    else:
        assert gap is None
