"""rm, mkdir, rmdir: what is forgotten, what is archived, and which folders are made and removed.

All but datasets go to the queue of changes and show at once. Emptiness is judged by what is shown.

Lock order: that of `fs/vfs`.
"""

from __future__ import annotations

import errno
import os
from typing import Protocol

from pictofs import namespace
from pictofs.api.models import Dataset
from pictofs.cache.metadata import MetadataCache
from pictofs.fs import rules
from pictofs.fs.desk import ChangeDesk
from pictofs.fs.view import FolderNode, LocalNode, RootNode, View
from pictofs.transfer.journal import Journal
from pictofs.transfer.records import Change, ChangeKind, archiving, server_path

__all__ = ["Entries", "EntriesRemote"]


class EntriesRemote(Protocol):
    """What a program waits for, since its id or its absence decides what comes next; one API request each."""

    def create_dataset(self, name: str) -> Dataset: ...
    def archive_dataset(self, dataset_id: str) -> Dataset: ...


class Entries:
    """See the module."""

    def __init__(
        self,
        *,
        view: View,
        metadata: MetadataCache,
        journal: Journal,
        desk: ChangeDesk,
        remote: EntriesRemote,
        policy: rules.Policy,
    ) -> None:
        self._view = view
        self._metadata = metadata
        self._journal = journal
        self._desk = desk
        self._remote = remote
        self._policy = policy

    def unlink(self, path: str) -> None:
        """Forget a file that is not uploaded yet, archive one that is."""
        node = self._view.resolve(path)
        if isinstance(node, (RootNode, FolderNode)):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        self._policy.check_change(path)
        if isinstance(node, LocalNode):
            self.forget(node)
        else:
            self._policy.check_change(path, node.dataset)
            self._desk.hand_in(path, [archiving(self._desk.own(path, node).image, path)])

    def forget(self, node: LocalNode) -> None:
        """Remove a file that is not uploaded yet; one in flight is archived once it lands."""
        upload, replaced = node.upload, None
        if node.file is not None:
            with node.file.lock:
                node.file.unlinked = True
                upload, replaced = node.file.upload, node.file.replaces_image_id
                node.file.upload = None
            self._view.closed(node.file)
        if upload is not None:
            self._journal.remove(upload.id)
        elif replaced is not None:  # It was an image, and is being written anew.
            dataset_id, folder, filename = node.key
            path = server_path(folder, filename)
            self._desk.hand_in(
                path, [Change(0, ChangeKind.ARCHIVE, dataset_id, folder, filename, path, replaced)]
            )
        self._view.changed()

    def mkdir(self, path: str) -> None:
        """Make a folder; in the root, a dataset, for which the service is asked at once."""
        try:
            self._view.resolve(path)
        except FileNotFoundError:
            pass
        else:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        parent_path, _, name = path.rpartition("/")
        parent = self._view.resolve(parent_path)
        server_name = rules.server_name(path, name)
        self._policy.check_change(path)
        if isinstance(parent, RootNode):
            self._remote.create_dataset(server_name)
            self._metadata.forget_datasets()
            self._view.changed()
        elif isinstance(parent, FolderNode):
            self._policy.check_change(path, parent.dataset)
            folder = namespace.join([*namespace.components(parent.path), server_name])
            self._desk.hand_in(path, [Change(0, ChangeKind.MKDIR, parent.dataset.id, folder, "", path)])
        else:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)

    def rmdir(self, path: str) -> None:
        """Remove an empty folder. An empty dataset is archived, never deleted, while the program waits."""
        node = self._view.resolve(path)
        if isinstance(node, RootNode):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        if not isinstance(node, FolderNode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        self._policy.check_change(path, node.dataset)
        if not self._view.is_empty(node):
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        if node.path != "/":
            self._desk.hand_in(path, [Change(0, ChangeKind.RMDIR, node.dataset.id, node.path, "", path)])
            return
        # What was removed from it a moment ago must be gone on the service as well.
        if not self._desk.settle(node.dataset.id, "/"):
            raise rules.refusal(errno.EIO, path, "what was removed from it is not gone on the service yet")
        self._remote.archive_dataset(node.dataset.id)
        self._metadata.forget_datasets()
        self._view.changed()
