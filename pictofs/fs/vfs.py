# ruff: noqa: ARG002 - the operations have the kernel's arguments, whether they need them or not
"""Every file operation: what it means, what is refused and why. No FUSE, no HTTP, no SQL in here.

`fs/fuse` calls these methods from many threads. What is at a path comes from `View`; bytes come from
`Downloader` and `LocalFile`; what is to happen on the service goes to the journal, or through `Remote` for
the few changes that are done while the program waits. docs/SEMANTICS.md is this file in prose.

Every method raises OSError with an errno, or one of api.errors, which `fs/errnos` maps. A refusal carries its
reason, which `fs/complaints` logs once, since an errno alone says little.

Lock order: `Vfs._lock` (the table of open files), then `LocalFile.lock`, then the locks of journal, view and
metadata. Neither of the first two is held while the service is asked or waited for.
"""

from __future__ import annotations

import errno
import itertools
import logging
import os
import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

from pictofs import namespace
from pictofs.api.models import Image, Organization
from pictofs.cache.content import ContentCache
from pictofs.cache.metadata import MetadataCache
from pictofs.cache.provisional import is_provisional
from pictofs.fs import rules
from pictofs.fs.attributes import Attributes, Listing, StatFs
from pictofs.fs.copies import Copies
from pictofs.fs.copying import to_spool
from pictofs.fs.desk import ChangeDesk, Changes
from pictofs.fs.entries import Entries, EntriesRemote
from pictofs.fs.folders import FolderRemote
from pictofs.fs.handles import Handle, Key, LocalFile, Phase
from pictofs.fs.rename import Renames
from pictofs.fs.view import FolderNode, ImageNode, LocalNode, Node, RootNode, View
from pictofs.fs.xattrs import XattrRemote, Xattrs
from pictofs.transfer.changes import Became
from pictofs.transfer.download import Downloader, Reader
from pictofs.transfer.journal import Journal, NewUpload, State, Upload
from pictofs.transfer.readahead import Readahead, Sibling
from pictofs.transfer.records import Change
from pictofs.transfer.spool import Spool

log = logging.getLogger(__name__)

BLOCK_BYTES = 4096
"""The unit of statfs: the page size, as local file systems have it."""


class Remote(FolderRemote, EntriesRemote, XattrRemote, Protocol):
    """Changes that are made while the program waits: one API request each."""


