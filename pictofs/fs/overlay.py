"""What changes that the service has not made yet mean for the tree that is shown.

Used when a change is wished, on the tree that is known, and for each listing that is fetched while it is
pending; both times it may have been made there already, so each is harmless to repeat.

Lock order: the journal's lock only; a tree is guarded by whoever calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pictofs import namespace
from pictofs.api.models import Image
from pictofs.cache.tree import Tree
from pictofs.transfer.journal import Journal
from pictofs.transfer.records import Change, ChangeKind

__all__ = ["apply", "overlay_of", "under_way_of"]


def overlay_of(journal: Journal) -> Callable[[str, Tree], None]:
    """For `MetadataCache`: shows a dataset's tree as it will be."""

    def overlay(dataset_id: str, tree: Tree) -> None:
        for change in journal.changes.of_dataset(dataset_id):
            if not (_makes_image(change, dataset_id) and journal.changes.is_made(change.id)):
                apply(change, dataset_id, tree)

    return overlay


def _makes_image(change: Change, dataset_id: str) -> bool:
    """Whether a dataset gets an image by a change, one with an id of its own."""
    if change.kind is ChangeKind.TRANSFER:
        return dataset_id == change.target_dataset_id
    return change.kind is ChangeKind.COPY


def under_way_of(journal: Journal) -> Callable[[str], set[str]]:
    """For `MetadataCache`: the folders in which something is on its way, or is to change."""

    def under_way(dataset_id: str) -> set[str]:
        outlook = journal.changes.outlook()
        changing = {folder for change in outlook.changes for folder in change.folders}
        return {folder for found, folder in changing.union(outlook.folders_in_flight) if found == dataset_id}

    return under_way


def apply(change: Change, dataset_id: str, tree: Tree) -> None:
    """Make a change in the tree of a dataset that it concerns."""
    for found, folder in change.folders:
        if found == dataset_id:
            tree.touch(folder)
    if change.kind is ChangeKind.MKDIR:
        tree.add_folder(change.folder)
    elif change.kind is ChangeKind.RMDIR:
        tree.remove_folder(change.folder)
    elif change.image_id is not None and change.kind is ChangeKind.ARCHIVE:
        tree.discard(change.image_id)
    elif change.image_id is not None and change.kind is ChangeKind.MOVE and change.target_folder is not None:
        image = tree.image(change.image_id)
        if image is not None and image.directory_path != change.target_folder:
            tree.add(replace(image, directory_path=change.target_folder))
    elif change.kind is ChangeKind.COPY and change.image is not None:
        _show_copy(change.image, tree)
    elif change.kind is ChangeKind.TRANSFER and change.image is not None and change.target_folder is not None:
        if dataset_id == change.target_dataset_id:
            # With id and dataset of its source, from which it is read until the copy is there.
            _show_copy(replace(change.image, directory_path=change.target_folder), tree)
        if dataset_id == change.dataset_id:
            tree.discard(change.image.id)


def _show_copy(copy: Image, tree: Tree) -> None:
    """Show a copy under the id that it has until it is there. What the service has at its place already is
    most likely the copy itself, and is shown with its answer."""
    there = tree.add_folder(copy.directory_path).images.get(namespace.to_local(copy.filename))
    if there is not None and there.filename == copy.filename:
        tree.discard(there.id)
    tree.add(copy)
