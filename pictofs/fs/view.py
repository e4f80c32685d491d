"""The visible tree: the service's listing, overlaid with what is on its way there and what is open here.

Answers "what is at this path" and "what is in this folder" from memory; only a listing that is not known yet
is asked for. Decides nothing and changes nothing; `fs/vfs` does.

What a name means, first match wins: a file open here, a row of the journal, a folder, an image, and for a
minute the name under which an image was copied in when the service has given it another.

Lock order: `View._lock` is taken by itself, and nothing is called while it is held.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from cachetools import TTLCache

from pictofs import namespace
from pictofs.api.errors import PictographError
from pictofs.api.models import Dataset, Image
from pictofs.cache.metadata import MetadataCache
from pictofs.cache.provisional import is_provisional
from pictofs.cache.tree import Folder, Tree
from pictofs.fs.attributes import Attributes, Entry, Listing
from pictofs.fs.handles import Key, LocalFile
from pictofs.fs.rules import server_name
from pictofs.transfer.journal import Journal, Upload

log = logging.getLogger(__name__)

ALIAS_S = 60.0
"""How long the name that a program used still resolves after the service stored another, so that `cp -p` and
rsync can finish their work (semantics.md, "The server's answer is the truth")."""

UNKNOWN_NLINK = 1
"""Link count of a folder whose sub-folders are not known yet: what find(1) takes for "do not conclude
anything from it"."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns everything on the drive, and which permission bits are masked."""

    uid: int
    gid: int
    umask: int


def folder_identity(dataset_id: str, path: str) -> str:
    """What a folder's modification time is kept under."""
    return f"{dataset_id}:{path}"


@dataclass(frozen=True, slots=True)
class RootNode:
    """The mount's root."""


@dataclass(frozen=True, slots=True)
class FolderNode:
    """A dataset (path `/`) or a folder in it, by the service's path."""

    dataset: Dataset
    path: str

    @property
    def identity(self) -> str:
        """What its modification time is kept under; an image's is kept under its id."""
        return folder_identity(self.dataset.id, self.path)


@dataclass(frozen=True, slots=True)
class ImageNode:
    """An image of the service, seen in `folder` as `name` (its place, or an alias of it)."""

    dataset: Dataset
    folder: str
    name: str
    image: Image


@dataclass(frozen=True, slots=True)
class LocalNode:
    """A file that is not on the service yet: committed (`upload`), open (`file`), or both."""

    dataset: Dataset
    key: Key
    upload: Upload | None
    file: LocalFile | None


Node = RootNode | FolderNode | ImageNode | LocalNode


@dataclass(frozen=True, slots=True)
class _Listed:
    """A folder's last listing. `entries` were made from `sources` (images, rows of the journal), one by one;
    each stays good for as long as its source is the same object. `stamp` is equal while nothing changed."""

    stamp: object
    listing: Listing
    sources: list[Image | Upload]
    entries: list[Entry]


class _Local(NamedTuple):
    """What is in a folder and not on the service yet, by the service's names: rows, and files open here."""

    uploads: Mapping[str, Upload]
    files: dict[str, LocalFile]


class Sizes(Protocol):
    """Asks the storage for an image's size; None when even that does not tell."""

    def __call__(self, image: Image) -> int | None: ...


