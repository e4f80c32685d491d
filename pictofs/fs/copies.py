"""cp within a dataset without moving bytes: a new file that is to be a copy of an image, made on the service.

The kernel asks for it with copy_file_range. The new file has the image's size at once; when it is closed the
change that copies the image is in the journal, and until the service has answered, the copy is shown under a
provisional id and read from its source. Whoever writes to the file instead has the bytes fetched first.

Lock order: that of `fs/vfs`.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from pictofs.api.models import Image
from pictofs.cache.metadata import MetadataCache
from pictofs.cache.provisional import is_provisional
from pictofs.fs.copying import to_spool
from pictofs.fs.desk import ChangeDesk
from pictofs.fs.handles import LocalFile, Phase
from pictofs.fs.view import View
from pictofs.transfer.download import Downloader, Reader
from pictofs.transfer.journal import Journal
from pictofs.transfer.records import ChangeKind, copying
from pictofs.transfer.spool import Spool

__all__ = ["Copies"]


class Copies:
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
    ) -> None:
        self._view = view
        self._metadata = metadata
        self._journal = journal
        self._spool = spool
        self._downloader = downloader
        self._desk = desk

    def begin(self, image: Image, file: LocalFile, size: int) -> int | None:
        """Make a new file a copy of an image; its size. None if it has to be read and written."""
        source = self._source(image, file)
        if source is None or not 0 < source.file_size <= size:
            return None
        with file.lock:
            if not file.is_untouched:
                return None
            file.copy_of = source
        return source.file_size

    def _source(self, image: Image, file: LocalFile) -> Image | None:
        """The image as it is now, its size known, if the service can make the file from it: under the same
        name, in another folder of the same dataset; and if nothing is to happen to it before."""
        key = file.key
        if (image.dataset_id, image.filename) != (key.dataset_id, key.filename):
            return None
        with self._metadata.reading(key.dataset_id) as tree:
            now = tree.image(image.id)
        latest = self._journal.changes.latest(image.id)
        if (
            now is None
            or (now.filename, now.dataset_id) != (key.filename, key.dataset_id)
            or now.directory_path == key.folder
            or now.id in self._journal.hidden()
            or (latest is not None and latest.kind is not ChangeKind.MOVE)
            or self._journal.find(now.dataset_id, now.directory_path, now.filename) is not None
        ):
            return None
        return replace(now, file_size=self._view.image_attributes(now).size)

    def commit(self, path: str, file: LocalFile) -> bool:
        """Hand a copy to the journal; whether that is done, or need not be. Else its bytes are here now, to
        be uploaded.

        Raises:
            OSError: it could not be kept.
            PictographError: the bytes did not all arrive.
        """
        copy_of, key = file.copy_of, file.key
        is_new = file.phase is Phase.WRITING and file.replaces_image_id is None
        source = self._source(copy_of, file) if copy_of and is_new else None
        with file.lock:
            if copy_of is None or file.phase is Phase.FAILED:
                return False
            if file.phase is Phase.COMMITTED or file.unlinked:
                return True
            is_handed_in = source is not None and file.key == key  # else it was renamed just now
            if source is not None and is_handed_in:
                mtime_ns = file.modified_ns()
                change = copying(source, copy_of.file_size, key.folder, path)
                assert change.image is not None  # A copy has one.
                copy_id = change.image.id
                self._view.copied(file, copy_id, mtime_ns)
                (change_id,) = self._desk.remember([change], {copy_id: mtime_ns})
                file.copied(change_id, copy_id)
        if not is_handed_in:
            self.fill(file)
        self._view.changed()
        return is_handed_in

    def wait(self, path: str, file: LocalFile) -> None:
        """Wait for the copy, if it is one. Raises OSError: it was refused, or takes too long."""
        change_id = file.copy_change_id
        if change_id is not None:
            self._desk.wait(path, [change_id])

    # Bytes

    @contextmanager
    def reader(self, file: LocalFile) -> Iterator[Reader | None]:
        """A reader of what an open file is a copy of; None if its bytes are in the spool."""
        copy_of = file.copy_of
        if copy_of is None:
            yield None
            return
        with closing(self._downloader.open(copy_of)) as reader:
            yield reader

    def readable(self, image: Image) -> Image:
        """The image to read, for one that is shown under a provisional id.

        Raises:
            FileNotFoundError: it has gone; look again.
        """
        change = self._journal.changes.latest(image.id)
        if change is not None and change.source is not None:
            return change.source
        own_id = self._view.own_id(image.id)
        if own_id == image.id:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), image.filename)
        return replace(image, id=own_id)

    def settle(self, path: str, file: LocalFile) -> None:
        """Before a copy is written to: know the id of the image that is to be replaced.

        Raises:
            OSError: it was refused, or takes too long.
        """
        self.wait(path, file)
        with file.lock:
            if file.copy_change_id is not None and file.replaces_image_id is not None:
                own_id = self._view.own_id(file.replaces_image_id)
                if is_provisional(own_id):
                    raise OSError(errno.EIO, "the copy is not known here yet; open it again", path)
                file.replaces_image_id = own_id

    def fill(self, file: LocalFile) -> None:
        """Fetch the bytes of a copy that is going to be written to, or cannot be made on the service; but one
        that was handed in meanwhile stays a copy.

        Raises:
            OSError: no room on the disk.
            PictographError: the bytes did not all arrive.
        """
        copy_of = file.copy_of
        if copy_of is None:
            return
        spool_file = to_spool(copy_of, self._downloader, self._spool)
        with file.lock:
            if file.copy_of is copy_of and not is_provisional(file.replaces_image_id or ""):
                mtime_ns = file.modified_ns()
                file.fill(spool_file)
                file.mtime_ns = mtime_ns
                return
        spool_file.close()
        self._spool.remove(spool_file.name)
