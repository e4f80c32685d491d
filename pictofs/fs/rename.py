"""mv: what a rename means for files on their way, for images, for folders and for datasets.

Files that are not on the service yet follow the journal; a working name that gets its final name is judged
and goes up. Images move as queued changes. One that is to get another name, for which the service has no
route, goes up again under it; unless people have made something of it, which would be lost on the way.

Lock order: that of `fs/vfs`.
"""

from __future__ import annotations

import errno
import os

from pictofs import namespace
from pictofs.api.models import Dataset, Image
from pictofs.cache.metadata import MetadataCache
from pictofs.fs import rules
from pictofs.fs.copying import to_spool
from pictofs.fs.desk import ChangeDesk
from pictofs.fs.entries import Entries
from pictofs.fs.folders import FolderRemote, FolderRenames
from pictofs.fs.handles import Key, LocalFile, Phase
from pictofs.fs.view import FolderNode, ImageNode, LocalNode, Node, RootNode, View
from pictofs.transfer.download import Downloader
from pictofs.transfer.journal import Journal, NewUpload, State, Upload, UploadGoneError
from pictofs.transfer.records import archiving, moving
from pictofs.transfer.spool import Spool

RENAME_NOREPLACE = 1
"""The only flag of renameat2(2) that is honoured (linux/fs.h)."""


