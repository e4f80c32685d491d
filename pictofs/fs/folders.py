"""mv of a folder: renamed in place where the service can, else made anew, filled and removed.

The service renames a folder within its parent, with all below it, in one request; while a file below it is
on its way, or to another parent or dataset, its images are moved folder by folder, as queued changes, and
its files that are not uploaded yet get their new places in the journal.

Lock order: that of `fs/vfs`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

from pictofs import namespace
from pictofs.api.models import Dataset, Directory
from pictofs.cache.metadata import MetadataCache
from pictofs.cache.tree import Folder, Tree
from pictofs.fs import rules
from pictofs.fs.desk import ChangeDesk
from pictofs.fs.handles import Key
from pictofs.fs.view import FolderNode, LocalNode, Node, RootNode, View
from pictofs.transfer.journal import Journal
from pictofs.transfer.records import Change, ChangeKind, moving

__all__ = ["FolderRemote", "FolderRenames"]


class FolderRemote(Protocol):
    """The service's routes for it; one API request each."""

    def rename_dataset(self, dataset_id: str, new_name: str) -> Dataset: ...
    def rename_directory(self, dataset_id: str, path: str, new_name: str) -> Directory: ...


@dataclass(frozen=True, slots=True)
class _Move:
    """From where to where: a folder and all below it."""

    source: FolderNode
    target: FolderNode

    def new(self, folder: str) -> str:
        """The path that a folder in or below the source will have."""
        below = namespace.components(folder)[len(namespace.components(self.source.path)) :]
        return namespace.join([*namespace.components(self.target.path), *below])


