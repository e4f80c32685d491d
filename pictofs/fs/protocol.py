"""What the FUSE adapter asks of a file system. `fs/vfs` is one, the tests' in-memory fake another.

A shape only: no code, no state, nothing of FUSE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from pictofs.fs.attributes import Attributes, Listing, StatFs

__all__ = ["VfsProtocol"]


class VfsProtocol(Protocol):
    """What the adapter calls, from many threads at once.

    Paths are absolute, decoded from UTF-8 with surrogateescape. Errors are exceptions, see `fs/errnos`.
    A `handle` is what `open` or `create` returned; with one, `path` may be None, and the handle decides: the
    file may have been renamed or removed since. Times are nanoseconds since 1970.
    """

    def start(self) -> None:
        """Called once, in the process that serves, before any other call. An exception ends the mount."""

    def getattr(self, path: str | None, handle: int | None) -> Attributes: ...
    def opendir(self, path: str) -> Listing: ...
    def open(self, path: str, flags: int) -> int:
        """`flags` as in open(2); O_TRUNC is to be honoured, O_CREAT and O_EXCL never come here."""

    def create(self, path: str, mode: int, flags: int) -> int: ...
    def read_into(
        self, handle: int, buffer: memoryview, offset: int, is_interrupted: Callable[[], bool]
    ) -> int:
        """Fill libfuse's own buffer; fewer bytes only at the end of the file: the kernel takes fewer for the
        end. How many they were. Who has to wait asks now and then whether to give up, with EINTR."""

    def write(self, handle: int, data: memoryview, offset: int) -> int:
        """`data` is libfuse's own buffer: valid during the call only, so copy what outlives it."""

    def copy_range(
        self, source: int, source_offset: int, target: int, target_offset: int, size: int
    ) -> int | None:
        """Have bytes of one open file in another without reading them; how many. None: not in this way, the
        program is to read and write them."""

    def truncate(self, path: str | None, length: int, handle: int | None) -> None: ...
    def flush(self, handle: int) -> None:
        """Each close(2) of a descriptor, several per handle; its error is close's."""

    def fsync(self, handle: int) -> None: ...
    def release(self, handle: int) -> None:
        """The last use of the handle, some time after the last close; its error reaches nobody."""

    def unlink(self, path: str) -> None: ...
    def rename(self, old: str, new: str, flags: int) -> None:
        """`flags` is 0 or RENAME_NOREPLACE (1)."""

    def mkdir(self, path: str) -> None: ...
    def rmdir(self, path: str) -> None: ...
    def utimens(
        self, path: str | None, atime_ns: int | None, mtime_ns: int | None, handle: int | None
    ) -> None:
        """None leaves a time as it is."""

    def chmod(self, path: str, mode: int) -> None: ...
    def chown(self, path: str, uid: int, gid: int) -> None:
        """-1 leaves an id as it is."""

    def statfs(self) -> StatFs: ...
    def getxattr(self, path: str, name: str) -> bytes: ...
    def listxattr(self, path: str) -> list[str]: ...
    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None: ...
    def removexattr(self, path: str, name: str) -> None: ...