class View:
    """The tree as programs see it.

    Args:
        metadata: the service's side.
        journal: what is on its way there.
        owner: who owns everything.
        probe_size: asked for sizes that the listing does not know.
    """

    def __init__(
        self,
        metadata: MetadataCache,
        journal: Journal,
        owner: Owner,
        *,
        probe_size: Sizes,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._metadata = metadata
        self._journal = journal
        self._owner = owner
        self._probe_size = probe_size
        self._lock = threading.Lock()
        self._open: dict[Key, LocalFile] = {}
        self._version = 0
        self._listed: dict[tuple[str, str], _Listed] = {}
        self._aliases: TTLCache[Key, str] = TTLCache(100_000, ALIAS_S, timer=clock)
        self._successors: dict[str, str] = {}  # provisional id → the image's own
        self._inodes: dict[str, int] = {}  # image id → the inode its file had here while it was uploaded
        self._times: dict[str, int] = dict(journal.image_mtimes())
        self._started_ns = time.time_ns()

    # Changes that vfs makes to what is seen

    def opened(self, file: LocalFile) -> None:
        """Show a file that is open here."""
        with self._lock:
            self._open[file.key] = file
            self._version += 1

    def closed(self, file: LocalFile) -> None:
        """A file is open here no longer (or no longer at its key)."""
        with self._lock:
            if self._open.get(file.key) is file:
                del self._open[file.key]
            self._version += 1

    def rejoin(self, file: LocalFile) -> None:
        """An open file that became an image is about to be written again: it is where its image is by now,
        and counts as removed if that has gone.

        Raises:
            PictographError: the listing is not known and the service did not give it.
        """
        if file.unlinked or file.replaces_image_id is None:
            return
        with self._metadata.reading(file.key.dataset_id) as tree:
            image = tree.image(file.replaces_image_id)
        if image is not None and self._going(image.dataset_id, image.directory_path)(image):
            image = None
        with file.lock:
            self.closed(file)
            if image is None:
                file.unlinked = True
            else:
                file.key = Key(image.dataset_id, image.directory_path, image.filename)
                self.opened(file)

    def open_file(self, key: Key) -> LocalFile | None:
        """The file that is open at this place, or None."""
        with self._lock:
            return self._open.get(key)

    def open_files(self) -> list[LocalFile]:
        """All files that are open here."""
        with self._lock:
            return list(self._open.values())

    def changed(self) -> None:
        """Something that listings show has changed."""
        with self._lock:
            self._version += 1

    def landed(self, upload: Upload, image: Image) -> None:
        """An upload became an image: keep its inode and time, and its old name for a minute."""
        key = Key(upload.dataset_id, upload.folder, upload.filename)
        with self._lock:
            self._inodes[image.id] = _inode(*key)
            if (image.directory_path, image.filename) != (upload.folder, upload.filename):
                self._aliases[key] = image.id
            self._times[image.id] = upload.mtime_ns
            self._version += 1

    def copied(self, file: LocalFile, image_id: str, mtime_ns: int) -> None:
        """An open file is to be a copy of an image, shown under this id: it keeps inode and time."""
        with self._lock:
            self._inodes[image_id] = _inode(*file.key)
            self._times[image_id] = mtime_ns
            self._version += 1

    def made(self, identity: str, directory_id: str) -> None:
        """A folder that was made here is on the service now: keep its inode."""
        with self._lock:
            self._inodes[directory_id] = _inode(identity)

    def succeeded(self, image_id: str, copy_id: str) -> None:
        """An image takes another's place: it keeps inode and time."""
        with self._lock:
            self._inodes[copy_id] = self._inodes.get(image_id) or _inode(image_id)
            if image_id in self._times:
                self._times[copy_id] = self._times[image_id]
            if is_provisional(image_id):
                self._successors[image_id] = copy_id
            self._version += 1

    def own_id(self, image_id: str) -> str:
        """The id that an image has by now on the service, if this was a provisional one."""
        with self._lock:
            return self._successors.get(image_id, image_id)

    def set_time(self, identity: str, mtime_ns: int) -> None:
        """Show this modification time for an image (by id) or a folder (by `folder_identity`)."""
        with self._lock:
            self._times[identity] = mtime_ns
            self._version += 1

    # Paths

    def resolve(self, path: str) -> Node:
        """What is at an absolute path of the drive.

        Raises:
            FileNotFoundError: nothing.
            NotADirectoryError: a file stands where a folder should.
            PictographError: the service was asked and did not answer.
        """
        version = self._journal.version
        try:
            node = self._resolve(path)
        except FileNotFoundError:
            if self._journal.version == version:
                raise
        else:
            if self._journal.version == version:
                return node
        # It may have landed, or gone, between the look at the tree and that at the journal.
        return self._resolve(path)

    def _resolve(self, path: str) -> Node:
        parts = namespace.split_local(path)
        if not parts:
            return RootNode()
        dataset = self._metadata.datasets().get(parts[0])
        if dataset is None:
            raise _missing(path)
        if len(parts) == 1:
            return FolderNode(dataset, "/")
        name = parts[-1]
        folder_path, folder, subfolder, image = self._find(dataset, parts[1:-1], name)
        key = Key(dataset.id, folder_path, _server_name(name))
        with self._lock:
            file = self._open.get(key)
        upload = self._journal.find(*key)
        if upload is not None or (file is not None and not file.is_image):
            return LocalNode(dataset, key, upload, file)
        if subfolder is not None:
            return FolderNode(dataset, subfolder.path)
        if image is not None and not self._going(dataset.id, folder_path)(image):
            return ImageNode(dataset, folder_path, name, image)
        with self._lock:
            alias = self._aliases.get(key)
        if alias is not None:
            with self._metadata.reading(dataset.id) as tree:
                image = tree.image(alias)
            if image is not None:
                return ImageNode(dataset, folder_path, name, image)
        below = namespace.join([*namespace.components(folder_path), key.filename])
        if any(namespace.is_within(pending, below) for pending in self._journal.folders(dataset.id)):
            return FolderNode(dataset, below)
        if folder is None and len(parts) > 2 and not isinstance(self.resolve(_parent(path)), FolderNode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        raise _missing(path)

    def _find(
        self, dataset: Dataset, parents: list[str], name: str
    ) -> tuple[str, Folder | None, Folder | None, Image | None]:
        """Where a name is on the service: its folder's path and folder, the folder or the image it means."""
        with self._metadata.reading(dataset.id) as tree:
            path = _descend(tree, parents)
            folder = tree.folder(path)
            subfolder = folder.subfolders.get(name) if folder else None
            image = folder.images.get(name) if folder else None
            is_known = tree.is_whole or folder is None or subfolder is not None
        if not is_known:
            self._metadata.list_folder(dataset.id, path)
            with self._metadata.reading(dataset.id) as tree:
                folder = tree.folder(path)
                image = folder.images.get(name) if folder else None
        return path, folder, subfolder, image

    def place(self, path: str) -> tuple[Dataset, Key]:
        """Where a file of this path would be: its dataset and key. The folder must exist.

        Raises:
            FileNotFoundError, NotADirectoryError: no such folder.
            PermissionError: directly under the mount's root, where only datasets are.
            OSError: ENAMETOOLONG, or EINVAL for a name that is not UTF-8.
        """
        parent, _, name = path.rpartition("/")
        node = self.resolve(parent)
        if isinstance(node, RootNode):
            raise PermissionError(
                errno.EPERM, "a file needs a dataset: the mount's root holds only datasets", path
            )
        if not isinstance(node, FolderNode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), parent)
        return node.dataset, Key(node.dataset.id, node.path, server_name(path, name))

    # Attributes

    def attributes(self, node: Node) -> Attributes:
        """What stat(2) shows. Raises PictographError when an unknown size cannot be found out."""
        if isinstance(node, RootNode):
            datasets = len(self._metadata.datasets())
            return self._folder(_inode("root"), 2 + datasets, self._started_ns)
        if isinstance(node, FolderNode):
            return self._folder_attributes(node)
        if isinstance(node, ImageNode):
            return self.image_attributes(node.image)
        return self._local_attributes(node.key, node.upload, node.file)

    def _folder_attributes(self, node: FolderNode) -> Attributes:
        tree = self._metadata.loaded(node.dataset.id)
        folder = tree.folder(node.path) if tree else None
        nlink = 2 + len(self._subfolder_names(node, folder)) if tree else UNKNOWN_NLINK
        row = folder.directory if folder and folder.directory else node.dataset
        changed = row.updated_at or row.created_at
        mtime_ns = self._times.get(node.identity)
        if mtime_ns is None:
            mtime_ns = int(changed.timestamp() * 1e9) if changed else self._started_ns
        identity = folder.directory.id if folder and folder.directory else node.identity
        return self._folder(self._inodes.get(identity) or _inode(identity), nlink, mtime_ns)

    def _folder(self, inode: int, nlink: int, mtime_ns: int) -> Attributes:
        return self._attributes(inode, stat.S_IFDIR | 0o755, nlink, 0, mtime_ns)

    def inode(self, image: Image) -> int:
        """The inode number that programs see of an image."""
        return self._inodes.get(image.id) or _inode(image.id)

    def image_attributes(self, image: Image) -> Attributes:
        """What stat(2) shows of an image. Raises PictographError when an unknown size cannot be found out."""
        return self._image_attributes(image, self._size_of(image))

    def _image_attributes(self, image: Image, size_bytes: int) -> Attributes:
        mtime_ns = self._times.get(image.id)
        if mtime_ns is None:
            mtime_ns = int(image.created_at.timestamp() * 1e9) if image.created_at else self._started_ns
        inode = self._inodes.get(image.id) or _inode(image.id)
        return self._attributes(inode, stat.S_IFREG | 0o644, 1, size_bytes, mtime_ns)

    def _local_attributes(self, key: Key, upload: Upload | None, file: LocalFile | None) -> Attributes:
        if file is not None:
            return self.file_attributes(file)
        assert upload is not None  # A LocalNode has a file or an upload.
        return self._attributes(_inode(*key), stat.S_IFREG | 0o644, 1, upload.size_bytes, upload.mtime_ns)

    def file_attributes(self, file: LocalFile) -> Attributes:
        """What fstat(2) shows of a file that is open here."""
        links = 0 if file.unlinked else 1
        return self._attributes(
            _inode(*file.key), stat.S_IFREG | 0o644, links, file.size_bytes(), file.modified_ns()
        )

    def _attributes(self, inode: int, mode: int, nlink: int, size_bytes: int, mtime_ns: int) -> Attributes:
        owner = self._owner
        return Attributes(
            inode, mode & ~owner.umask, nlink, size_bytes, mtime_ns, mtime_ns, mtime_ns, owner.uid, owner.gid
        )

    def _size_of(self, image: Image) -> int:
        """The image's size; storage is asked when the listing does not know it: programs take 0 for empty."""
        if image.file_size:
            return image.file_size
        size_bytes = self._probe_size(image)
        if size_bytes:
            self._metadata.correct_size(image, size_bytes)
        return size_bytes or 0

    # Folders

    def listing(self, node: RootNode | FolderNode) -> Listing:
        """What is in a folder: the same object for as long as nothing in it changed."""
        if isinstance(node, RootNode):
            own = self.attributes(node)
            entries = [
                Entry(name, self._folder_attributes(FolderNode(dataset, "/")))
                for name, dataset in self._metadata.datasets().items()
            ]
            return Listing(own, own, entries)
        self._metadata.list_folder(node.dataset.id, node.path)
        known = self._listed.get((node.dataset.id, node.path))
        with self._lock:
            changes = self._version, self._journal.version
        # First what is here, then the tree: what lands in between is seen in both rather than in none.
        local = self._local_files(node)
        subfolders = self._pending_subfolders(node)
        is_going = self._going(node.dataset.id, node.path)
        with self._metadata.reading(node.dataset.id) as tree:
            folder = tree.folder(node.path)
            stamp = (tree.token, folder.version if folder else 0, changes)
            if known is not None and known.stamp == stamp:
                return known.listing
            subfolders |= {name: f.path for name, f in folder.subfolders.items()} if folder else {}
            images = list(folder.images.items()) if folder else []
        staying = [(name, image) for name, image in images if not is_going(image)]
        listed = self._list(node, subfolders, staying, local, known, stamp)
        self._listed[node.dataset.id, node.path] = listed
        return listed.listing

    def _going(self, dataset_id: str, folder: str) -> Callable[[Image], bool]:
        """Tells the images of a folder that were removed here; a listing may have them for a moment yet."""
        names = self._journal.abandoned_names(dataset_id, folder)
        hidden = self._journal.hidden()  # Second: what lands under an abandoned name is hidden from then on.
        return lambda image: (
            image.filename in names or (image.id in hidden and image.dataset_id == dataset_id)
        )

    def _local_files(self, node: FolderNode) -> _Local:
        """What is in a folder and not on the service yet."""
        uploads = self._journal.children(node.dataset.id, node.path)
        files = {
            f.key.filename: f
            for f in self.open_files()
            if (f.key.dataset_id, f.key.folder) == (node.dataset.id, node.path) and not f.is_image
        }
        return _Local(uploads, files)

    def _list(
        self,
        node: FolderNode,
        subfolders: dict[str, str],
        images: list[tuple[str, Image]],
        local: _Local,
        known: _Listed | None,
        stamp: object,
    ) -> _Listed:
        """A listing, for which only what has changed since the `known` one is made anew."""
        made: dict[int, Entry] = {}
        if known is not None:
            made = {id(of): entry for of, entry in zip(known.sources, known.entries, strict=True)}
        sources: list[Image | Upload] = []
        entries: list[Entry] = []
        for name, image in images:
            entry = made.get(id(image))
            if entry is None or entry.name != name or not self._is_still(entry.attributes, image):
                entry = self._image_entry(name, image)
            sources.append(image)
            entries.append(entry)
        image_count = len(entries)
        others: dict[str, Entry] = {}
        for name, path in subfolders.items():
            others[name] = Entry(name, self._folder_attributes(FolderNode(node.dataset, path)))
        for filename, upload in local.uploads.items():
            if filename not in local.files:
                entry = made.get(id(upload))
                if entry is None:
                    name = namespace.to_local(filename)
                    entry = Entry(name, self._local_attributes(Key(*upload.key), upload, None))
                sources.append(upload)
                entries.append(entry)
                others[entry.name] = entry
        for filename, file in local.files.items():
            name = namespace.to_local(filename)
            others[name] = Entry(name, self.file_attributes(file))
        shown = [entry for entry in entries[:image_count] if entry.name not in others]
        parent = RootNode() if node.path == "/" else FolderNode(node.dataset, namespace.parent(node.path))
        listing = Listing(self.attributes(node), self.attributes(parent), [*shown, *others.values()])
        if known is not None and _is_same(listing, known.listing):
            listing = known.listing
        return _Listed(stamp, listing, sources, entries)

    def _image_entry(self, name: str, image: Image) -> Entry:
        try:
            size_bytes = self._size_of(image)
        except PictographError as error:
            log.warning("The size of %s is not known: %s", image.filename, error)
            size_bytes = 0
        return Entry(name, self._image_attributes(image, size_bytes))

    def _is_still(self, attributes: Attributes, image: Image) -> bool:
        """Whether attributes made from this very image are still right."""
        return (
            self._times.get(image.id, attributes.mtime_ns) == attributes.mtime_ns
            and self._inodes.get(image.id, attributes.ino) == attributes.ino
            and attributes.size != 0
        )

    def is_empty(self, node: FolderNode) -> bool:
        """Whether nothing is in a folder."""
        return not self.listing(node).entries

    def _subfolder_names(self, node: FolderNode, folder: Folder | None) -> set[str]:
        return {*self._pending_subfolders(node), *(folder.subfolders if folder else ())}

    def _pending_subfolders(self, node: FolderNode) -> dict[str, str]:
        """Folders that the service has no row for yet, because their first images are on their way."""
        depth = len(namespace.components(node.path))
        found = {}
        for pending in self._journal.folders(node.dataset.id):
            if pending != node.path and namespace.is_within(pending, node.path):
                parts = namespace.components(pending)[: depth + 1]
                found[namespace.to_local(parts[-1])] = namespace.join(parts)
        return found


def _is_same(one: Listing, other: Listing) -> bool:
    return (one.attributes, one.parent, one.entries) == (other.attributes, other.parent, other.entries)


def _descend(tree: Tree, names: list[str]) -> str:
    """The service's path of a folder, by local names; what the tree does not know is taken literally."""
    folder: Folder | None = tree.root
    path = "/"
    for name in names:
        folder = folder.subfolders.get(name) if folder else None
        path = folder.path if folder else namespace.join([*namespace.components(path), _server_name(name)])
    return path


def _server_name(name: str) -> str:
    """The service's form of a name; one that is not UTF-8 stays as it is and so matches nothing there."""
    try:
        return namespace.to_server(name)
    except ValueError:
        return name


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _missing(path: str) -> FileNotFoundError:
    return FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)


def _inode(*identity: str) -> int:
    """A stable inode number from an identity: 63 bits, as some tools read them signed, and never 0."""
    text = "\0".join(identity).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1 or 1