class Vfs:
    """The drive.

    Args:
        organization: whose drive it is; its quota is what df shows.
        on_start: called once in the process that serves the mount; starts what needs threads.
    """

    def __init__(
        self,
        *,
        organization: Organization,
        view: View,
        metadata: MetadataCache,
        content: ContentCache,
        downloader: Downloader,
        readahead: Readahead,
        journal: Journal,
        spool: Spool,
        changes: Changes,
        remote: Remote,
        policy: rules.Policy,
        on_start: Callable[[], None] = lambda: None,
    ) -> None:
        self._organization = organization
        self._view = view
        self._metadata = metadata
        self._content = content
        self._downloader = downloader
        self._readahead = readahead
        self._journal = journal
        self._spool = spool
        self._policy = policy
        self._on_start = on_start
        self._desk = ChangeDesk(view=view, metadata=metadata, journal=journal, queue=changes, policy=policy)
        self._entries = Entries(
            view=view, metadata=metadata, journal=journal, desk=self._desk, remote=remote, policy=policy
        )
        self._renames = Renames(
            view=view,
            metadata=metadata,
            journal=journal,
            spool=spool,
            downloader=downloader,
            desk=self._desk,
            entries=self._entries,
            remote=remote,
            policy=policy,
        )
        self._copies = Copies(
            view=view, metadata=metadata, journal=journal, spool=spool, downloader=downloader, desk=self._desk
        )
        self._xattrs = Xattrs(
            metadata=metadata,
            remote=remote,
            policy=policy,
            settle=lambda dataset_id: self._desk.settle(dataset_id, "/"),
        )
        self._lock = threading.Lock()
        self._handles: dict[int, Handle] = {}
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Begin to work, in the process that serves the mount: threads do not survive a fork."""
        self._on_start()

    # Looking

    def getattr(self, path: str | None, handle: int | None = None) -> Attributes:
        """stat(2), and fstat(2) when a handle is given: the handle decides, the path may be None then."""
        if handle is None:
            assert path is not None  # The adapter gives one of them.
            return self._view.attributes(self._view.resolve(path))
        opened = self._handle(handle)
        if opened.file is not None:
            return self._view.file_attributes(opened.file)
        assert opened.image is not None  # What is open and not local is an image.
        return self._view.image_attributes(opened.image)

    def opendir(self, path: str) -> Listing:
        """What is in a folder."""
        node = self._view.resolve(path)
        if not isinstance(node, (RootNode, FolderNode)):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return self._view.listing(node)

    def statfs(self) -> StatFs:
        """df: the organization's quota, as far as the spool's disk can take it. Asks the service nothing."""
        datasets = self._metadata.known_datasets().values()
        used = sum(d.total_size for d in datasets)
        files = sum(d.image_count for d in datasets)
        total = max(self._organization.max_storage_bytes, used)
        free = total - used
        available = min(free, self._spool.free_bytes())
        files_free = max(0, self._organization.max_images - files)
        return StatFs(
            block_size=BLOCK_BYTES,
            blocks=total // BLOCK_BYTES,
            blocks_free=free // BLOCK_BYTES,
            blocks_available=available // BLOCK_BYTES,
            files=files + files_free,
            files_free=files_free,
            name_max=namespace.NAME_MAX_BYTES,
        )

    # Opening, reading

    def open(self, path: str, flags: int) -> int:
        """Open a file. O_TRUNC is honoured; what may be written at all, `create` and the table say."""
        try:
            return self._open(path, flags)
        except FileNotFoundError:
            return self._open(path, flags)  # It may have landed a moment ago: an image is opened now.

    def _open(self, path: str, flags: int) -> int:
        node = self._view.resolve(path)
        writes = flags & os.O_ACCMODE != os.O_RDONLY
        if isinstance(node, (RootNode, FolderNode)):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        if writes:
            self._policy.check_change(path, node.dataset)
        if isinstance(node, LocalNode):
            file = self._open_local(node)
            if writes and flags & os.O_TRUNC:
                self._made_ready(path, file).truncate(0)
            return self._add(Handle(path, file=file, writable=writes))
        if not writes:
            return self._add(Handle(path, reader=self._reader(node), image=node.image))
        if not self._policy.overwrite:
            raise rules.refusal(
                errno.EEXIST, path, "an uploaded image is never changed in place (see -o overwrite)"
            )
        file = self._open_image_for_writing(self._desk.own(path, node), flags)
        return self._add(Handle(path, file=file, writable=True))

    def create(self, path: str, mode: int, flags: int) -> int:
        """Make a file, or open the one that is there unless O_EXCL."""
        try:
            self._view.resolve(path)
        except FileNotFoundError:
            pass
        else:
            if flags & os.O_EXCL:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            return self.open(path, flags)
        dataset, key = self._view.place(path)
        self._policy.check_change(path, dataset)
        rules.check_name(path, key.filename)
        file = LocalFile(key, self._spool, self._spool.create())
        return self._add(Handle(path, file=self._register(file, is_new=True), writable=True))

    def read_into(
        self, handle: int, buffer: memoryview, offset: int, is_interrupted: Callable[[], bool]
    ) -> int:
        """Fill a buffer; how many bytes, fewer only at the end of the file. EINTR when told to give up."""
        opened = self._handle(handle)
        if opened.reader is not None:
            return opened.reader.read_into(buffer, offset, is_interrupted)
        assert opened.file is not None  # A handle has a reader or a file.
        with self._copies.reader(opened.file) as reader:
            if reader is not None:
                return reader.read_into(buffer, offset, is_interrupted)
        return opened.file.read_into(buffer, offset)

    def write(self, handle: int, data: memoryview, offset: int) -> int:
        """Write into the spool; how many bytes were written."""
        return self._writable(handle).write(data, offset)

    def copy_range(
        self, source: int, source_offset: int, target: int, target_offset: int, size: int
    ) -> int | None:
        """Have an image's bytes in a new file without reading them; how many, None if it cannot be."""
        opened, made = self._handle(source), self._handle(target)
        if opened.image is None or made.file is None or not made.writable:
            return None
        if (source_offset, target_offset) != (0, 0):
            return None
        return self._copies.begin(opened.image, made.file, size)

    def truncate(self, path: str | None, length: int, handle: int | None = None) -> None:
        """Cut or extend a file, open or not."""
        if handle is not None:
            self._writable(handle).truncate(length)
            return
        assert path is not None  # The adapter gives one of them.
        own = self.open(path, os.O_WRONLY)
        try:
            self._writable(own).truncate(length)
            self.flush(own)
        finally:
            self.release(own)

    def _reader(self, node: ImageNode) -> Reader:
        """A reader of an image, whose siblings are fetched ahead when they turn out to be read as well."""
        dataset_id, folder = node.dataset.id, node.folder
        if is_provisional(node.image.id):
            return self._downloader.open(self._copies.readable(node.image))
        siblings = partial(self._siblings, dataset_id, folder)
        return self._downloader.open(
            node.image, self._readahead.follow((dataset_id, folder), node.image, siblings)
        )

    def _siblings(self, dataset_id: str, path: str) -> list[Sibling]:
        with self._metadata.reading(dataset_id) as tree:
            folder = tree.folder(path)
            images = list(folder.images.items()) if folder else []
        return [
            Sibling(name, self._view.inode(image), image)
            for name, image in images
            if not is_provisional(image.id)
        ]

    def _open_local(self, node: LocalNode) -> LocalFile:
        file = node.file
        if file is None:
            assert node.upload is not None  # A LocalNode has a file or an upload.
            file = LocalFile(node.key, self._spool, self._spool.open(node.upload.spool_name), node.upload)
        return self._register(file)

    def _open_image_for_writing(self, node: ImageNode, flags: int) -> LocalFile:
        """`-o overwrite`: a local file that will take the image's place."""
        key = Key(node.dataset.id, node.folder, node.image.filename)
        empty = bool(flags & os.O_TRUNC)
        spool_file = self._spool.create() if empty else to_spool(node.image, self._downloader, self._spool)
        file = LocalFile(key, self._spool, spool_file)
        file.replaces_image_id = node.image.id
        return self._register(file)

    def _register(self, file: LocalFile, *, is_new: bool = False) -> LocalFile:
        """Count one more handle on the file; whoever opened the same place a moment earlier wins.

        A new file takes the place of one that became an image, is open still, and is not to be seen there.
        """
        with self._lock:
            earlier = self._view.open_file(file.key)
            if is_new and earlier is not None and earlier.is_image:
                earlier = None
            if earlier is not None and earlier is not file:
                file.close()
                file = earlier
            file.handles += 1
            self._view.opened(file)
        return file

    def _add(self, handle: Handle) -> int:
        with self._lock:
            number = next(self._numbers)
            self._handles[number] = handle
        return number

    def _handle(self, number: int) -> Handle:
        with self._lock:
            handle = self._handles.get(number)
        if handle is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return handle

    def _writable(self, number: int) -> LocalFile:
        """The file that a handle may write. Raises OSError(EBADF) if it may not."""
        handle = self._handle(number)
        if handle.file is None or not handle.writable:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), handle.path)
        return self._made_ready(handle.path, handle.file)

    def _made_ready(self, path: str, file: LocalFile) -> LocalFile:
        """A file that is about to be written or cut."""
        self._copies.settle(path, file)
        if file.is_image:
            self._view.rejoin(file)
        while file.copy_of is not None:
            self._copies.fill(file)
            self._copies.settle(path, file)
        return file

    # Closing: the bytes are handed to the journal

    def flush(self, handle: int) -> None:
        """close(2), once per descriptor: hand what was written to the journal. Raises what close returns."""
        opened = self._handle(handle)
        if opened.file is not None and opened.writable:
            upload = self._commit(opened.path, opened.file)
            if self._policy.sync:
                self._copies.wait(opened.path, opened.file)
            if self._policy.sync and upload is not None:
                rules.await_upload(self._journal, opened.path, upload, self._policy.upload_wait_s)

    def fsync(self, handle: int) -> None:
        """fsync(2): returns when the image is on the service (a working name: when it is on the disk)."""
        opened = self._handle(handle)
        if opened.file is None:
            return
        upload = self._commit(opened.path, opened.file)
        self._copies.wait(opened.path, opened.file)
        if upload is not None:
            rules.await_upload(self._journal, opened.path, upload, self._policy.upload_wait_s)

    def release(self, handle: int) -> None:
        """The last descriptor is closed."""
        with self._lock:
            opened = self._handles.pop(handle, None)
        if opened is None:
            return
        if opened.reader is not None:
            opened.reader.close()
        if opened.file is not None:
            self._unregister(opened.file)

    def _unregister(self, file: LocalFile) -> None:
        with self._lock:
            file.handles -= 1
            if file.handles:
                return
            self._view.closed(file)
        file.close()

    def _commit(self, path: str, file: LocalFile) -> Upload | None:
        """Hand a file's bytes to the journal; the row that holds them, or None once they are an image.

        Raises OSError: the bytes are not whole, or could not be kept.
        """
        if file.copy_of is not None and self._copies.commit(path, file):
            return None
        with file.lock:
            if file.phase is Phase.FAILED:
                raise OSError(file.errno, os.strerror(file.errno), file.key.filename)
            if file.phase is Phase.COMMITTED or file.unlinked:
                return file.upload
            try:
                new = self._describe(file)  # before the fsync: the disk is writing meanwhile
                file.spool_file.fsync()
                upload = (
                    self._journal.add(new)
                    if file.upload is None
                    else self._journal.replace(file.upload.id, new)
                )
            except OSError as error:
                file.fail(error)
                raise
            file.committed(upload)
        self._view.changed()
        if upload.state is State.HELD:
            log.info("%s is held here: %s", file.key.filename, upload.reason)
        return upload

    def _describe(self, file: LocalFile) -> NewUpload:
        key = file.key
        state, reason, width, height = rules.judge(file.spool_file.path, key.filename, file.size_bytes())
        return NewUpload(
            dataset_id=key.dataset_id,
            folder=key.folder,
            filename=key.filename,
            spool_name=file.spool_file.name,
            size_bytes=file.size_bytes(),
            mtime_ns=file.modified_ns(),
            width=width,
            height=height,
            state=state,
            reason=reason,
            replaces_image_id=file.replaces_image_id,
        )

    # Removing, moving, making folders

    def unlink(self, path: str) -> None:
        """rm; see `fs/entries`."""
        self._entries.unlink(path)

    def mkdir(self, path: str) -> None:
        """mkdir; see `fs/entries`."""
        self._entries.mkdir(path)

    def rmdir(self, path: str) -> None:
        """rmdir; see `fs/entries`."""
        self._entries.rmdir(path)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        """mv; see `fs/rename`."""
        self._renames.rename(old, new, flags)

    # Times, owners, attributes

    def utimens(
        self, path: str | None, atime_ns: int | None, mtime_ns: int | None, handle: int | None = None
    ) -> None:
        """Keep a modification time, in ns since 1970, for good. None leaves it; access times are not kept."""
        if mtime_ns is None:
            return
        if handle is not None:
            opened = self._handle(handle)
            if opened.image is not None:
                self._keep_time(opened.image.id, mtime_ns)
            elif opened.file is not None:
                self._set_file_time(opened.file, mtime_ns)
            return
        assert path is not None  # The adapter gives one of them.
        node = self._view.resolve(path)
        if isinstance(node, LocalNode) and node.file is not None:
            self._set_file_time(node.file, mtime_ns)
        elif isinstance(node, LocalNode) and node.upload is not None:
            self._set_upload_time(node.upload, mtime_ns)
        elif isinstance(node, ImageNode):
            self._keep_time(node.image.id, mtime_ns)
        elif isinstance(node, FolderNode):
            self._keep_time(node.identity, mtime_ns)
        self._view.changed()

    def _set_file_time(self, file: LocalFile, mtime_ns: int) -> None:
        with file.lock:
            file.mtime_ns = mtime_ns
            if file.upload is not None:
                file.upload = self._set_upload_time(file.upload, mtime_ns)
            elif file.is_image and file.replaces_image_id is not None:
                self._keep_time(file.replaces_image_id, mtime_ns)
        self._view.changed()

    def _set_upload_time(self, upload: Upload, mtime_ns: int) -> Upload:
        row = self._journal.set_mtime(upload.id, mtime_ns) or upload
        if row.image is not None:  # It is landing: the view knows it as an image already.
            self._view.set_time(row.image.id, mtime_ns)
        return row

    def _keep_time(self, identity: str, mtime_ns: int) -> None:
        identity = self._view.own_id(identity)
        self._journal.set_image_mtime(identity, mtime_ns)
        self._view.set_time(identity, mtime_ns)

    def chmod(self, path: str, mode: int) -> None:
        """Accepted without effect, since `cp -p`, rsync -a and tar must not fail."""
        self._view.resolve(path)

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Accepted without effect, like chmod."""
        self._view.resolve(path)

    def getxattr(self, path: str, name: str) -> bytes:
        """The value of an attribute; see `fs/xattrs`. Raises OSError: ENODATA for one that is not there."""
        # The kernel asks for security.capability with each file written: not worth a look-up.
        if not name.startswith("user."):
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA), path)
        return self._xattrs.get(path, self._view.resolve(path), name)

    def listxattr(self, path: str) -> list[str]:
        """The names of the attributes that a file has."""
        return self._xattrs.names(self._view.resolve(path))

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        """Change status, split or tags on the service; returns when that is done."""
        self._xattrs.set(path, self._owned(path), name, value, flags)

    def removexattr(self, path: str, name: str) -> None:
        """Empty split or tags."""
        self._xattrs.remove(path, self._owned(path), name)

    def _owned(self, path: str) -> Node:
        """What is at a path; an image that is being copied on the service is waited for."""
        node = self._view.resolve(path)
        provisional = isinstance(node, ImageNode) and is_provisional(node.image.id)
        return self._desk.own(path, node) if isinstance(node, ImageNode) and provisional else node

    # What others tell the drive

    def landed(self, upload: Upload, image: Image) -> None:
        """The uploader has registered an image; its row and its spool file are still there."""
        key = Key(upload.dataset_id, upload.folder, upload.filename)
        if image.file_size == upload.size_bytes:  # else the service stored other bytes (HEIC as PNG)
            self._content.adopt(image.id, self._spool.path(upload.spool_name))
        self._view.landed(upload, image)
        self._metadata.adopt(image)
        file = self._view.open_file(key)
        if file is not None:
            with file.lock:
                if file.upload is not None and file.upload.id == upload.id:
                    file.landed(image.id)
        self._view.changed()

    def archived(self, dataset_id: str, image_id: str) -> None:
        """An image is archived now: a listing that was asked for before must not bring it back."""
        self._metadata.archived(dataset_id, image_id)
        self._view.changed()

    def gone(self, dataset_id: str, image_id: str) -> None:
        """An image was deleted for good."""
        self._metadata.forget(dataset_id, image_id)
        self._view.changed()

    def done(self, change: Change, became: Became) -> None:
        """A change was made on the service; it is still in the journal."""
        self._desk.done(change, became)

    def refused(self, change: Change, reason: str) -> None:
        """The service refused a change, which is in the journal no more: what is there is shown again."""
        self._desk.refused(change)

    def being_written(self) -> int:
        """How many files are open with bytes that the journal does not have yet."""
        return sum(file.phase is Phase.WRITING for file in self._view.open_files())

    def refresh(self, path: str) -> None:
        """`pictofs refresh`: ask the service again at the next look."""
        node = self._view.resolve(path)
        self._metadata.refresh(None if isinstance(node, RootNode) else node.dataset.id)
        self._view.changed()
