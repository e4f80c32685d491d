"""The spool: a private folder that holds the bytes of files not yet on the server.

Owns the files in its folder and their durability; knows nothing of rows, names on the server or uploads.
A spool file counts only once a journal row names it, so the order is always: directory entry fsynced, bytes
fsynced, row committed. Entries are made ahead, many with one fsync and by a thread of their own, which takes
them out of the cost of a file; and the disk is told to begin with each write at once, so that the fsync that
follows finds most of the work done.

Lock order: `Spool._made` (the names made ahead) only. Each SpoolFile belongs to
whoever opened it, and positional reads and writes need no lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from pictofs.transfer.crashpoints import CrashPoint, reach

__all__ = ["JOURNAL_RESERVE_BYTES", "Spool", "SpoolFile"]

log = logging.getLogger(__name__)

JOURNAL_RESERVE_BYTES = 8 * 1024 * 1024
"""Kept free on the spool's disk: the queue writes to its journal while it empties the spool, so a disk that
the spool filled to the last byte could never drain. Twice what the journal's write-ahead log grows to."""

_AHEAD_FILES = 64  # entries made with one fsync: 2 % of a file's cost then, and few to clean up at start
_REFILL_BELOW = _AHEAD_FILES // 2  # left when the next are made, so that they are ready in time
_COPY_CHUNK_BYTES = 1024 * 1024
_FILE_MODE = 0o600
_FOLDER_MODE = 0o700


