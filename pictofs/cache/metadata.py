"""What is known of the service's datasets, folders and images, and how fresh that is.

One listing answers every lookup, stat and readdir below it. It is fresh for the ttl; after that it is still
served, while one background flight asks whether anything moved (the dataset's counters and its folders) and
fetches the full listing only then. What this mount changes itself (`adopt`, `forget`, …) shows at once,
is not undone by a listing that was asked for before the change, and is no reason to fetch one (`agreement`).

A dataset with more images than the listing limit is not listed as a whole: its folders are, and the images of
a folder when somebody looks into it (`list_folder`).

Listings are kept on the disk (`listings`, `keeper`). One that was read from there is served like one whose
ttl is over: at once, and behind it the service is asked. What the journal says is removed or moved is applied
to it as to a fetched one.

Lock order: `MetadataCache._lock` is the innermost lock of the drive; nothing is called while it is held.
Questions go to the service outside it, each kind by one thread at a time (`Flights`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Protocol

from pictofs.api.errors import PictographError
from pictofs.api.models import Dataset, Directory, Image
from pictofs.cache.agreement import POSTPONEMENTS, Verdict, compare
from pictofs.cache.datasets import Datasets
from pictofs.cache.flights import Flights, aside
from pictofs.cache.images import ImageRows
from pictofs.cache.keeper import Keeper
from pictofs.cache.known import ALL, NEVER, Fetch, Known, counters_of
from pictofs.cache.listings import Listings, Saved
from pictofs.cache.provisional import is_provisional
from pictofs.cache.tree import Tree, changed_names, differences

log = logging.getLogger(__name__)

SHARED_COUNTERS_S = 1.0
"""One answer about all datasets serves every listing that is revalidated within this time, and within half of
a longer ttl: however many datasets are looked at, they are asked for once in a ttl."""

LISTING_LIMIT = 200_000
"""Images in a dataset beyond which it is listed folder by folder: 20 requests, 100 MB."""

_NOWHERE = "/\0"
"""A folder that no service has, for images of which it is not known where they belong."""


class MetadataSource(Protocol):
    """The questions this cache asks the service. Each call is at least one API request."""

    def datasets(self) -> Sequence[Dataset]: ...
    def contents(self, dataset_id: str) -> tuple[Dataset, Iterable[Image]]:
        """The images may be asked for page by page while they are iterated over."""

    def folder(self, dataset_id: str, path: str) -> Iterable[Image]:
        """The images of one folder, without those below it."""

    def directories(self, dataset_id: str) -> Sequence[Directory]: ...
    def image(self, image_id: str) -> Image: ...


class MetadataCache:
    """Listings and image rows in front of the service.

    Args:
        source: where questions go.
        hasty: the same with little patience, for when there is something to show without an answer.
        ttl_s: seconds that an answer counts as fresh.
        only: names or ids of the datasets to show; empty for all of them.
        hidden: ids of images whose removal is under way: never shown.
        overlay: puts what else is under way for a dataset (by its id) into a tree that was just built, from
            the service's answer or from the disk. Called before anybody sees it, with no lock held; what
            `change` was told from the moment that the service was asked is applied after it, so a change that
            is in both is applied twice. For one folder of a dataset that is listed by folders, the tree holds
            the images of that folder only.
        under_way: the folders of a dataset (by its id) in which what this mount changes may be on the service
            already and not told to this cache, or the other way round. No lock is held.
        may_revalidate: False while the request budget is too low for background questions.
        listings: where listings are kept between mounts; None: nowhere.
        listing_limit: images in a dataset beyond which it is listed folder by folder.
        on_others_changes: told the paths (dataset's name first, none with a leading slash) under which there
            is nothing any more, or something else, after a listing was fetched again. No lock is held.
        clock: monotonic seconds.

    Attributes:
        images: images.get, behind a cache of its own.
    """

    def __init__(
        self,
        source: MetadataSource,
        *,
        hasty: MetadataSource | None = None,
        ttl_s: float,
        only: Collection[str] = (),
        hidden: Callable[[], Collection[str]] = tuple,
        overlay: Callable[[str, Tree], None] = lambda _dataset_id, _tree: None,
        under_way: Callable[[str], Collection[str]] = lambda _dataset_id: (),
        may_revalidate: Callable[[], bool] = lambda: True,
        listings: Listings | None = None,
        listing_limit: int = LISTING_LIMIT,
        on_others_changes: Callable[[Collection[str]], None] = lambda _paths: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._hasty = hasty or source
        self._ttl_s = ttl_s
        self._hidden = hidden
        self._overlay = overlay
        self._under_way = under_way
        self._may_revalidate = may_revalidate
        self._listings = listings
        self._keeper = None if listings is None else Keeper(listings, self._snapshot)
        self._listing_limit = listing_limit
        self._on_others_changes = on_others_changes
        self._clock = clock
        self._lock = threading.RLock()
        self._flights = Flights()
        self._datasets = Datasets(
            source.datasets,
            self._flights,
            ttl_s=ttl_s,
            only=only,
            may_revalidate=may_revalidate,
            listings=listings,
            on_told=self._only_these,
            clock=clock,
        )
        self._known: dict[str, Known] = {}
        self._fetches: list[Fetch] = []
        self.images = ImageRows(source.image, ttl_s=ttl_s, clock=clock)

    @property
    def ttl_s(self) -> float:
        """Seconds that an answer counts as fresh."""
        return self._ttl_s

    def close(self) -> None:
        """Write to the disk what is not there yet."""
        if self._keeper is not None:
            self._keeper.close()

    # Datasets

    def datasets(self) -> dict[str, Dataset]:
        """The datasets by their names on the drive. Raises PictographError when not known and not told."""
        return self._datasets.get()

    def known_datasets(self) -> dict[str, Dataset]:
        """The datasets as last told, however long ago; asked for only if they never were."""
        return self._datasets.known() or self.datasets()

    def ask_datasets(self) -> dict[str, Dataset]:
        """The datasets as they are now. Raises PictographError when not told."""
        return self._datasets.ask()

    def take_datasets(self, datasets: Sequence[Dataset], asked_at: float) -> None:
        """The service's answer to somebody else, who asked at `asked_at`, monotonic seconds."""
        self._datasets.take(datasets, asked_at)

    def forget_datasets(self) -> None:
        """Ask for the datasets again at the next look (one was made, renamed or archived here)."""
        self._datasets.forget()

    def dataset(self, dataset_id: str) -> Dataset | None:
        """A dataset that is shown here, by id."""
        return next((d for d in self.datasets().values() if d.id == dataset_id), None)

    def _only_these(self, dataset_ids: Collection[str]) -> None:
        with self._lock:
            for gone in self._known.keys() - dataset_ids:
                del self._known[gone]

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

    def image_count(self, dataset_id: str) -> int | None:
        """How many images a dataset has, None where it is not known whole; never asks."""
        tree = self.loaded(dataset_id)
        return tree.image_count if tree is not None and tree.is_whole else None

    def known_paths(self, dataset_id: str) -> list[str]:
        """The paths of all that is known of a dataset, relative to it ("" is itself); never asks."""
        tree = self.loaded(dataset_id)
        if tree is None:
            return []
        with self._lock:
            folders = [(place, list(folder.images)) for place, folder in tree.folders()]
        return [
            f"{place}/{name}" if place and name else place or name
            for place, names in folders
            for name in ("", *names)
        ]

    def list_folder(self, dataset_id: str, path: str) -> None:
        """Know the images of a folder, where the tree is not whole.

        Raises:
            PictographError: they are not known and the service did not give them.
        """
        known = self._listing(dataset_id)
        with self._lock:
            folder = known.tree.folder(path)
            is_listed = folder is None or folder.listed
            is_stale = path in known.stale_folders
        if not is_listed:
            self._flights.once((dataset_id, path), lambda: self._fetch_folder(dataset_id, path))
        elif is_stale and self._may_revalidate():
            self._flights.behind(
                (dataset_id, path),
                lambda: self._fetch_folder(dataset_id, path),
                lambda error: self._folder_not_told(dataset_id, path, error),
            )

    def _listing(self, dataset_id: str) -> Known:
        with self._lock:
            known = self._known.get(dataset_id)
        if known is None:
            known = self._flights.once(dataset_id, lambda: self._first_listing(dataset_id))
        for _ in range(2):  # the first may join a flight that began too early
            if not known.is_outdated:
                break
            try:
                known = self._flights.once(dataset_id, lambda: self._fetch_listing(dataset_id))
            except PictographError as error:
                self._not_told(dataset_id, error)
        if self._clock() - known.checked_at >= self._ttl_s and self._may_revalidate():
            self._flights.behind(
                dataset_id,
                lambda: self._revalidate(dataset_id),
                lambda error: self._not_told(dataset_id, error),
            )
        return known

    def _first_listing(self, dataset_id: str) -> Known:
        saved = self._listings.load(dataset_id) if self._listings else None
        if saved is None:
            return self._fetch_listing(dataset_id)
        with self._fetching(dataset_id) as fetch:
            tree = self._built(dataset_id, saved.directories, saved.images, saved.listed)
            known = Known(
                tree,
                saved.dataset,
                frozenset(saved.directories),
                checked_at=NEVER,
                is_exact=saved.is_exact,
                is_outdated=saved.is_outdated,
                stale_folders=set(saved.listed or ()),
            )
            self._install(known, fetch)
        return known

    def _fetch_listing(
        self,
        dataset_id: str,
        directories: Sequence[Directory] | None = None,
        noting: AbstractContextManager[Fetch] | None = None,
    ) -> Known:
        """Ask for a listing and show it; for its folders only beyond the limit.

        Args:
            noting: notes the changes made since before `directories` were asked for.
        """
        shown = self._datasets.find(dataset_id)
        with noting or self._fetching(dataset_id) as fetch:
            asked_at = self._clock()
            if shown is not None and shown.image_count > self._listing_limit:
                known = self._fetch_folders(shown, directories, asked_at)
            else:
                source = self._hasty if self.loaded(dataset_id) else self._source
                told = aside(lambda: source.directories(dataset_id)) if directories is None else None
                dataset, images = source.contents(dataset_id)
                directories = told() if told is not None else directories or ()
                corrected: dict[str, tuple[int, int]] = {}
                images = self._as_known(dataset_id, images, corrected)
                tree = self._built(dataset_id, directories, images, corrected=corrected)
                known = Known(tree, dataset, frozenset(directories), asked_at, {ALL: asked_at})
            self._install(known, fetch)
        if self._keeper is not None:
            self._keeper.fetched(dataset_id)
        return known

    def _fetch_folders(
        self, dataset: Dataset, directories: Sequence[Directory] | None, asked_at: float
    ) -> Known:
        """A dataset with too many images: its folders, with the images of those that were looked into."""
        if directories is None:
            directories = self._source.directories(dataset.id)
        paths = {"/", *(directory.full_path for directory in directories)}
        with self._lock:
            before = self._known.get(dataset.id)
            known = [] if before is None else [folder for _, folder in before.tree.folders()]
            listed = [folder for folder in known if folder.listed and folder.path in paths]
            images = [image for folder in listed for image in folder.images.values()]
            rows_at = {} if before is None else before.rows_at
        stale = {folder.path for folder in listed}
        tree = self._built(dataset.id, directories, images, stale)
        return Known(tree, dataset, frozenset(directories), asked_at, rows_at, stale_folders=stale)

    def _as_known(
        self, dataset_id: str, images: Iterable[Image], corrected: dict[str, tuple[int, int]] | None = None
    ) -> Iterator[Image]:
        """The images of a new listing; those that have not changed as the very objects that are known: for
        a while there are two trees in memory, and what was prepared from an image stays good. Notes for the
        tree which sizes are not the listing's."""
        with self._lock:
            before = self._known.get(dataset_id)
        for image in images:
            known = before.tree.image(image.id) if before else None
            if known is not None and not image.file_size:  # the storage was asked for it once
                image = replace(image, file_size=known.file_size)
                if corrected is not None:
                    corrected[image.id] = (image.file_size, 0)
            yield known if known == image else image

    def _fetch_folder(self, dataset_id: str, path: str) -> None:
        """Ask for the images of one folder, and show them."""
        with self._fetching(dataset_id) as fetch:
            asked_at = self._clock()
            images = list(self._as_known(dataset_id, self._source.folder(dataset_id, path)))
            told = {image.id for image in images}
            with self._lock:
                known = self._known.get(dataset_id)
                folder = known.tree.folder(path) if known else None
                shown = list(folder.images.values()) if folder else []
            # What is shown here and not told may be on its way here: the overlay knows, and brings it back.
            others = [replace(image, directory_path=_NOWHERE) for image in shown if image.id not in told]
            part = self._built(dataset_id, (), [*images, *others])
            with self._lock:
                known = self._known.get(dataset_id)
                folder = known.tree.folder(path) if known else None
                if known is None or folder is None:
                    return
                gone = changed_names(folder, part.folder(path))
                place = next(place for place, f in known.tree.folders() if f is folder)
                known.tree.fill(path, ())
                for image in part.images():
                    if image.directory_path != _NOWHERE:
                        known.tree.add(image)
                known.stale_folders.discard(path)
                known.rows_at[path] = asked_at
                for change in fetch.changes:
                    change(known.tree)
        self._tell(dataset_id, [f"{place}/{name}" if place else name for name in gone])
        if self._keeper is not None:
            self._keeper.fetched(dataset_id)

    def _revalidate(self, dataset_id: str) -> Known:
        with self._lock:
            known = self._known.get(dataset_id)
            touches = known.tree.touches if known else 0
        checked_at = self._datasets.told_at
        age_s = self._clock() - checked_at
        is_shared = age_s <= max(SHARED_COUNTERS_S, self._ttl_s / 2)
        is_older = known is None or checked_at < known.checked_at or checked_at <= known.changed_at
        if is_older or not is_shared:
            self._datasets.ask()
            checked_at = self._datasets.told_at
        dataset = self._datasets.find(dataset_id)
        if known is None or dataset is None or not known.is_exact:
            return self._fetch_listing(dataset_id)
        with self._fetching(dataset_id) as fetch:
            directories = self._source.directories(dataset_id)
            if counters_of(dataset) in known.counters and frozenset(directories) == known.directories:
                with self._lock:
                    known.checked_at = checked_at
                    known.postponed = 0
                return known
            if known.tree.is_whole and self._stands(known, dataset, directories, checked_at, touches):
                return known
            fetched = self._fetch_listing(dataset_id, directories, nullcontext(fetch))
        if counters_of(fetched.dataset) == counters_of(known.dataset):
            # Nothing has moved: the list of datasets counts otherwise than the dataset itself.
            fetched.counters.add(counters_of(dataset))
        return fetched

    def _stands(
        self,
        known: Known,
        dataset: Dataset,
        directories: Sequence[Directory],
        asked_at: float,
        touches: int,
    ) -> bool:
        """Whether a listing that is being changed here stands for what the service says, or may for now.

        Args:
            asked_at, touches: when the service was asked, and how often the tree had been changed by then.
        """
        under_way = set(self._under_way(dataset.id))
        changed_folders: list[str] = []
        with self._lock:
            under_way |= known.tree.touched(since=touches)
            if not (known.has_changes or under_way):
                return False
            verdict = compare(known, dataset, directories, under_way)
            is_same = verdict is Verdict.SAME
            is_late = not is_same and known.postponed >= POSTPONEMENTS
            if verdict is Verdict.OTHERWISE or is_late:
                return False
            known.checked_at = asked_at
            known.postponed = 0 if is_same else known.postponed + 1
            if is_same and known.changed_at < asked_at:
                changed_folders = known.agree(dataset, directories, under_way)
        self._tell(dataset.id, changed_folders)
        if is_same and self._keeper is not None:
            self._keeper.fetched(dataset.id)
        return True

    def _not_told(self, dataset_id: str, error: PictographError) -> None:
        log.warning("The listing could not be refreshed, the last known one is shown: %s", error)
        with self._lock:
            known = self._known.get(dataset_id)
            if known is not None:  # Not again before another ttl has passed.
                known.checked_at = self._clock()
                known.is_exact = known.is_exact and not known.is_outdated
                known.is_outdated = False

    def _folder_not_told(self, dataset_id: str, path: str, error: PictographError) -> None:
        log.warning("The folder %s could not be refreshed, what is known is shown: %s", path, error)
        with self._lock:
            known = self._known.get(dataset_id)
            if known is not None:  # It is stale again after the next ttl.
                known.stale_folders.discard(path)
                known.is_exact = False

    @contextmanager
    def _fetching(self, dataset_id: str) -> Iterator[Fetch]:
        """Note the changes that are made while a listing is on its way."""
        fetch = Fetch(dataset_id)
        with self._lock:
            self._fetches.append(fetch)
        try:
            yield fetch
        finally:
            with self._lock:
                self._fetches.remove(fetch)

    def _built(
        self,
        dataset_id: str,
        directories: Iterable[Directory],
        images: Iterable[Image],
        listed: Iterable[str] | None = None,
        corrected: dict[str, tuple[int, int]] | None = None,
    ) -> Tree:
        """A tree as it is to be shown; see `overlay` in the class."""
        hidden = self._hidden()
        shown = (image for image in images if not image.is_archived and image.id not in hidden)
        tree = Tree(directories, shown, listed, corrected)
        self._overlay(dataset_id, tree)
        return tree

    def _install(self, known: Known, fetch: Fetch) -> None:
        with self._lock:
            for change in fetch.changes:
                change(known.tree)
            known.changed_at = fetch.changed_at
            known.is_outdated = known.is_outdated or fetch.is_outdated
            before = self._known.get(fetch.dataset_id)
            self._known[fetch.dataset_id] = known
        if before is not None:
            self._tell(fetch.dataset_id, differences(before.tree, known.tree))

    def _tell(self, dataset_id: str, places: Iterable[str]) -> None:
        """Say what others have changed, by paths relative to the dataset."""
        names = [name for name, d in (self._datasets.known() or {}).items() if d.id == dataset_id]
        paths = [f"{name}/{place}" for place in places for name in names]
        if paths:
            self._on_others_changes(paths)

    def _snapshot(self, dataset_id: str) -> Saved | None:
        """A listing for the disk."""
        with self._lock:
            known = self._known.get(dataset_id)
            if known is None or known.is_outdated:
                return None
            tree = known.tree
            folders = [folder for _, folder in tree.folders()]
            return Saved(
                known.dataset,
                tree.directories() if known.has_changes else list(known.directories),
                [i for folder in folders for i in folder.images.values() if not is_provisional(i.id)],
                None if tree.is_whole else [folder.path for folder in folders if folder.listed],
                known.is_exact and not known.has_changes,
            )

    def refresh(self, dataset_id: str | None = None) -> None:
        """Ask again at the next look: one dataset's listing, or everything. Without an answer, what is known
        stays."""
        self._datasets.refresh()
        self.images.clear()
        with self._lock:
            for fetch in self._fetches:
                if dataset_id in (None, fetch.dataset_id):
                    fetch.is_outdated = True
            for known_id, known in self._known.items():
                if dataset_id in (None, known_id):
                    known.is_outdated = True

    # What this mount changed itself

    def change(self, dataset_id: str, how: Callable[[Tree], object]) -> None:
        """Change what is known of a dataset, now and in a listing that is being fetched meanwhile."""
        with self._lock:
            for fetch in self._fetches:
                if fetch.dataset_id == dataset_id:
                    fetch.changes.append(how)
                    fetch.changed_at = self._clock()
            known = self._known.get(dataset_id)
            if known is not None:
                how(known.tree)
                known.changed_at = self._clock()
        if self._keeper is not None:
            self._keeper.changed(dataset_id)

    def adopt(self, image: Image) -> None:
        """Show an image that this mount registered or moved."""
        self.change(image.dataset_id, lambda tree: tree.add(image))
        self.images.put(image)

    def forget(self, dataset_id: str, image_id: str) -> None:
        """Show an image no longer."""
        self.change(dataset_id, lambda tree: tree.discard(image_id))
        self.images.drop(image_id)

    def archived(self, dataset_id: str, image_id: str) -> None:
        """The service has archived an image for this mount."""
        self.change(dataset_id, lambda tree: tree.archive(image_id))
        self.images.drop(image_id)

    def restored(self, image: Image) -> None:
        """The service has restored an image for this mount."""
        self.change(image.dataset_id, lambda tree: tree.restore(image))
        self.images.put(image)

    def correct_size(self, image: Image, size_bytes: int) -> None:
        """Put right what the listing said of an image's size, once its bytes were seen."""
        self.change(image.dataset_id, lambda tree: tree.correct(image.id, size_bytes))

    def amend(self, image: Image, how: Callable[[Image], Image]) -> None:
        """Change what is known of an image wherever it is kept; one that is gone meanwhile stays gone."""

        def amend_row(tree: Tree) -> None:
            known = tree.image(image.id)
            if known is not None:
                tree.add(how(known))

        self.change(image.dataset_id, amend_row)
        self.images.amend(image.id, how)

    # Rows of images: status, split, tags and label count (see cache/rows)

    def has_fresh_rows(self, dataset_id: str, path: str) -> bool:
        """Whether the rows of a folder were fetched within the ttl; never asks."""
        with self._lock:
            known = self._known.get(dataset_id)
            if known is None:
                return False
            rows_at = known.rows_at.get(ALL if known.tree.is_whole else path, NEVER)
            return self._clock() - rows_at < self._ttl_s

    def reload(self, dataset_id: str, path: str) -> None:
        """Fetch the listing with a folder's rows anew, unless they are fresh. Raises PictographError."""
        # The first flight may be somebody's revalidation, which fetches rows only when counters moved.
        for _ in range(2):
            if self.has_fresh_rows(dataset_id, path):
                return
            tree = self.loaded(dataset_id)
            if tree is not None and not tree.is_whole:
                self._flights.once((dataset_id, path), lambda: self._fetch_folder(dataset_id, path))
            else:
                self._flights.once(dataset_id, lambda: self._fetch_listing(dataset_id))