class FolderRenames:
    """See the module.

    Args:
        rename_local: gives a file that is not uploaded yet another place.
    """

    def __init__(
        self,
        *,
        view: View,
        metadata: MetadataCache,
        journal: Journal,
        desk: ChangeDesk,
        remote: FolderRemote,
        policy: rules.Policy,
        rename_local: Callable[[LocalNode, Key], object],
    ) -> None:
        self._view = view
        self._metadata = metadata
        self._journal = journal
        self._desk = desk
        self._remote = remote
        self._policy = policy
        self._rename_local = rename_local

    def rename(self, old: str, source: FolderNode, new: str, target: Node | None) -> None:
        """Rename a folder or a dataset.

        Raises:
            OSError: EINVAL into itself, ENOTDIR onto a file, ENOTEMPTY, EPERM where a folder would become a
                dataset or the other way round.
        """
        if new.startswith(old + "/"):
            raise OSError(errno.EINVAL, "a folder cannot be moved into itself", new)
        if target is not None and not isinstance(target, FolderNode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), new)
        if target is not None and (target.path == "/" or not self._view.is_empty(target)):
            raise OSError(errno.ENOTEMPTY, "there is a folder of this name already", new)
        parent_path, _, name = new.rpartition("/")
        parent = self._view.resolve(parent_path)
        server_name = rules.server_name(new, name)
        if source.path == "/" and isinstance(parent, RootNode):
            self._remote.rename_dataset(source.dataset.id, server_name)
            self._metadata.forget_datasets()
            return
        if source.path == "/" or not isinstance(parent, FolderNode):
            raise rules.refusal(errno.EPERM, old, "a folder cannot become a dataset, nor a dataset a folder")
        if target is None:
            path = namespace.join([*namespace.components(parent.path), server_name])
            target = FolderNode(parent.dataset, path)
            in_place = parent == replace(source, path=namespace.parent(source.path))
            if in_place and not self._local_files(source):
                self._rename_in_place(old, _Move(source, target), server_name)
                return
        self._move(old, _Move(source, target))

    # In place

    def _rename_in_place(self, old: str, move: _Move, server_name: str) -> None:
        source = move.source
        # What is still to change below it would not find its place any more.
        if not self._desk.settle(source.dataset.id, source.path):
            raise rules.refusal(errno.EBUSY, old, "changes in it are not on the service yet (pictofs wait)")
        directory = self._remote.rename_directory(source.dataset.id, source.path, server_name)
        self._metadata.change(source.dataset.id, lambda tree: _rename_in_tree(tree, move))
        if directory.full_path != move.target.path:  # the service has its own idea of the name
            self._metadata.refresh(source.dataset.id)

    # By moving what is in it

    def _move(self, old: str, move: _Move) -> None:
        source, target = move.source, move.target
        if source.dataset.id != target.dataset.id:
            self._policy.check_change(old, target.dataset)
        # An image that is being copied here has no id of its own yet.
        changes_there = self._journal.changes.of_dataset(source.dataset.id)
        copied = (c.kind in (ChangeKind.TRANSFER, ChangeKind.COPY) for c in changes_there)
        if any(copied) and not self._desk.settle(source.dataset.id, source.path):
            raise rules.refusal(errno.EBUSY, old, "images are still being copied into it (pictofs wait)")
        local = self._local_files(source)
        with self._metadata.reading(source.dataset.id) as tree:
            paths = [folder.path for folder in _walk(tree.folder(source.path))]
        for path in paths:  # Known already, unless the dataset is so large that it is listed by folders.
            self._metadata.list_folder(source.dataset.id, path)
        with self._metadata.reading(source.dataset.id) as tree:
            folders = [(f.path, list(f.images.values())) for f in _walk(tree.folder(source.path))]
        if not folders:  # it is only there for the files in it
            folders = [(source.path, [])]
        covered = {node.key for node in local}
        changes: list[Change] = []
        for path, images in folders:
            changes.append(self._folder(ChangeKind.MKDIR, target.dataset, move.new(path), old))
            changes += (
                moving(
                    replace(image, dataset_id=source.dataset.id),
                    target.dataset.id,
                    move.new(path),
                    f"{old} ({image.filename})",
                )
                for image in images
                if Key(source.dataset.id, path, image.filename) not in covered
            )
        changes += (
            self._folder(ChangeKind.RMDIR, source.dataset, path, old) for path, _ in reversed(folders)
        )
        for node in local:
            self._rename_local(node, Key(target.dataset.id, move.new(node.key.folder), node.key.filename))
        self._desk.hand_in(old, changes)

    def _folder(self, kind: ChangeKind, dataset: Dataset, path: str, old: str) -> Change:
        return Change(0, kind, dataset.id, path, "", old)

    def _local_files(self, folder: FolderNode) -> list[LocalNode]:
        """The files in a folder and below it that are open here or not uploaded yet."""
        dataset = folder.dataset
        found: dict[Key, LocalNode] = {}
        for path in self._journal.folders(dataset.id):
            if namespace.is_within(path, folder.path):
                for filename, upload in self._journal.children(dataset.id, path).items():
                    key = Key(dataset.id, path, filename)
                    found[key] = LocalNode(dataset, key, upload, self._view.open_file(key))
        for file in self._view.open_files():
            within = file.key.dataset_id == dataset.id and namespace.is_within(file.key.folder, folder.path)
            if within and not file.is_image:
                found.setdefault(file.key, LocalNode(dataset, file.key, None, file))
        return list(found.values())


def _walk(folder: Folder | None) -> Iterator[Folder]:
    """A folder and all below it, each before what is in it."""
    if folder is not None:
        yield folder
        for subfolder in folder.subfolders.values():
            yield from _walk(subfolder)


def _rename_in_tree(tree: Tree, move: _Move) -> None:
    folders = list(_walk(tree.folder(move.source.path)))
    images = [image for folder in folders for image in folder.images.values()]
    tree.remove_folder(move.source.path)
    for folder in folders:
        path = move.new(folder.path)
        directory = folder.directory
        if directory is not None:
            name = namespace.components(path)[-1]
            directory = replace(directory, name=name, full_path=path)
        tree.add_folder(path, directory)
    for image in images:
        tree.add(replace(image, directory_path=move.new(image.directory_path)))
