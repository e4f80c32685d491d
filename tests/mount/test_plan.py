"""What a plan says a copy or a removal costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pictofs.mount.plan import Cost, Traits, Tree, cost_of_copy, cost_of_removal

TRAITS = Traits(read_only=False, overwrite=False, frozen=(), bytes_per_s=None, files_per_s=None)
MIB = 1 << 20


def requests(cost: Cost) -> tuple[int, int]:
    return cost.requests_min, cost.requests_max


@pytest.mark.parametrize(
    ("tree", "low", "high"),
    [
        (Tree(), 0, 0),
        (Tree({"a": 1}, {"a": 9}), 2, 2),
        (Tree({"a": 500}, {"a": 9}), 2, 6),
        (Tree({"a": 501}, {"a": 9}), 4, 8),
        (Tree({"a": 10}, {"a": 1000 * MIB}), 4, 12),  # its bytes make waves of it, too
        (Tree({"a": 1, "b": 1}, {"a": 9, "b": 9}, folders=3, empty_folders=1, datasets=1), 9, 11),
        (Tree({"a": 1}, {"a": 9}, replaced=1), 3, 3),
        (Tree({"a": 1}, {"a": 9}, reads_drive=True), 2, 3),
    ],
)
def test_requests_of_a_copy(tree: Tree, low: int, high: int) -> None:
    assert requests(cost_of_copy(tree, TRAITS)) == (low, high)


@pytest.mark.parametrize(
    ("tree", "low", "high"),
    [
        (Tree(), 0, 0),
        (Tree({"a": 1}, {"a": 9}), 1, 1),
        (Tree({"a": 1000}, {"a": 9}), 1, 6),
        (Tree({"a": 10_001}, {"a": 9}), 2, 11),
        (Tree({"a": 1000}, {"a": 9}, folders=20), 21, 26),
        (Tree(folders=2, datasets=1), 3, 3),
    ],
)
def test_requests_of_a_removal(tree: Tree, low: int, high: int) -> None:
    assert requests(cost_of_removal(tree)) == (low, high)


def test_the_time_is_assumed_until_something_was_measured() -> None:
    tree = Tree({"a": 100}, {"a": 200 * MIB})
    assumed = cost_of_copy(tree, TRAITS)
    assert assumed.seconds == pytest.approx(100, abs=1)
    assert "assumed: 2 MiB/s" in assumed.assumption
    fast = cost_of_copy(tree, replace(TRAITS, bytes_per_s=50.0 * MIB, files_per_s=100.0))
    assert fast.seconds == pytest.approx(4, abs=1)
    assert "has had so far" in fast.assumption
    many_small = cost_of_copy(
        Tree({"a": 1000}, {"a": 1000}), replace(TRAITS, bytes_per_s=1e9, files_per_s=10.0)
    )
    assert many_small.seconds == pytest.approx(100, abs=2)
