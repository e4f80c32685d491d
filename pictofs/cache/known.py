"""What is known of one dataset, and what was noted while more was on its way. Guarded by `MetadataCache`."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
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
        changed_at: when it was last changed here; NEVER since the service has told the same.
        postponed: how many checks in a row found a difference that was put down to what is under way.
        stale_folders: listed by themselves, to be asked for again when somebody looks into them.
    """

    tree: Tree
    dataset: Dataset
    directories: frozenset[Directory]
    checked_at: float
    rows_at: dict[str, float] = field(default_factory=dict)
    is_exact: bool = True
    is_outdated: bool = False
    changed_at: float = NEVER
    postponed: int = 0
    stale_folders: set[str] = field(default_factory=set)
    counters: set[tuple[object, ...]] = field(init=False)

    def __post_init__(self) -> None:
        self.counters = {counters_of(self.dataset)}

    @property
    def has_changes(self) -> bool:
        """Whether it was changed here since the service has told the same."""
        return self.changed_at > NEVER

    def agree(
        self, dataset: Dataset, directories: Collection[Directory], under_way: Iterable[str]
    ) -> list[str]:
        """The service told the same as the tree, in which nothing was changed since it was asked.

        Args:
            under_way: paths of folders in which more is about to change.

        Returns the paths on the drive of the folders that look otherwise now.
        """
        self.dataset, self.directories = dataset, frozenset(directories)
        self.counters = {counters_of(dataset)}
        self.changed_at = NEVER
        self.tree.forget_changes(under_way)
        return self.tree.take_rows(directories)


@dataclass(eq=False)
class Fetch:
    """A listing being fetched: what changed here meanwhile, and whether it is old before it is there."""

    dataset_id: str
    changes: list[Callable[[Tree], object]] = field(default_factory=list)
    changed_at: float = NEVER
    is_outdated: bool = False


def counters_of(dataset: Dataset) -> tuple[object, ...]:
    """What moves when an image of the dataset comes, goes or is archived."""
    return dataset.image_count, dataset.archived_image_count, dataset.total_size, dataset.updated_at
