"""Where operations hand in what is to change on the service, and where its answers come back to.

A change is in the journal first, then shown; with `-o sync` the program waits for the answer as well. What
was done shows as the service says; what was refused is shown again as it is there.

Lock order: none of its own; see `fs/vfs`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from pictofs.api.models import Directory, Image
from pictofs.cache.metadata import MetadataCache
from pictofs.cache.provisional import is_provisional
from pictofs.cache.tree import Tree
from pictofs.fs import overlay, rules
from pictofs.fs.view import ImageNode, View, folder_identity
from pictofs.namespace import is_within
from pictofs.transfer.changes import Became
from pictofs.transfer.journal import Journal
from pictofs.transfer.outcomes import Unknown
from pictofs.transfer.records import Change, ChangeKind

__all__ = ["ChangeDesk", "Changes"]


class Changes(Protocol):
    """The queue of changes, which survives a crash; `transfer.changes` has the methods' promises."""

    def add(self, changes: Sequence[Change], times_ns: Mapping[str, int] = {}) -> list[int]: ...
    def wait(self, path: str, change_ids: Sequence[int], timeout_s: float) -> None: ...
    def settle(self, dataset_id: str, folder: str, timeout_s: float) -> bool: ...


class ChangeDesk:
    """See the module."""

    def __init__(
        self,
        *,
        view: View,
        metadata: MetadataCache,
        journal: Journal,
        queue: Changes,
        policy: rules.Policy,
    ) -> None:
        self._view = view
        self._metadata = metadata
        self._journal = journal
        self._queue = queue
        self._policy = policy

    def hand_in(self, path: str, changes: Sequence[Change]) -> None:
        """Make changes, all or none: shown from now on, sent soon.

        Raises:
            OSError: they could not be remembered; with `-o sync` also why the service refused one.
        """
        change_ids = self.remember(changes)
        if self._policy.sync:
            self.wait(path, change_ids)

    def remember(self, changes: Sequence[Change], times_ns: Mapping[str, int] = {}) -> list[int]:
        """`hand_in` without waiting, and with modification times by image id. Returns ids for `wait`."""
        change_ids = self._queue.add(changes, times_ns)
        for change in changes:
            self._show(change)
        self._view.changed()
        return change_ids

    def wait(self, path: str, change_ids: Sequence[int]) -> None:
        """Wait until changes are done. Raises OSError: one was refused, or it takes too long."""
        self._queue.wait(path, change_ids, self._policy.upload_wait_s)

    def own(self, path: str, node: ImageNode) -> ImageNode:
        """An image under an id of its own: one that is still being copied here is waited for.

        Raises:
            OSError: the copy was refused, or takes too long.
        """
        change = self._journal.changes.latest(node.image.id)
        if change is not None and change.kind in (ChangeKind.TRANSFER, ChangeKind.COPY):
            self.wait(path, [change.id])
        elif not is_provisional(node.image.id):
            return replace(node, image=replace(node.image, dataset_id=node.dataset.id))
        again = self._view.resolve(path)
        if not isinstance(again, ImageNode) or (again == node and is_provisional(node.image.id)):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self.own(path, again)

    def settle(self, dataset_id: str, folder: str) -> bool:
        """Wait until nothing in or below a folder is to be changed. Whether that is so."""
        return self._queue.settle(dataset_id, folder, self._policy.upload_wait_s)

    def done(self, change: Change, became: Became) -> None:
        """The service has made a change. A listing that was asked for before must not take it back."""
        later = self._later(change)
        if not later:
            self._show(change)
        if isinstance(became, Directory):
            directory = became
            if not later:
                self._metadata.change(change.dataset_id, lambda tree: _add_folder(tree, directory))
            self._view.made(folder_identity(change.dataset_id, change.folder), directory.id)
        elif isinstance(became, Image):
            self._take_over(change.shown_id, became)
            for change in later:
                self._show(change)
        elif became is Unknown.UNKNOWN:
            self._forget_copy(change)
            self._metadata.refresh(change.target_dataset_id)
        elif change.kind is ChangeKind.RESTORE:
            self._metadata.refresh(change.dataset_id)
        elif change.kind is ChangeKind.ARCHIVE and change.image_id is not None:
            self._metadata.archived(change.dataset_id, change.image_id)
        self._view.changed()

    def _take_over(self, shown_id: str | None, image: Image) -> None:
        """Show what a change made of an image; a copy was shown under another id until now."""
        if shown_id is not None and shown_id != image.id:
            self._view.succeeded(shown_id, image.id)
            self._metadata.change(image.dataset_id, lambda tree: _exchange(tree, shown_id, image))
            self._metadata.forget(image.dataset_id, shown_id)
        self._metadata.adopt(image)

    def _later(self, change: Change) -> list[Change]:
        """What is still to become of the same image or folder."""
        if change.shown_id is not None:
            latest = self._journal.changes.latest(change.shown_id)
            return [latest] if latest is not None and latest.id > change.id else []
        return [
            later
            for later in self._journal.changes.of_dataset(change.dataset_id)
            if later.id > change.id
            and any(is_within(folder, change.folder) for d, folder in later.folders if d == change.dataset_id)
        ]

    def refused(self, change: Change) -> None:
        """The service will not make a change: what is there is asked for again."""
        self._forget_copy(change)
        for dataset_id in {dataset_id for dataset_id, _ in change.folders}:
            self._metadata.refresh(dataset_id)
        self._view.changed()

    def _forget_copy(self, change: Change) -> None:
        """Show a copy no longer that has no id of its own."""
        if change.kind is ChangeKind.COPY and change.image is not None:
            self._metadata.forget(change.dataset_id, change.image.id)

    def _show(self, change: Change) -> None:
        for dataset_id in {dataset_id for dataset_id, _ in change.folders}:

            def apply(tree: Tree, dataset_id: str = dataset_id) -> None:
                overlay.apply(change, dataset_id, tree)

            self._metadata.change(dataset_id, apply)


def _exchange(tree: Tree, image_id: str, image: Image) -> None:
    tree.discard(image_id)
    tree.add(image)


def _add_folder(tree: Tree, directory: Directory) -> None:
    tree.add_folder(directory.full_path, directory)
