"""One dataset's folders and images by the names they have on the drive.

Built from one listing, then changed in place as images land, move or go. What was changed since, and what
the service counts once it has all of that as well, is kept up with each change: see `agreement`. Not
thread-safe by itself: the `MetadataCache` that owns a tree guards it.

Which name an image gets is decided here, and does not depend on the order of the listing: a name that needs
no encoding is kept before one that does, the older image before the younger; whoever comes later carries a
part of its id (`namespace.with_id`). A folder always keeps its plain name before an image.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone

from pictofs import namespace
from pictofs.api.models import Directory, Image

_EPOCH = datetime.fromtimestamp(0, timezone.utc)


class Folder:
    """A folder: its sub-folders and images by local name. `path` is the service's (`/`, `/a/b`)."""

    __slots__ = ("directory", "images", "listed", "path", "subfolders", "version")

    def __init__(self, path: str, *, listed: bool) -> None:
        self.path = path
        self.directory: Directory | None = None
        self.subfolders: dict[str, Folder] = {}
        self.images: dict[str, Image] = {}
        self.listed = listed
        """Whether `images` is all there is; False for a folder of a tree that is listed folder by folder
        until its turn comes."""
        self.version = 0
        """Counts changes, so that a prepared listing of the folder can be reused while it stands still."""