class Renames:
    """See the module."""

    def __init__(
        self,
        *,
        view: View,
        metadata: MetadataCache,
        journal: Journal,
        spool: Spool,
        downloader: Downloader,
        desk: ChangeDesk,
        entries: Entries,
        remote: FolderRemote,
        policy: rules.Policy,
    ) -> None:
        self._view = view
        self._metadata = metadata
        self._journal = journal
        self._spool = spool
        self._downloader = downloader
        self._desk = desk
        self._entries = entries
        self._policy = policy
        self._folders = FolderRenames(
            view=view,
            metadata=metadata,
            journal=journal,
            desk=desk,
            remote=remote,
            policy=policy,
            rename_local=self._give_place,
        )

    def rename(self, old: str, new: str, flags: int) -> None:
        """Rename `old` to `new`.

        Raises:
            OSError: EINVAL for flags or names that cannot be, EEXIST onto an uploaded image, EPERM for
                another name of one that has labels, tags or a split, EBUSY while changes in a folder take too
                long, ENOTEMPTY.
        """
        try:
            self._rename(old, new, flags)
        except UploadGoneError:
            self._rename(old, new, flags)  # It landed a moment ago: an image is renamed now.
        self._view.changed()

    def _rename(self, old: str, new: str, flags: int) -> None:
        if flags & ~RENAME_NOREPLACE:
            raise OSError(errno.EINVAL, "only RENAME_NOREPLACE is known here", new)
        self._policy.check_change(old)
        source = self._view.resolve(old)
        try:
            target: Node | None = self._view.resolve(new)
        except FileNotFoundError:
            target = None
        if target == source:
            return
        if target is not None and flags & RENAME_NOREPLACE:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
        if isinstance(source, RootNode) or isinstance(target, RootNode):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), old)
        if not isinstance(source, LocalNode):  # What is not uploaded yet may always leave.
            self._policy.check_change(old, source.dataset)
        if isinstance(source, FolderNode):
            self._folders.rename(old, source, new, target)
        elif isinstance(target, FolderNode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), new)
        elif isinstance(source, LocalNode):
            self._rename_local(source, new, target)
        else:
            self._rename_image(old, source, new, target)

    def _rename_local(self, source: LocalNode, new: str, target: ImageNode | LocalNode | None) -> None:
        dataset, key = self._view.place(new)
        self._policy.check_change(new, dataset)
        rules.check_name(new, key.filename)
        replaces: str | None = None
        if isinstance(target, ImageNode):
            if not self._policy.overwrite:
                raise rules.refusal(
                    errno.EEXIST, new, "an uploaded image is never replaced (see -o overwrite)"
                )
            replaces = self._desk.own(new, target).image.id
        if isinstance(target, LocalNode) and target.file is not None:
            # The row, if it has one, goes in the same transaction as the rename.
            with target.file.lock:
                target.file.unlinked = True
                target.file.upload = None
            self._view.closed(target.file)
        upload = self._give_place(source, key, replaces)
        if self._policy.sync and upload is not None:
            rules.await_upload(self._journal, new, upload, self._policy.upload_wait_s)

    def _give_place(self, source: LocalNode, key: Key, replaces: str | None = None) -> Upload | None:
        if source.file is not None:
            return self._rename_open(source.file, key, replaces)
        assert source.upload is not None  # A LocalNode has a file or an upload.
        return self._rename_upload(source.upload, key, replaces)

    def _rename_open(self, file: LocalFile, key: Key, replaces: str | None) -> Upload | None:
        with file.lock:
            if file.upload is not None:
                file.upload = self._rename_upload(file.upload, key, replaces)
                if file.phase is Phase.COMMITTED:
                    file.committed_name = file.upload.spool_name
            file.replaces_image_id = replaces or file.replaces_image_id
            self._view.closed(file)
            file.key = key
            self._view.opened(file)
            return file.upload if file.phase is Phase.COMMITTED else None

    def _rename_upload(self, upload: Upload, key: Key, replaces: str | None) -> Upload:
        """Give a journal row another name; a row that had the name already is replaced by it."""
        path = self._spool.path(upload.spool_name)
        state, reason, width, height = rules.judge(path, key.filename, upload.size_bytes)
        return self._journal.rename(
            upload.id,
            dataset_id=key.dataset_id,
            folder=key.folder,
            filename=key.filename,
            state=state,
            reason=reason,
            width=width,
            height=height,
            replaces_image_id=replaces or upload.replaces_image_id,
        )

    def _rename_image(
        self, old: str, source: ImageNode, new: str, target: ImageNode | LocalNode | None
    ) -> None:
        dataset, key = self._view.place(new)
        if target is not None and not self._policy.overwrite:
            raise rules.refusal(errno.EEXIST, new, "an uploaded image is never replaced (see -o overwrite)")
        source = self._desk.own(old, source)
        if isinstance(target, ImageNode):
            target = self._desk.own(new, target)
        image = source.image
        if key.filename != image.filename:
            self._rename_by_copy(old, source, new, dataset, key, target)
            return
        if dataset.id != source.dataset.id:
            self._policy.check_change(new, dataset)
        change = moving(image, dataset.id, key.folder, old)
        changes = [change]
        if isinstance(target, LocalNode):
            self._entries.forget(target)
        elif target is not None:
            changes = [archiving(target.image, new), change]
        self._desk.hand_in(old, changes)

    def _rename_by_copy(
        self,
        old: str,
        source: ImageNode,
        new: str,
        dataset: Dataset,
        key: Key,
        target: ImageNode | LocalNode | None,
    ) -> None:
        """The service has no route that renames an image: its bytes go up under the new name, and when they
        are there the old image is archived; for a working name, which stays here, at once. What people have
        made of the image would be lost on the way."""
        image = self._metadata.images.get(source.image.id, anew=True)
        work = [("labels", image.annotation_count), ("tags", image.tags), ("a split", image.split)]
        lost = [name for name, there in work if there]
        if lost:
            reason = f"the service has no route that renames an image, and it has {' and '.join(lost)}"
            raise rules.refusal(errno.EPERM, old, f"{reason}; moving it to another folder works")
        self._policy.check_change(new, dataset)
        rules.check_name(new, key.filename)
        mtime_ns = self._view.image_attributes(source.image).mtime_ns
        with to_spool(source.image, self._downloader, self._spool) as file:
            file.fsync()
        try:
            if isinstance(target, LocalNode):
                self._entries.forget(target)
            upload = self._journal.add(self._describe_copy(source.image, key, file.name, target, mtime_ns))
        except BaseException:
            self._spool.remove(file.name)
            raise
        if upload.supersedes is None:  # a working name: it stays here, perhaps for good
            self._desk.hand_in(old, [archiving(source.image, old)])
        else:
            self._metadata.forget(source.dataset.id, source.image.id)
        if self._policy.sync:
            rules.await_upload(self._journal, new, upload, self._policy.upload_wait_s)

    def _describe_copy(
        self, image: Image, key: Key, spool_name: str, target: ImageNode | LocalNode | None, mtime_ns: int
    ) -> NewUpload:
        path = self._spool.path(spool_name)
        size_bytes = path.stat().st_size
        state, reason, width, height = rules.judge(path, key.filename, size_bytes)
        stays = namespace.is_working_name(key.filename)
        if not stays:  # what the service has taken once goes up as it is
            state, reason = State.QUEUED, None
        return NewUpload(
            *key,
            spool_name,
            size_bytes,
            mtime_ns,
            width,
            height,
            state,
            reason,
            replaces_image_id=target.image.id if isinstance(target, ImageNode) else None,
            supersedes=None if stays else image,
        )
