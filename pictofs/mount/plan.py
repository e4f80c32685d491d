"""What a copy or a removal would cost on the service, before anybody does it: plain arithmetic.

Requests are given as a range, since how many files share one depends on how fast the program hands them
over. The rules behind it: a wave of uploads takes two requests for up to WAVE_ROWS files of a dataset
(transfer/sender) and makes their folders, unless those have been waiting for them for long; an empty folder
takes one, a dataset four with the look at it. Removals go as one request for up to 10,000 images of a
dataset, or for what came within two seconds (transfer/changes), and one for each folder.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pictofs.transfer.batching import BATCH_IDS
from pictofs.transfer.sender import WAVE_BYTES, WAVE_ROWS, WAVE_S

LATE_WAVES = 2
"""A burst that stutters is sent in up to so many more waves than its size needs."""

ASSUMED_BYTES_PER_S = 2 * 1024 * 1024
ASSUMED_FILES_PER_S = 20.0
"""A home line, and eight files side by side that take 0.4 s each, while the mount has not measured any."""

REQUEST_S = 0.2
"""An API request, there and back."""

LATE_BATCHES = 5
REMOVALS_IN_TIME = 2_000
"""Removals that stutter go in up to so many more batches; a slow rm hands over so many in time for one."""

DATASET_REQUESTS = 4
"""Made, listed among the others, and looked into: its images and its folders."""


@dataclass(frozen=True, slots=True)
class Traits:
    """What a running mount says of itself for a plan. `bytes_per_s` and `files_per_s` are None as long as
    nothing was uploaded."""

    read_only: bool
    overwrite: bool
    frozen: tuple[str, ...]
    bytes_per_s: float | None
    files_per_s: float | None

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Traits:
        return cls(**{**data, "frozen": tuple(data["frozen"])})


@dataclass
class Tree:
    """What is to be copied or removed, as it was found.

    Attributes:
        files, size_bytes: by dataset; what is refused or held is not in it.
        folders: how many have to be made or removed.
        empty_folders: those to be made into which, and below which, nothing is uploaded.
        datasets: how many have to be made or removed.
        replaced: images that make room for new ones (`-o overwrite`).
        reads_drive: what is copied comes from the drive itself.
        held, refused: path and reason.
    """

    files: dict[str, int] = field(default_factory=dict)
    size_bytes: dict[str, int] = field(default_factory=dict)
    folders: int = 0
    empty_folders: int = 0
    datasets: int = 0
    replaced: int = 0
    reads_drive: bool = False
    held: list[tuple[str, str]] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def add(self, dataset: str, size_bytes: int) -> None:
        """One more file."""
        self.files[dataset] = self.files.get(dataset, 0) + 1
        self.size_bytes[dataset] = self.size_bytes.get(dataset, 0) + size_bytes


@dataclass(frozen=True, slots=True)
class Cost:
    """What it takes. Requests of the API, at least and at most."""

    requests_min: int
    requests_max: int
    seconds: float
    assumption: str
    """What the time rests on, in words."""


def cost_of_copy(tree: Tree, traits: Traits) -> Cost:
    """Copying a tree in and having it all on the service."""
    bytes_per_s, files_per_s = float(ASSUMED_BYTES_PER_S), ASSUMED_FILES_PER_S
    assumption = f"assumed: {ASSUMED_BYTES_PER_S >> 20} MiB/s, as this mount has not uploaded anything yet"
    if traits.bytes_per_s is not None and traits.files_per_s is not None:
        bytes_per_s, files_per_s = max(traits.bytes_per_s, 1.0), max(traits.files_per_s, 0.001)
        assumption = "at the speed that this mount has had so far"
    low = tree.empty_folders + DATASET_REQUESTS * tree.datasets
    high = tree.folders + DATASET_REQUESTS * tree.datasets
    for dataset, count in tree.files.items():
        size_bytes = tree.size_bytes[dataset]
        fewest = max(
            math.ceil(count / WAVE_ROWS), math.ceil(size_bytes / max(WAVE_BYTES, WAVE_S * bytes_per_s))
        )
        late = LATE_WAVES if count > 1 else 0
        most = max(fewest, math.ceil(size_bytes / WAVE_BYTES)) + late
        low += 2 * fewest
        high += 2 * most + (most if tree.replaced else 0)
    low += 1 if tree.replaced else 0
    high += len(tree.files) if tree.reads_drive else 0  # signed links to what is not in the cache
    files, size_bytes = sum(tree.files.values()), sum(tree.size_bytes.values())
    seconds = max(size_bytes / bytes_per_s, files / files_per_s) + REQUEST_S * low
    return Cost(low, high, seconds, assumption)


def cost_of_removal(tree: Tree) -> Cost:
    """Removing a tree and having it all archived."""
    low = high = tree.folders + tree.datasets
    for count in tree.files.values():
        fewest = math.ceil(count / BATCH_IDS)
        low += fewest
        high += fewest if count == 1 else max(fewest, math.ceil(count / REMOVALS_IN_TIME)) + LATE_BATCHES
    return Cost(low, high, REQUEST_S * low, f"assumed: {REQUEST_S:g} s for a request")