class Tree:
    """The folders and images of one dataset.

    Args:
        directories: its folders.
        images: its images, better without URLs (`Image.without_urls`), which take as much memory as the rest.
        listed: paths of the folders whose images are known, when the dataset is listed folder by folder (see
            `fill`); None: `images` are all there are.
        corrected: sizes that were put right, see `correct`; may be filled while `images` are iterated over.

    Attributes:
        listed_bytes: the sizes of all images, as the service lists them.
        touches: counts changes, for `touched`.
    """

    def __init__(
        self,
        directories: Iterable[Directory],
        images: Iterable[Image],
        listed: Iterable[str] | None = None,
        corrected: dict[str, tuple[int, int]] | None = None,
    ) -> None:
        self.is_whole = listed is None
        self.token = object()
        """This tree and no other, for those who must not keep it alive."""
        self.root = Folder("/", listed=self.is_whole)
        self._folders: dict[str, Folder] = {"/": self.root}
        self._images: dict[str, Image] = {}
        self._corrected = {} if corrected is None else corrected  # image id → size here, size as listed
        self.listed_bytes = 0
        self._touched: dict[str, int] = {}  # path of a folder → `touches` when it was changed last
        self.touches = 0
        self._archived: dict[str, int] = {}  # image id → 1, or -1 when it was restored
        for directory in sorted(directories, key=lambda d: (d.full_path, d.id)):
            self.add_folder(directory.full_path, directory)
        for path in listed or ():
            self.add_folder(path).listed = True
        self._put_all(images)
        self._touched.clear()

    @property
    def image_count(self) -> int:
        """How many images are known."""
        return len(self._images)

    def folder(self, path: str) -> Folder | None:
        """The folder at a path of the service, or None."""
        return self._folders.get(path)

    def folders(self) -> Iterator[tuple[str, Folder]]:
        """Every folder with its path on the drive, relative to the dataset: `a/b`, "" for the root."""
        waiting = [("", self.root)]
        while waiting:
            place, folder = waiting.pop()
            yield place, folder
            prefix = f"{place}/" if place else ""
            waiting.extend((prefix + name, below) for name, below in folder.subfolders.items())

    def image(self, image_id: str) -> Image | None:
        """The image with this id, or None."""
        return self._images.get(image_id)

    def place(self, image_id: str) -> tuple[Folder, str] | None:
        """The folder and the local name of an image, or None."""
        image = self._images.get(image_id)
        if image is None:
            return None
        folder = self._folder_of(image)
        return folder, next(name for name in _names(image) if folder.images.get(name) is image)

    def images(self) -> list[Image]:
        """Every image that is known."""
        return list(self._images.values())

    def directories(self) -> list[Directory]:
        """Every folder that the service has a row for."""
        return [f.directory for f in self._folders.values() if f.directory is not None]

    def add_folder(self, path: str, directory: Directory | None = None) -> Folder:
        """Add a folder and its parents; an existing one is returned."""
        parts = namespace.components(path)
        folder = self.root
        for depth, name in enumerate(parts, start=1):
            child_path = namespace.join(parts[:depth])
            child = self._folders.get(child_path)
            if child is None:
                child = Folder(child_path, listed=self.is_whole)
                self._folders[child_path] = child
                self.touch(child_path)
                local = self._free_name(folder, namespace.to_local(name), child_path)
                displaced = folder.images.pop(local, None)
                folder.subfolders[local] = child
                folder.version += 1
                if displaced is not None:
                    self._put(folder, displaced)
            folder = child
        if directory is not None and folder is not self.root:
            folder.directory = directory
        return folder

    def remove_folder(self, path: str) -> None:
        """Forget a folder with all below it. The root stays."""
        gone = self._folders.get(path)
        if gone is None or gone is self.root:
            return
        parent = self._folders[namespace.parent(path)]
        parent.subfolders = {name: f for name, f in parent.subfolders.items() if f is not gone}
        parent.version += 1
        waiting = [gone]
        while waiting:
            folder = waiting.pop()
            waiting.extend(folder.subfolders.values())
            for image in folder.images.values():
                self._lose(image)
            del self._folders[folder.path]
            self.touch(folder.path)

    def take_rows(self, directories: Iterable[Directory]) -> list[str]:
        """Take over what the service says now of folders that are known, but for what is in them.

        Returns the paths on the drive, relative to the dataset, of those that look otherwise.
        """
        rows = by_path(directories)
        changed = []
        for place, folder in self.folders():
            row = rows.get(folder.path)
            if row is not None and row != folder.directory:
                folder.directory = row
                folder.version += 1
                self._folders[namespace.parent(folder.path)].version += 1
                changed.append(place)
        return changed

    def fill(self, path: str, images: Iterable[Image]) -> None:
        """Put what a folder holds in the place of what was known of it."""
        folder = self.add_folder(path)
        for image in folder.images.values():
            self._lose(image)
        folder.images = {}
        folder.listed = True
        folder.version += 1
        self._put_all(images)

    def add(self, image: Image) -> str:
        """Add an image, or replace what is known of it. Returns its local name."""
        self.discard(image.id)
        folder = self.add_folder(image.directory_path)
        self.touch(folder.path)
        return self._put(folder, image.without_urls())

    def discard(self, image_id: str) -> Image | None:
        """Forget an image; returns it, or None if it was not here."""
        place = self.place(image_id)
        if place is None:
            return None
        folder, name = place
        folder.version += 1
        self.touch(folder.path)
        image = folder.images.pop(name)
        self._lose(image)
        return image

    def correct(self, image_id: str, size_bytes: int) -> None:
        """Put right the size of an image; the service lists it as it did."""
        image = self.discard(image_id)
        if image is not None:
            self._corrected[image_id] = (size_bytes, self._listed_size(image))
            self.add(replace(image, file_size=size_bytes))

    def archive(self, image_id: str) -> None:
        """The service has archived an image for this mount."""
        self.discard(image_id)
        self._archived[image_id] = min(self._archived.get(image_id, 0) + 1, 1)

    def restore(self, image: Image) -> None:
        """The service has restored an image for this mount."""
        self.add(image)
        self._archived[image.id] = max(self._archived.get(image.id, 0) - 1, -1)

    @property
    def archived(self) -> int:
        """How many images were archived since for this mount, less those that were restored."""
        return sum(self._archived.values())

    def forget_changes(self, touched: Iterable[str] = ()) -> None:
        """The service counts all that was changed here, but for what is still to change in some folders."""
        self._archived.clear()
        self._touched.clear()
        for path in touched:
            self.touch(path)

    def touch(self, path: str) -> None:
        """A folder is changed, or will be."""
        self.touches += 1
        self._touched[path] = self.touches

    def touched(self, since: int = 0) -> set[str]:
        """The folders that were changed here, or will be, after there were so many `touches`."""
        return {path for path, number in self._touched.items() if number > since}

    def _lose(self, image: Image) -> None:
        del self._images[image.id]
        self.listed_bytes -= self._listed_size(image)

    def _listed_size(self, image: Image) -> int:
        here, listed = self._corrected.get(image.id, (image.file_size, image.file_size))
        return listed if here == image.file_size else image.file_size

    def _put_all(self, images: Iterable[Image]) -> None:
        """Add many images at once."""
        fresh = {image.id: image for image in images}
        for image_id in fresh.keys() & self._images.keys():
            self.discard(image_id)
        folders: dict[str, Folder] = {}  # by path as the images have it, which may be written otherwise
        by_folder: dict[Folder, list[Image]] = {}
        for image in fresh.values():
            path = image.directory_path
            folder = folders.get(path) or folders.setdefault(path, self.add_folder(path))
            by_folder.setdefault(folder, []).append(image)
        for folder, found in by_folder.items():
            named = {image.filename: image for image in found}
            plain = len(named) == len(found) and namespace.are_local(named)
            if (
                plain
                and named.keys().isdisjoint(folder.images)
                and named.keys().isdisjoint(folder.subfolders)
            ):
                folder.images.update(named)
                folder.version += 1
                self._images.update((image.id, image) for image in found)
                self.listed_bytes += sum(map(self._listed_size, found))
            else:
                for image in sorted(found, key=_precedence):
                    self._put(folder, image)

    def _put(self, folder: Folder, image: Image) -> str:
        name = self._free_name(folder, namespace.to_local(image.filename), image.id)
        folder.images[name] = image
        folder.version += 1
        self._images[image.id] = image
        self.listed_bytes += self._listed_size(image)
        return name

    def _folder_of(self, image: Image) -> Folder:
        folder = self._folders.get(image.directory_path)
        return folder or self._folders[namespace.join(namespace.components(image.directory_path))]

    @staticmethod
    def _free_name(folder: Folder, plain: str, identity: str) -> str:
        """The first name free in `folder`: the plain one, with a part of the id, with all of it.

        A folder (whose identity is its path) may take a name that an image has: the image moves over.
        """

        def taken(name: str) -> bool:
            return name in folder.subfolders or (not identity.startswith("/") and name in folder.images)

        if namespace.fits(plain) and not taken(plain):
            return plain
        if identity.startswith("/"):
            # The path ends in the very name that collides; its numbered copies are told apart by order.
            number = 2
            while taken(candidate := namespace.with_id(plain, str(number))):
                number += 1
            return candidate
        short = namespace.with_id(plain, identity)
        return short if not taken(short) else namespace.with_id(plain, identity, whole=True)


