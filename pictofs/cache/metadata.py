"""What is known of the service's datasets, folders and images, and how fresh that is.

One listing answers every lookup, stat and readdir below it. It is fresh for the ttl; after that it is still
served, while one background flight asks whether anything moved (the dataset's counters and its folders) and
fetches the full listing only then. What this mount changes itself (`adopt`, `forget`, …) shows at once,
and is not undone by a listing that was asked for before the change.

Lock order: `MetadataCache._lock` is the innermost lock of the drive; nothing is called while it is held.
Questions go to the service outside it, each kind by one thread at a time (`_Flight`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from cachetools import TTLCache

from pictofs import namespace
from pictofs.api.budget import Reason, because
from pictofs.api.errors import PictographError
from pictofs.api.models import Dataset, Directory, Image
from pictofs.cache.tree import Tree

log = logging.getLogger(__name__)

IMAGE_CACHE_ENTRIES = 10_000
"""How many answers of images.get are kept: what one file manager window may show, a few MB."""

SHARED_COUNTERS_S = 1.0
"""One answer about all datasets serves every listing that is revalidated within this time."""

_Answer = TypeVar("_Answer")


class MetadataSource(Protocol):
    """The questions this cache asks the service. Each call is at least one API request."""

    def datasets(self) -> Sequence[Dataset]: ...
    def contents(self, dataset_id: str) -> tuple[Dataset, Sequence[Image]]: ...
    def directories(self, dataset_id: str) -> Sequence[Directory]: ...
    def image(self, image_id: str) -> Image: ...


@dataclass
class _Known:
    """A dataset's listing; `checked_at` is when it was last known to be true, `rows_at` when its rows were
    fetched (their status, split and tags change without the counters), monotonic seconds."""

    tree: Tree
    dataset: Dataset
    directories: frozenset[Directory]
    checked_at: float
    rows_at: float = -math.inf


@dataclass
class _Flight:
    """A question under way. Followers wait on `done` and share the outcome."""

    done: threading.Event = field(default_factory=threading.Event)
    answer: object = None
    error: BaseException | None = None


class MetadataCache:
    """Listings and image rows in front of the service.

    Args:
        source: where questions go.
        ttl_s: seconds that an answer counts as fresh.
        only: names or ids of the datasets to show; empty for all of them.
        hidden: ids of images whose removal is under way: never shown.
        may_revalidate: False while the request budget is too low for background questions.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        source: MetadataSource,
        *,
        ttl_s: float,
        only: Collection[str] = (),
        hidden: Callable[[], Collection[str]] = tuple,
        may_revalidate: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._ttl_s = ttl_s
        self._only = frozenset(only)
        self._hidden = hidden
        self._may_revalidate = may_revalidate
        self._clock = clock
        self._lock = threading.RLock()
        self._flights: dict[object, _Flight] = {}
        self._datasets: dict[str, Dataset] | None = None  # by local name
        self._datasets_at = 0.0
        self._known: dict[str, _Known] = {}
        self._changes: dict[str, list[Callable[[Tree], None]]] = {}  # dataset id → while being fetched
        self._images: TTLCache[str, Image] = TTLCache(IMAGE_CACHE_ENTRIES, ttl_s, timer=clock)
        self._amendments = 0  # so that an answer from before one is not kept

    @property
    def ttl_s(self) -> float:
        """Seconds that an answer counts as fresh."""
        return self._ttl_s

    # Datasets

    def datasets(self) -> dict[str, Dataset]:
        """The datasets by their names on the drive. Raises PictographError when not known and not told."""
        with self._lock:
            known = self._datasets
            age_s = self._clock() - self._datasets_at
        if known is None:
            return self._once("datasets", self._fetch_datasets)
        if age_s >= self._ttl_s:
            self._behind("datasets", self._fetch_datasets)
        return known

    def dataset(self, dataset_id: str) -> Dataset | None:
        """A dataset that is shown here, by id."""
        return next((d for d in self.datasets().values() if d.id == dataset_id), None)

    def _fetch_datasets(self) -> dict[str, Dataset]:
        rows = [d for d in self._source.datasets() if not self._only or {d.name, d.id} & self._only]
        by_name: dict[str, Dataset] = {}
        for dataset in sorted(rows, key=lambda d: (namespace.to_local(d.name) != d.name, d.id)):
            name = namespace.to_local(dataset.name)
            if not namespace.fits(name) or name in by_name:
                name = namespace.with_id(name, dataset.id)
            by_name[name] = dataset
        with self._lock:
            self._datasets, self._datasets_at = by_name, self._clock()
            for gone in self._known.keys() - {d.id for d in rows}:
                del self._known[gone]
        return by_name

    def forget_datasets(self) -> None:
        """Ask for the datasets again at the next look (one was made, renamed or archived here)."""
        with self._lock:
            self._datasets = None

    # Listings

    @contextmanager
    def reading(self, dataset_id: str) -> Iterator[Tree]:
        """The dataset's tree, held still while it is read. Keep it short: no waiting inside.

        Raises:
            PictographError: the listing is not known and the service did not give it.
        """
        known = self._listing(dataset_id)
        with self._lock:
            yield known.tree

    def loaded(self, dataset_id: str) -> Tree | None:
        """The dataset's tree if it is known already; never asks."""
        with self._lock:
            known = self._known.get(dataset_id)
            return known.tree if known else None

    def _listing(self, dataset_id: str) -> _Known:
        with self._lock:
            known = self._known.get(dataset_id)
        if known is None:
            return self._once(dataset_id, lambda: self._fetch_listing(dataset_id))
        if self._clock() - known.checked_at >= self._ttl_s:
            self._behind(dataset_id, lambda: self._revalidate(dataset_id))
        return known

    def _fetch_listing(self, dataset_id: str, directories: Sequence[Directory] | None = None) -> _Known:
        with self._lock:
            changes: list[Callable[[Tree], None]] = []
            self._changes[dataset_id] = changes
        try:
            asked_at = self._clock()
            dataset, images = self._source.contents(dataset_id)
            if directories is None:
                directories = self._source.directories(dataset_id)
            hidden = self._hidden()
            tree = Tree(directories, (i for i in images if not i.is_archived and i.id not in hidden))
            known = _Known(tree, dataset, frozenset(directories), asked_at, rows_at=asked_at)
            with self._lock:
                for change in changes:
                    change(tree)
                self._known[dataset_id] = known
            return known
        finally:
            with self._lock:
                del self._changes[dataset_id]

    def _revalidate(self, dataset_id: str) -> _Known:
        asked_at = self._clock()
        with self._lock:
            known = self._known.get(dataset_id)
            counters_age_s = asked_at - self._datasets_at
        if counters_age_s > SHARED_COUNTERS_S:
            self._once("datasets", self._fetch_datasets)
        dataset = self.dataset(dataset_id)
        if known is None or dataset is None:
            return self._fetch_listing(dataset_id)
        directories = self._source.directories(dataset_id)
        if _counters(dataset) == _counters(known.dataset) and frozenset(directories) == known.directories:
            with self._lock:
                known.checked_at = asked_at
            return known
        return self._fetch_listing(dataset_id, directories)

    def refresh(self, dataset_id: str | None = None) -> None:
        """Ask again at the next look: one dataset's listing, or everything."""
        with self._lock:
            self._datasets = None
            self._images.clear()
            for gone in [dataset_id] if dataset_id else list(self._known):
                self._known.pop(gone, None)

    # What this mount changed itself

    def change(self, dataset_id: str, how: Callable[[Tree], None]) -> None:
        """Change what is known of a dataset, now and in a listing that is being fetched meanwhile."""
        with self._lock:
            if dataset_id in self._changes:
                self._changes[dataset_id].append(how)
            known = self._known.get(dataset_id)
            if known is not None:
                how(known.tree)

    def adopt(self, image: Image) -> None:
        """Show an image that this mount registered, moved or restored."""

        def add(tree: Tree) -> None:
            tree.add(image)

        self.change(image.dataset_id, add)
        with self._lock:
            self._images[image.id] = image

    def forget(self, dataset_id: str, image_id: str) -> None:
        """Show an image no longer."""

        def discard(tree: Tree) -> None:
            tree.discard(image_id)

        self.change(dataset_id, discard)
        with self._lock:
            self._images.pop(image_id, None)

    def correct_size(self, image: Image, size_bytes: int) -> None:
        """Put right what the listing said of an image's size, once its bytes were seen."""

        def resize(tree: Tree) -> None:
            known = tree.image(image.id)
            if known is not None:
                tree.add(replace(known, file_size=size_bytes))

        self.change(image.dataset_id, resize)

    def amend(self, image: Image, how: Callable[[Image], Image]) -> None:
        """Change what is known of an image wherever it is kept; one that is gone meanwhile stays gone."""

        def amend_row(tree: Tree) -> None:
            known = tree.image(image.id)
            if known is not None:
                tree.add(how(known))

        self.change(image.dataset_id, amend_row)
        with self._lock:
            self._amendments += 1
            cached = self._images.get(image.id)
            if cached is not None:
                self._images[image.id] = how(cached)

    # Rows of images: status, split, tags and label count (see cache/rows)

    def has_fresh_rows(self, dataset_id: str) -> bool:
        """Whether the rows of a dataset's listing were fetched within the ttl; never asks."""
        with self._lock:
            known = self._known.get(dataset_id)
            return known is not None and self._clock() - known.rows_at < self._ttl_s

    def cached_image(self, image_id: str) -> Image | None:
        """What images.get answered within the ttl; never asks."""
        with self._lock:
            cached: Image | None = self._images.get(image_id)
            return cached

    def reload(self, dataset_id: str) -> None:
        """Fetch a dataset's listing anew, unless its rows are fresh. Raises PictographError."""
        # The first flight may be somebody's revalidation, which fetches rows only when counters moved.
        for _ in range(2):
            if not self.has_fresh_rows(dataset_id):
                self._once(dataset_id, lambda: self._fetch_listing(dataset_id))

    def image(self, image_id: str) -> Image:
        """`images.get` behind a TTL cache: the row with status, split, tags and label count.

        Raises:
            PictographError: as the service answered; NotFoundError when there is no such image.
        """
        cached = self.cached_image(image_id)
        if cached is not None:
            return cached

        def fetch() -> Image:
            with self._lock:
                before = self._amendments
            image = self._source.image(image_id)
            with self._lock:
                if self._amendments == before:
                    self._images[image_id] = image
            return image

        return self._once(("image", image_id), fetch)

    # One flight per question

    def _once(self, question: object, ask: Callable[[], _Answer]) -> _Answer:
        """Ask, or wait for whoever is asking the same already and share the outcome."""
        with self._lock:
            flight = self._flights.get(question)
            leads = flight is None
            if flight is None:
                flight = self._flights[question] = _Flight()
        if not leads:
            # Bounded by the request timeouts of whoever leads.
            flight.done.wait()
            if flight.error is not None:
                raise flight.error
            return flight.answer  # type: ignore[return-value]
        return self._fly(question, flight, ask)

    def _behind(self, question: object, ask: Callable[[], object]) -> None:
        """Ask in the background, unless somebody does already. What is known is served meanwhile."""
        if not self._may_revalidate():
            return
        with self._lock:
            if question in self._flights:
                return
            flight = self._flights[question] = _Flight()

        def run() -> None:
            try:
                with because(Reason.REFRESHING):
                    self._fly(question, flight, ask)
            except PictographError as error:
                log.warning("The listing could not be refreshed, the last known one is shown: %s", error)
                with self._lock:  # Not again before another ttl has passed.
                    if question == "datasets":
                        self._datasets_at = self._clock()
                    elif isinstance(question, str) and question in self._known:
                        self._known[question].checked_at = self._clock()

        threading.Thread(target=run, name="metadata-refresh", daemon=True).start()

    def _fly(self, question: object, flight: _Flight, ask: Callable[[], _Answer]) -> _Answer:
        try:
            answer = ask()
        except BaseException as error:
            flight.error = error
            raise
        else:
            flight.answer = answer
            return answer
        finally:
            with self._lock:
                del self._flights[question]
            flight.done.set()


def _counters(dataset: Dataset) -> tuple[object, ...]:
    """What moves when an image of the dataset comes, goes or is archived."""
    return dataset.image_count, dataset.archived_image_count, dataset.total_size, dataset.updated_at
