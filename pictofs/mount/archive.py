"""What is archived on the service: listing it, bringing it back, and deleting images for good.

Removing on the drive archives, so this is its undo. Paths are relative to the mount's root and mean what was
there; several archived images of one place are told apart as the drive tells names apart, by a part of their
id. Whoever asks waits for the service.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Protocol

from pictofs import imagefile, namespace
from pictofs.api.errors import ConflictError
from pictofs.api.models import BatchResult, Dataset, Image
from pictofs.cache.metadata import MetadataCache
from pictofs.fs.rules import Policy
from pictofs.fs.view import ImageNode, View
from pictofs.mount.problems import MountError

MAX_ROWS = 50_000
"""What fits into one answer of the control socket with room to spare."""

SINGLE_LOOKUPS = 3
"""So many images are looked up by name, one request each; for more, all of the dataset is listed."""

BATCH_IDS = 10_000
"""The service's bound for one batch request."""


class ArchiveSource(Protocol):
    """The service's routes for it. Raises api.errors."""

    def dataset(self, dataset_id: str) -> Dataset: ...
    def archived_datasets(self) -> Sequence[Dataset]: ...
    def archived_images(
        self, dataset_id: str, folder: str | None = None, filename: str | None = None
    ) -> Iterator[Image]:
        """Newest first; one request for each thousand images that the dataset has, archived or not."""
        ...

    def restore(self, dataset_id: str, image_ids: Sequence[str]) -> BatchResult: ...
    def unarchive_dataset(self, dataset_id: str) -> Dataset: ...
    def delete_permanently(self, dataset_id: str, image_id: str) -> BatchResult: ...


@dataclass(frozen=True, slots=True)
class ArchivedRow:
    """Something archived. `kind` is "image" or "dataset"; `path` is what `restore` takes."""

    path: str
    kind: str
    id: str
    size_bytes: int
    created_s: float | None

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)


@dataclass
class Outcome:
    """What became of a wish to restore: paths, and (path, reason) of what was refused."""

    restored: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        refused = [{"path": path, "reason": reason} for path, reason in self.refused]
        return {"restored": self.restored, "refused": refused}


