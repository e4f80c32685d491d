"""Open files. Two kinds: `Reader`s of uploaded images, and `LocalFile`s whose bytes are still here.

A `LocalFile` is one file at one place of the drive, shared by all handles that have it open, as an inode is:
what one writes the others read. Its phases:

    WRITING ──commit──────────▶ COMMITTED   the journal holds exactly these bytes
    WRITING ──write or commit fails──▶ FAILED   nothing is committed, flush says the errno, until
                                            the file is emptied and written anew
    COMMITTED ──write──▶ WRITING            on a copy: the committed bytes may be on their way
    FAILED ──truncate to 0──▶ WRITING

Lock order: `Vfs._lock`, then `LocalFile.lock`. A `LocalFile.lock` is held across fsync and the journal's
commit, so that a write cannot slip between the bytes and the row; never across a wait for the network.
"""

from __future__ import annotations

import enum
import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from pictofs.api.models import Image
from pictofs.imagefile import MAX_FILE_BYTES
from pictofs.transfer.download import Reader
from pictofs.transfer.journal import Upload
from pictofs.transfer.spool import Spool, SpoolFile


class Key(NamedTuple):
    """A file's place, in the service's names."""

    dataset_id: str
    folder: str
    filename: str


class Phase(enum.Enum):
    """Where a `LocalFile` stands between a program's writes and the journal."""

    WRITING = "writing"
    COMMITTED = "committed"
    FAILED = "failed"


class LocalFile:
    """A file whose bytes are in the spool.

    Attributes:
        key: where it is; changes with rename.
        spool_file: its bytes.
        upload: its journal row, None before the first commit and after the image has landed.
        committed_name: the spool file that the journal took over; the uploader removes that one.
        replaces_image_id: the uploaded image that the next commit replaces, or None: with `-o overwrite`, or
            when this very file landed while a program still writes it.
        copy_of: the uploaded image, its size known, of which this is to be a copy made on the service; the
            spool file is empty then.
        copy_change_id: the journal's change that makes the copy, once that is committed; the file is an image
            then, whose id is provisional until the change is done.
        mtime_ns: the time a program set, None while the last write counts.
        unlinked: removed while open; its bytes serve the open handles and are never committed again.
        handles: how many handles have it open.
        errno: why the phase is FAILED.
    """

    def __init__(self, key: Key, spool: Spool, spool_file: SpoolFile, upload: Upload | None = None) -> None:
        self.key = key
        self.lock = threading.RLock()
        self.spool_file = spool_file
        self.upload = upload
        self.committed_name = upload.spool_name if upload else None
        self.replaces_image_id = upload.replaces_image_id if upload else None
        self.copy_of: Image | None = None
        self.copy_change_id: int | None = None
        self.mtime_ns: int | None = upload.mtime_ns if upload else None
        self.unlinked = False
        self.handles = 0
        self.phase = Phase.COMMITTED if upload else Phase.WRITING
        self.errno = 0
        self._last_status: os.stat_result | None = None  # once closed: somebody may be looking at it still
        self._spool = spool

    @property
    def is_image(self) -> bool:
        """Whether the bytes are an image of the service by now and nothing was written since."""
        return self.phase is Phase.COMMITTED and self.upload is None

    @property
    def is_untouched(self) -> bool:
        """Whether it was made just now, and nothing was written."""
        is_new = self.phase is Phase.WRITING and self.upload is None and self.replaces_image_id is None
        return is_new and not self.unlinked and self.size_bytes() == 0

    def size_bytes(self) -> int:
        """How long the file is now, or was when it was closed."""
        copy_of = self.copy_of
        return self._status().st_size if copy_of is None else copy_of.file_size

    def modified_ns(self) -> int:
        """The time a program set, or that of the last write."""
        return self._status().st_mtime_ns if self.mtime_ns is None else self.mtime_ns

    def _status(self) -> os.stat_result:
        with self.lock:  # so that the descriptor is not closed or exchanged meanwhile
            return os.fstat(self.spool_file.fd) if self._last_status is None else self._last_status

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill a buffer from `offset`; how many bytes, fewer only at the end."""
        with self.lock:
            return os.preadv(self.spool_file.fd, [buffer], offset)

    def write(self, data: bytes | memoryview, offset: int) -> int:
        """Write and return how many bytes. Raises OSError: EFBIG past 50 MB, ENOSPC when the disk is full."""
        with self.lock, self._failing():
            self._check_size(offset + len(data))
            self._make_writable()
            return self.spool_file.pwrite(data, offset)

    def truncate(self, length: int) -> None:
        """Cut or extend. Raises OSError: EFBIG past 50 MB, ENOSPC when the disk is full."""
        with self.lock:
            if length == 0 and self.phase is Phase.FAILED:
                self.phase = Phase.WRITING
            if self.phase is Phase.COMMITTED and length == self.size_bytes():
                return
            with self._failing():
                self._check_size(length)
                self._make_writable(keep_bytes=length > 0)
                self.spool_file.truncate(length)

    def committed(self, upload: Upload) -> None:
        """The journal has these bytes."""
        self.upload = upload
        self.committed_name = upload.spool_name
        self.phase = Phase.COMMITTED

    def copied(self, change_id: int, image_id: str) -> None:
        """The journal has the change that makes it a copy, shown under this id."""
        self.copy_change_id = change_id
        self.replaces_image_id = image_id
        self.phase = Phase.COMMITTED

    def fill(self, spool_file: SpoolFile) -> None:
        """What it is a copy of is here now, to be changed or to go up like any other file."""
        self.spool_file.close()
        self._spool.remove(self.spool_file.name)
        self.spool_file = spool_file
        self.copy_of = self.copy_change_id = None
        self.phase = Phase.WRITING

    def fail(self, error: OSError) -> None:
        """These bytes are not whole, or could not be kept: they must not be committed."""
        self.phase = Phase.FAILED
        self.errno = error.errno or errno.EIO

    def landed(self, image_id: str) -> None:
        """The committed bytes are an image now. What is written from here on replaces it."""
        with self.lock:
            self.upload = None
            self.replaces_image_id = image_id

    def close(self) -> None:
        """Let go of the bytes; those that the journal never took over are removed."""
        with self.lock:
            self._last_status = self._status()
            self.spool_file.close()
            if self.spool_file.name != self.committed_name:
                self._spool.remove(self.spool_file.name)

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Remember that a change failed: half a file must not be committed by the close that follows."""
        if self.phase is Phase.FAILED:
            raise OSError(self.errno, os.strerror(self.errno))
        try:
            yield
        except OSError as error:
            self.fail(error)
            raise

    def _check_size(self, length: int) -> None:
        if length > MAX_FILE_BYTES:
            raise OSError(
                errno.EFBIG,
                f"{self.key.filename} passes {MAX_FILE_BYTES >> 20} MB, the most the service takes",
            )

    def _make_writable(self, *, keep_bytes: bool = True) -> None:
        if self.phase is Phase.COMMITTED:
            committed = self.spool_file
            self.spool_file = self._spool.copy(committed) if keep_bytes else self._spool.create()
            committed.close()
        self.phase = Phase.WRITING
        self.mtime_ns = None


@dataclass(slots=True)
class Handle:
    """What one open(2) gave: a local `file`, or the `reader` of an `image`."""

    path: str
    reader: Reader | None = None
    image: Image | None = None
    file: LocalFile | None = None
    writable: bool = False
