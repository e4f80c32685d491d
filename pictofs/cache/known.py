"""What is known of one dataset, and what was noted while more was on its way. Guarded by `MetadataCache`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from pictofs.api.models import Dataset, Directory
from pictofs.cache.tree import Tree

NEVER = -math.inf
ALL = ""
"""In `Known.rows_at`: all folders, fetched as one listing."""


@dataclass
class Known:
    """A dataset's listing.

    Attributes:
        dataset, directories: the rows, with their counters, that the tree stands for.
        checked_at: when it was last known to be true, monotonic seconds.
        rows_at: when its rows were fetched: their status, split and tags change without the counters. By
            folder, where it is listed by folders; "" for the whole.
        is_exact: whether equal counters mean that the tree is still true.
        is_outdated: to be asked for again before it is shown; shown all the same when there is no answer.
        counters: those that the tree stands for; several where the service's routes count otherwise.
        has_changes: changed here since it was fetched.
        stale_folders: listed by themselves, to be asked for again when somebody looks into them.
    """

    tree: Tree
    dataset: Dataset
    directories: frozenset[Directory]
    checked_at: float
    rows_at: dict[str, float] = field(default_factory=dict)
    is_exact: bool = True
    is_outdated: bool = False
    has_changes: bool = False
    stale_folders: set[str] = field(default_factory=set)
    counters: set[tuple[object, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.counters = {counters_of(self.dataset)}


@dataclass(eq=False)
class Fetch:
    """A listing being fetched: what changed here meanwhile, and whether it is old before it is there."""

    dataset_id: str
    changes: list[Callable[[Tree], None]] = field(default_factory=list)
    is_outdated: bool = False


def counters_of(dataset: Dataset) -> tuple[object, ...]:
    """What moves when an image of the dataset comes, goes or is archived."""
    return dataset.image_count, dataset.archived_image_count, dataset.total_size, dataset.updated_at