def by_path(directories: Iterable[Directory]) -> dict[str, Directory]:
    """Folders by their paths, as a tree writes them. The root is none."""
    rows = {namespace.join(namespace.components(row.full_path)): row for row in directories}
    rows.pop("/", None)
    return rows


def differences(old: Tree, new: Tree) -> Iterator[str]:
    """The paths of `old`, relative to the dataset, where `new` has nothing, or something else."""
    for place, folder in old.folders():
        now = new.folder(folder.path)
        yield from (f"{place}/{name}" if place else name for name in changed_names(folder, now))
        if place and (now is None or now.directory != folder.directory):
            yield place


def changed_names(old: Folder, new: Folder | None) -> Sequence[str]:
    """The names in `old` under which `new` has no image, or one of another look."""
    images = new.images if new else {}
    return [name for name, image in old.images.items() if _look(images.get(name)) != _look(image)]


def _look(image: Image | None) -> tuple[object, ...] | None:
    """What stat(2) shows of an image, and whose bytes they are."""
    return None if image is None else (image.id, image.file_size, image.created_at)


def _names(image: Image) -> Iterator[str]:
    """The names that an image may have in its folder, see `Tree._free_name`."""
    plain = namespace.to_local(image.filename)
    yield plain
    yield namespace.with_id(plain, image.id)
    yield namespace.with_id(plain, image.id, whole=True)


def _precedence(image: Image) -> tuple[bool, datetime, str]:
    """Who takes a name first; see the module's docstring."""
    encoded = namespace.to_local(image.filename) != image.filename
    return encoded, image.created_at or _EPOCH, image.id