class SpoolFile:
    """One open spool file, for reading and writing at any offset from any thread.

    Attributes:
        name: its name in the spool, as a journal row records it.
        path: where it is.
        fd: the open descriptor, closed by `close()`.
    """

    __slots__ = ("_spool", "fd", "name", "path")

    def __init__(self, spool: Spool, name: str, fd: int) -> None:
        self._spool = spool
        self.name = name
        self.path = spool.path(name)
        self.fd = fd

    def size(self) -> int:
        """Its length in bytes."""
        return os.fstat(self.fd).st_size

    def pread(self, size_bytes: int, offset_bytes: int) -> bytes:
        """Up to `size_bytes` from `offset_bytes`; fewer only at the end of the file."""
        return os.pread(self.fd, size_bytes, offset_bytes)

    def pwrite(self, data: bytes | memoryview, offset_bytes: int) -> int:
        """Writes all of `data`; returns its length.

        Raises:
            OSError: ENOSPC, also when less than the spool's reserve would stay free.
        """
        self._spool.check_room(len(data))
        view = memoryview(data)
        while view:
            written = os.pwrite(self.fd, view, offset_bytes)
            view = view[written:]
            offset_bytes += written
        _begin_writing(self.fd)
        return len(data)

    def truncate(self, length_bytes: int) -> None:
        """Cuts or extends (with a hole) to `length_bytes`."""
        os.ftruncate(self.fd, length_bytes)

    def fsync(self) -> None:
        """Makes the bytes durable; its directory entry is already."""
        reach(CrashPoint.SPOOL_WRITTEN)
        os.fsync(self.fd)
        reach(CrashPoint.SPOOL_SYNCED)

    def close(self) -> None:
        """Closes the descriptor; a second call does nothing."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def __enter__(self) -> SpoolFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Spool:
    """The folder of spool files, created 0700 with files 0600."""

    def __init__(self, folder: Path, *, min_free_bytes: int = JOURNAL_RESERVE_BYTES) -> None:
        """Args:
        folder: created if missing; its permissions are tightened to 0700.
        min_free_bytes: what must stay free on its disk; writes that would go below are ENOSPC.

        Raises:
            OSError: the folder cannot be made.
        """
        self.folder = folder
        self._min_free_bytes = min_free_bytes
        self._made = threading.Condition()
        self._ahead: list[str] = []  # empty files with durable entries, for `create`
        self._making: set[str] = set()  # those whose entries are not durable yet
        self._batch_files = 1  # a lone file needs no others made ahead
        self._stopping = False
        self._thread: threading.Thread | None = None
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        folder.chmod(_FOLDER_MODE)

    def start(self) -> None:
        """Make files ahead in a thread from now on, in the process that is to do the work."""
        self._thread = threading.Thread(target=self._make_ahead, name="pictofs-spool", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        with self._made:
            self._stopping = True
            self._made.notify_all()
        if self._thread is not None:
            self._thread.join()

    def create(self) -> SpoolFile:
        """A new empty file under a name never used before.

        Raises:
            OSError: ENOSPC when the disk's reserve is reached, or whatever the disk says.
        """
        self.check_room(0)
        name = self._take_ahead()
        fd = os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        reach(CrashPoint.SPOOL_CREATED)
        return SpoolFile(self, name, fd)

    def open(self, name: str) -> SpoolFile:
        """An existing file, for reading and writing.

        Raises:
            FileNotFoundError: it is gone: landed, rewritten or removed since its row was looked up.
        """
        fd = os.open(self.path(name), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        return SpoolFile(self, name, fd)

    def copy(self, source: SpoolFile) -> SpoolFile:
        """A new file with the bytes of an open one, not yet fsynced: for a rewrite of what is committed.

        Raises:
            OSError: ENOSPC and the like; nothing is left behind then.
        """
        self.check_room(source.size())
        target = self.create()
        try:
            _copy_bytes(source, target)
        except BaseException:
            target.close()
            self.remove(target.name)
            raise
        return target

    def link(self, name: str) -> str:
        """A second, durable name for the bytes of `name`. Those must not change from now on."""
        other = secrets.token_hex(16)
        os.link(self.path(name), self.path(other))
        self.sync_folder()
        return other

    def remove(self, name: str) -> None:
        """Deletes it if it is there. Not fsynced: what a power cut brings back goes at the next start."""
        with contextlib.suppress(FileNotFoundError):
            self.path(name).unlink()

    def path(self, name: str) -> Path:
        """Where `name` is, whether it exists or not."""
        if not name.isalnum():
            raise ValueError(f"not a spool name: {name!r}")
        return self.folder / name

    def names(self) -> Iterator[str]:
        """Every file in the spool, with or without a row; not the empty ones made ahead."""
        with self._made:
            ahead = {*self._ahead, *self._making}
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name not in ahead and entry.is_file(follow_symlinks=False):
                    yield entry.name

    def size_bytes(self, name: str) -> int | None:
        """The length of `name`, None when it does not exist."""
        try:
            return self.path(name).stat().st_size
        except FileNotFoundError:
            return None

    def free_bytes(self) -> int:
        """What may still be written here: the disk's free space less the reserve, never negative."""
        return max(0, self._disk_free_bytes() - self._min_free_bytes)

    def used_bytes(self) -> int:
        """The lengths of all spool files together; a file with two names counts twice."""
        return sum(self.size_bytes(name) or 0 for name in self.names())

    def check_room(self, wanted_bytes: int) -> None:
        """Raises OSError(ENOSPC) when `wanted_bytes` more would eat into the reserve."""
        if self._disk_free_bytes() - wanted_bytes < self._min_free_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder))

    def sync_folder(self) -> None:
        """Makes the directory entries made so far durable."""
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def set_aside(self, name: str, folder: Path) -> Path:
        """Moves `name` out of the spool into `folder` (made 0700 if missing); returns where it is now."""
        folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
        target = folder / name
        self.path(name).rename(target)
        return target

    def _take_ahead(self) -> str:
        """A name made ahead. Without the thread, or when it is behind, they are made here."""
        with self._made:
            if not self._ahead:
                self._ahead = self._make(secrets.token_hex(16) for _ in range(self._batch_files))
                self._batch_files = min(2 * self._batch_files, _AHEAD_FILES)
            name = self._ahead.pop()
            if len(self._ahead) < _REFILL_BELOW:
                self._made.notify_all()
        return name

    def _make_ahead(self) -> None:
        """The thread: from the second file on, the next names are ready before they are needed."""
        while True:
            with self._made:
                self._made.wait_for(lambda: self._stopping or self._is_short())
                if self._stopping:
                    return
                self._making = {secrets.token_hex(16) for _ in range(_AHEAD_FILES)}
            made: list[str] = []
            try:
                made = self._make(self._making)
            except OSError as error:
                log.debug("no spool files were made ahead: %s", error)  # `create` will meet it, and say so
            with self._made:
                self._ahead += made
                self._making = set()
                if not made:
                    self._batch_files = 1

    def _is_short(self) -> bool:
        return self._batch_files > 2 and len(self._ahead) < _REFILL_BELOW

    def _make(self, names: Iterable[str]) -> list[str]:
        """Empty files with durable entries: as many as the disk takes, at least one."""
        made: list[str] = []
        try:
            for name in names:
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                os.close(os.open(self.path(name), flags, _FILE_MODE))
                made.append(name)
        except OSError:
            if not made:
                raise
        self.sync_folder()
        return made

    def _disk_free_bytes(self) -> int:
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize


_SYNC_FILE_RANGE_WRITE = 2  # linux/fs.h
_sync_file_range = ctypes.CDLL(None).sync_file_range
_sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


def _begin_writing(fd: int) -> None:
    """Have the disk begin with what was written. Only a hint: `fsync` waits for it, and tells of failures."""
    _sync_file_range(fd, 0, 0, _SYNC_FILE_RANGE_WRITE)


def _copy_bytes(source: SpoolFile, target: SpoolFile) -> None:
    remaining_bytes = source.size()
    offset_bytes = 0
    in_kernel = True  # copy_file_range shares blocks where the disk can
    while remaining_bytes:
        step_bytes = min(remaining_bytes, _COPY_CHUNK_BYTES)
        copied = 0
        if in_kernel:
            try:
                copied = os.copy_file_range(source.fd, target.fd, step_bytes, offset_bytes, offset_bytes)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP):
                    raise
            in_kernel = copied > 0
        if not copied:
            data = source.pread(step_bytes, offset_bytes)
            if not data:
                return  # cut shorter meanwhile
            copied = target.pwrite(data, offset_bytes)
        offset_bytes += copied
        remaining_bytes -= copied
