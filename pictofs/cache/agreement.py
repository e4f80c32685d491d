"""Whether what the service counts in a dataset is what this mount has made of it.

In a dataset whose counters and folders are strictly those that were remembered, nothing has moved. Where
this mount has changed it since, they have, and its own tree tells what they should be now: so many images and
bytes, so many archived, these folders with so many images each. A folder in which nothing was changed from
here, nor in one below it, must still be strictly the same. Only what this mount has under way excuses a
difference, and not for long: see `POSTPONEMENTS`.

What this cannot tell, until the next listing: in a folder that was changed from here, an image that another
client has deleted for good, or moved, and put another of exactly as many bytes in its place.

Pure; `MetadataCache` guards what is compared.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable

from pictofs import namespace
from pictofs.api.models import Dataset, Directory
from pictofs.cache.known import Known
from pictofs.cache.tree import by_path

POSTPONEMENTS = 4
"""How often in a row a difference is put down to what this mount has under way. At the next check the listing
is fetched all the same: what others change meanwhile shows within five ttls."""


class Verdict(enum.Enum):
    """What a comparison came to."""

    SAME = enum.auto()
    UNDER_WAY = enum.auto()  # it differs, perhaps only by what this mount has under way
    OTHERWISE = enum.auto()


def compare(
    known: Known,
    dataset: Dataset,
    directories: Iterable[Directory],
    under_way: Collection[str],
) -> Verdict:
    """Compare a listing that was changed here with what the service says.

    Args:
        known: a whole listing.
        dataset, directories: the service's answers.
        under_way: paths of the folders of which the answers may or may not count what this mount has changed
            since they were asked for, or is changing.
    """
    tree = known.tree
    told, before = by_path(directories), by_path(known.directories)
    ours = _with_parents({*tree.touched(), *under_way})
    if any(told.get(path) != before.get(path) for path in {*told, *before} - ours):
        return Verdict.OTHERWISE
    folders = {folder.path: len(folder.images) for place, folder in tree.folders() if place}
    counts = {path: row.image_count for path, row in told.items()}
    differ = {path for path in {*folders, *counts} if folders.get(path) != counts.get(path)}
    totals = dataset.image_count, dataset.total_size, dataset.archived_image_count
    expected = tree.image_count, tree.listed_bytes, known.dataset.archived_image_count + tree.archived
    if not differ and totals == expected:
        return Verdict.SAME
    is_excused = bool(under_way) and differ <= _with_parents(under_way)
    return Verdict.UNDER_WAY if is_excused else Verdict.OTHERWISE


def _with_parents(paths: Iterable[str]) -> set[str]:
    """Folders, and those that they are in: which come with them, and are touched by what is below."""
    found: set[str] = set()
    for path in paths:
        while path not in found:
            found.add(path)
            path = namespace.parent(path)
    return found
