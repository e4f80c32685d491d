"""One dataset's folders and images by the names they have on the drive.

Built from one listing, then changed in place as images land, move or go. Not thread-safe by itself: the
`MetadataCache` that owns a tree guards it.

Which name an image gets is decided here, and does not depend on the order of the listing: a name that needs
no encoding is kept before one that does, the older image before the younger; whoever comes later carries a
part of its id (`namespace.with_id`). A folder always keeps its plain name before an image.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timezone

from pictofs import namespace
from pictofs.api.models import Directory, Image

_EPOCH = datetime.fromtimestamp(0, timezone.utc)


class Folder:
    """A folder: its sub-folders and images by local name. `path` is the service's (`/`, `/a/b`)."""

    __slots__ = ("directory", "images", "path", "subfolders", "version")

    def __init__(self, path: str) -> None:
        self.path = path
        self.directory: Directory | None = None
        self.subfolders: dict[str, Folder] = {}
        self.images: dict[str, Image] = {}
        self.version = 0
        """Counts changes, so that a prepared listing of the folder can be reused while it stands still."""


class Tree:
    """The folders and images of one dataset."""

    def __init__(self, directories: Iterable[Directory], images: Iterable[Image]) -> None:
        self.root = Folder("/")
        self._folders: dict[str, Folder] = {"/": self.root}
        self._places: dict[str, tuple[Folder, str]] = {}
        for directory in sorted(directories, key=lambda d: (d.full_path, d.id)):
            self.add_folder(directory.full_path, directory)
        for image in sorted(images, key=_precedence):
            self.add(image)

    def folder(self, path: str) -> Folder | None:
        """The folder at a path of the service, or None."""
        return self._folders.get(path)

    def image(self, image_id: str) -> Image | None:
        """The image with this id, or None."""
        place = self._places.get(image_id)
        return place[0].images[place[1]] if place else None

    def place(self, image_id: str) -> tuple[Folder, str] | None:
        """The folder and the local name of an image, or None."""
        return self._places.get(image_id)

    def images(self) -> list[Image]:
        """Every image, folder by folder."""
        return [image for folder in self._folders.values() for image in folder.images.values()]

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
                child = Folder(child_path)
                self._folders[child_path] = child
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
                del self._places[image.id]
            del self._folders[folder.path]

    def add(self, image: Image) -> str:
        """Add an image, or replace what is known of it. Returns its local name."""
        self.discard(image.id)
        folder = self.add_folder(image.directory_path)
        return self._put(folder, image)

    def discard(self, image_id: str) -> Image | None:
        """Forget an image; returns it, or None if it was not here."""
        place = self._places.pop(image_id, None)
        if place is None:
            return None
        folder, name = place
        folder.version += 1
        return folder.images.pop(name)

    def _put(self, folder: Folder, image: Image) -> str:
        name = self._free_name(folder, namespace.to_local(image.filename), image.id)
        folder.images[name] = image
        folder.version += 1
        self._places[image.id] = (folder, name)
        return name

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


def _precedence(image: Image) -> tuple[bool, datetime, str]:
    """Who takes a name first; see the module's docstring."""
    encoded = namespace.to_local(image.filename) != image.filename
    return encoded, image.created_at or _EPOCH, image.id