class ArchiveDesk:
    """See the module.

    Args:
        settle: waits until what was changed here in a dataset has been told to the service; whether it has.
        gone: told of an image (dataset id, image id) that exists no longer.
    """

    def __init__(
        self,
        source: ArchiveSource,
        metadata: MetadataCache,
        view: View,
        policy: Policy,
        *,
        settle: Callable[[str], bool],
        gone: Callable[[str, str], None],
    ) -> None:
        self._source = source
        self._metadata = metadata
        self._view = view
        self._policy = policy
        self._settle = settle
        self._gone = gone

    def rows(self, path: str) -> list[ArchivedRow]:
        """What is archived at `path` and below; with the root, archived datasets too.

        Raises:
            MountError, PictographError.
        """
        name, _, _ = path.partition("/")
        live = self._metadata.datasets()
        rows: list[ArchivedRow] = []
        if not path or name not in live:
            rows = [_dataset_row(place, d) for place, d in self._archived_datasets() if name in ("", place)]
            if path and not rows:
                raise MountError(f"there is no dataset {name}, archived or not.")
        for local, dataset in live.items():
            if name in ("", local):
                images = self._images(local, dataset, [path] if "/" in path else [])
                rows += [_image_row(place, i) for place, i in _at_or_below(path, images)]
        return rows[:MAX_ROWS]

    def restore(self, paths: Sequence[str]) -> Outcome:
        """Bring back what was archived at these paths and below them; of several in one place, the newest.

        Raises:
            MountError, PictographError, OSError (EROFS).
        """
        self._policy.check_change(paths[0])
        outcome = Outcome()
        live = self._metadata.datasets()
        by_dataset: dict[str, list[str]] = {}
        for path in paths:
            by_dataset.setdefault(path.partition("/")[0], []).append(path)
        for name, wanted in by_dataset.items():
            if name in live:
                self._restore_images(name, live[name], wanted, outcome)
            else:
                self._restore_dataset(name, wanted, outcome)
        self._view.changed()
        return outcome

    def remove_permanently(self, path: str) -> None:
        """Delete an uploaded image for good.

        Raises:
            MountError, PictographError, OSError (ENOENT, EROFS).
        """
        self._policy.check_change(path)
        node = self._view.resolve("/" + path)
        if not isinstance(node, ImageNode):
            raise MountError(f"{path} is not an uploaded image; only those can be deleted for good.")
        self._policy.check_change(path, node.dataset)
        # It may be waiting to be copied, or be a copy that is not there yet.
        if not self._settle(node.dataset.id):
            raise MountError(f"{path} was not deleted: what was changed before is not on the service yet.")
        node = self._view.resolve("/" + path)
        if not isinstance(node, ImageNode):
            raise MountError(f"{path} is not an uploaded image any more.")
        result = self._source.delete_permanently(node.dataset.id, node.image.id)
        if result.failed:
            raise MountError(f"{path} was not deleted: {result.failed[0].reason}.")
        self._gone(node.dataset.id, node.image.id)

    # Images

    def _restore_images(self, name: str, dataset: Dataset, wanted: list[str], outcome: Outcome) -> None:
        self._policy.check_change(name, dataset)
        images = self._images(name, dataset, wanted)
        chosen: dict[str, tuple[str, Image]] = {}
        places: set[str] = set()
        for path in wanted:
            meant = _at_or_below(path, images)
            if not meant:
                outcome.refused.append((path, "nothing of this name is archived"))
            for place, image in meant:
                plain = _place(name, image)
                if plain in places:
                    continue  # asked for twice, or an older one of the same name
                places.add(plain)
                if self._is_taken(plain):
                    outcome.refused.append((place, "another file has this name now; rename that one first"))
                else:
                    chosen[image.id] = (plain, image)
        ids = list(chosen)
        for start in range(0, len(ids), BATCH_IDS):
            batch = ids[start : start + BATCH_IDS]
            reasons = {f.id: f.reason for f in self._source.restore(dataset.id, batch).failed}
            for image_id in batch:
                place, image = chosen[image_id]
                if image_id in reasons:
                    outcome.refused.append((place, reasons[image_id].rstrip(".")))
                else:
                    self._metadata.restored(replace(image, is_archived=False))
                    outcome.restored.append(place)

    def _images(self, name: str, dataset: Dataset, paths: list[str]) -> list[tuple[str, Image]]:
        """Archived images with their paths, newest first: those of a few files, else all of the dataset."""
        if not self._settle(dataset.id):
            raise MountError(
                f"what was removed from {name} a moment ago is not on the service yet; try again when "
                "`pictofs status` says so."
            )
        if 0 < len(paths) <= SINGLE_LOOKUPS and all(_looks_like_a_file(path) for path in paths):
            found = [self._at(name, dataset, path) for path in paths]
            if all(found):
                return [item for some in found for item in some]
        expected = self._source.dataset(dataset.id).archived_image_count
        images: list[Image] = []
        if expected:
            for image in self._source.archived_images(dataset.id):
                images.append(image)
                if len(images) == expected:
                    break  # what follows is not archived
        return _told_apart(name, images)

    def _at(self, name: str, dataset: Dataset, path: str) -> list[tuple[str, Image]]:
        """Archived images that had a path: one request."""
        *folders, filename = path.split("/")[1:]
        folder = namespace.join([namespace.to_server(part) for part in folders])
        images = self._source.archived_images(dataset.id, folder, namespace.to_server(filename))
        return _told_apart(name, list(images))

    def _is_taken(self, place: str) -> bool:
        try:
            self._view.resolve("/" + place)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    # Datasets

    def _archived_datasets(self) -> list[tuple[str, Dataset]]:
        found = []
        taken: set[str] = set()
        for dataset in self._source.archived_datasets():
            name = namespace.to_local(dataset.name)
            if name in taken or not namespace.fits(name):
                name = namespace.with_id(name, dataset.id)
            taken.add(name)
            found.append((name, dataset))
        return found

    def _restore_dataset(self, name: str, wanted: list[str], outcome: Outcome) -> None:
        dataset = dict(self._archived_datasets()).get(name)
        for path in wanted:
            if dataset is None:
                outcome.refused.append((path, f"there is no dataset {name}, archived or not"))
            elif path != name:
                outcome.refused.append((path, f"its dataset is archived; restore {name} first"))
            else:
                try:
                    self._source.unarchive_dataset(dataset.id)
                except ConflictError as error:
                    outcome.refused.append((path, error.message.rstrip(".")))
                else:
                    outcome.restored.append(path)
                    self._metadata.forget_datasets()


def _told_apart(dataset_name: str, images: list[Image]) -> list[tuple[str, Image]]:
    """Each image with its path; the second and later ones of a place carry a part of their id."""
    taken: set[str] = set()
    found = []
    for image in sorted(images, key=lambda i: i.created_at.timestamp() if i.created_at else 0, reverse=True):
        place = _place(dataset_name, image)
        if place in taken:
            folder, _, filename = place.rpartition("/")
            place = f"{folder}/{namespace.with_id(filename, image.id)}"
        taken.add(place)
        found.append((place, image))
    return found


def _place(dataset_name: str, image: Image) -> str:
    """An image's path below the mount's root."""
    parts = [*namespace.components(image.directory_path), image.filename]
    return "/".join([dataset_name, *(namespace.to_local(part) for part in parts)])


def _at_or_below(path: str, images: list[tuple[str, Image]]) -> list[tuple[str, Image]]:
    """Those that are called `path`, were at it, or below it."""
    name = path.partition("/")[0]

    def is_meant(place: str, image: Image) -> bool:
        return place == path or namespace.is_within("/" + _place(name, image), "/" + path)

    return [item for item in images if not path or is_meant(*item)]


def _looks_like_a_file(path: str) -> bool:
    return "/" in path and PurePosixPath(path).suffix.lower() in imagefile.EXTENSIONS


def _image_row(place: str, image: Image) -> ArchivedRow:
    created_s = image.created_at.timestamp() if image.created_at else None
    return ArchivedRow(place, "image", image.id, image.file_size, created_s)


def _dataset_row(place: str, dataset: Dataset) -> ArchivedRow:
    created_s = dataset.created_at.timestamp() if dataset.created_at else None
    return ArchivedRow(place, "dataset", dataset.id, dataset.total_size, created_s)
