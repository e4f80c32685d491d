"""The spool: a private folder that holds the bytes of files not yet on the server.

Owns the files in its folder and their durability; knows nothing of rows, names on the server or uploads.
A spool file counts only once a journal row names it, so the order is always: directory entry fsynced, bytes
fsynced, row committed. Entries are made ahead, many with one fsync, which takes it out of the cost of a file.

Lock order: `Spool._lock` (the names made ahead) only. Each SpoolFile belongs to whoever opened it, and
positional reads and writes need no lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from pictofs.transfer.crashpoints import CrashPoint, reach

__all__ = ["JOURNAL_RESERVE_BYTES", "Spool", "SpoolFile"]

JOURNAL_RESERVE_BYTES = 8 * 1024 * 1024
"""Kept free on the spool's disk: the queue writes to its journal while it empties the spool, so a disk that
the spool filled to the last byte could never drain. Twice what the journal's write-ahead log grows to."""

_AHEAD_FILES = 64  # entries made with one fsync: 2 % of a file's cost then, and few to clean up at start
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
        self._lock = threading.Lock()
        self._ahead: list[str] = []  # empty files with durable entries, for `create`
        self._batch_files = 1
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        folder.chmod(_FOLDER_MODE)

    def create(self) -> SpoolFile:
        """A new empty file under a name never used before.

        Raises:
            OSError: ENOSPC when the disk's reserve is reached, or whatever the disk says.
        """
        self.check_room(0)
        with self._lock:
            if not self._ahead:
                self._make_ahead()
            name = self._ahead.pop()
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
        with self._lock:
            ahead = set(self._ahead)
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

    def _make_ahead(self) -> None:
        """With the lock held: one entry at first, for a lone file, then twice as many each time."""
        made: list[str] = []
        try:
            for _ in range(self._batch_files):
                name = secrets.token_hex(16)
                flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
                os.close(os.open(self.path(name), flags, _FILE_MODE))
                made.append(name)
        except OSError:
            if not made:
                raise
        self.sync_folder()
        self._ahead = made
        self._batch_files = min(2 * self._batch_files, _AHEAD_FILES)

    def _disk_free_bytes(self) -> int:
        disk = os.statvfs(self.folder)
        return disk.f_bavail * disk.f_frsize


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
