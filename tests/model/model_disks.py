"""Disks to compare: a mount or a local folder through the kernel, the vfs without one, and a dictionary.

All have the same few calls, with absolute paths below the disk's root (`/photos/a/1.jpg`). They raise OSError
with an errno; handles are opaque. The dictionary is POSIX in a hundred lines: what a local disk would do.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pictofs.fs import errnos
from pictofs.fs.vfs import Vfs

READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class About:
    """What stat says and the comparison looks at."""

    is_folder: bool
    size_bytes: int
    mtime_ns: int


class Disk(Protocol):
    """What a program can ask of a disk."""

    def open(self, path: str, flags: int) -> Any: ...
    def read(self, handle: Any) -> bytes: ...
    def write(self, handle: Any, data: bytes, offset: int) -> None: ...
    def copy(self, source: Any, target: Any) -> None: ...
    def close(self, handle: Any) -> None: ...
    def truncate(self, path: str, length: int) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def mkdir(self, path: str) -> None: ...
    def rmdir(self, path: str) -> None: ...
    def utimens(self, path: str, mtime_ns: int) -> None: ...
    def stat(self, path: str) -> About: ...
    def names(self, path: str) -> list[str]: ...


def tree(disk: Disk, roots: list[str]) -> dict[str, About]:
    """Everything at and below these folders, by path; a root that is not there is left out."""
    found: dict[str, About] = {}
    waiting = list(roots)
    while waiting:
        path = waiting.pop()
        try:
            found[path] = disk.stat(path)
            if found[path].is_folder:
                waiting += [f"{path}/{name}" for name in disk.names(path)]
        except FileNotFoundError:
            found.pop(path, None)
    return found


def contents(disk: Disk, path: str) -> bytes:
    """A file's bytes."""
    handle = disk.open(path, os.O_RDONLY)
    try:
        return disk.read(handle)
    finally:
        disk.close(handle)


class OsDisk:
    """A folder of this machine: a mount, or a plain one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def _at(self, path: str) -> Path:
        return Path(f"{self.root}{path}")

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags | os.O_CLOEXEC, 0o644)

    def read(self, handle: int) -> bytes:
        return os.pread(handle, READ_BYTES, 0)

    def write(self, handle: int, data: bytes, offset: int) -> None:
        assert os.pwrite(handle, data, offset) == len(data)

    def copy(self, source: int, target: int) -> None:
        while os.copy_file_range(source, target, READ_BYTES):
            pass

    def close(self, handle: int) -> None:
        os.close(handle)

    def truncate(self, path: str, length: int) -> None:
        os.truncate(self._at(path), length)

    def rename(self, old: str, new: str) -> None:
        self._at(old).rename(self._at(new))

    def unlink(self, path: str) -> None:
        self._at(path).unlink()

    def mkdir(self, path: str) -> None:
        self._at(path).mkdir()

    def rmdir(self, path: str) -> None:
        self._at(path).rmdir()

    def utimens(self, path: str, mtime_ns: int) -> None:
        os.utime(self._at(path), ns=(mtime_ns, mtime_ns))

    def stat(self, path: str) -> About:
        status = self._at(path).stat()
        is_folder = stat.S_ISDIR(status.st_mode)
        return About(is_folder, 0 if is_folder else status.st_size, status.st_mtime_ns)

    def names(self, path: str) -> list[str]:
        return sorted(os.listdir(self._at(path)))


class VfsDisk:
    """The vfs called as the kernel calls it: what the kernel settles by itself is settled here."""

    def __init__(self, vfs: Vfs) -> None:
        self._vfs = vfs

    def _call(self, operation: Any, *arguments: Any) -> Any:
        try:
            return operation(*arguments)
        except Exception as error:
            number = errnos.errno_of(error)
            raise OSError(number, os.strerror(number)) from error

    def _is_there(self, path: str) -> bool:
        try:
            self._call(self._vfs.getattr, path)
        except FileNotFoundError:
            return False
        return True

    def open(self, path: str, flags: int) -> int:
        if flags & os.O_CREAT and not self._is_there(path):
            made: int = self._call(self._vfs.create, path, 0o644, flags)
            return made
        if flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        opened: int = self._call(self._vfs.open, path, flags)
        return opened

    def read(self, handle: int) -> bytes:
        buffer = bytearray(READ_BYTES)
        count: int = self._call(self._vfs.read_into, handle, memoryview(buffer), 0, lambda: False)
        return bytes(buffer[:count])

    def write(self, handle: int, data: bytes, offset: int) -> None:
        if data:  # The kernel does not send an empty write.
            assert self._call(self._vfs.write, handle, memoryview(data), offset) == len(data)

    def copy(self, source: int, target: int) -> None:
        if self._call(self._vfs.copy_range, source, 0, target, 0, READ_BYTES) is None:
            self.write(target, self.read(source), 0)

    def close(self, handle: int) -> None:
        try:
            self._call(self._vfs.flush, handle)
        finally:
            self._call(self._vfs.release, handle)

    def truncate(self, path: str, length: int) -> None:
        self._call(self._vfs.truncate, path, length)

    def rename(self, old: str, new: str) -> None:
        self._call(self._vfs.rename, old, new)

    def unlink(self, path: str) -> None:
        self._call(self._vfs.unlink, path)

    def mkdir(self, path: str) -> None:
        self._call(self._vfs.mkdir, path)

    def rmdir(self, path: str) -> None:
        self._call(self._vfs.rmdir, path)

    def utimens(self, path: str, mtime_ns: int) -> None:
        self._call(self._vfs.utimens, path, None, mtime_ns)

    def stat(self, path: str) -> About:
        attributes = self._call(self._vfs.getattr, path)
        is_folder = stat.S_ISDIR(attributes.mode)
        return About(is_folder, 0 if is_folder else attributes.size, attributes.mtime_ns)

    def names(self, path: str) -> list[str]:
        return sorted(entry.name for entry in self._call(self._vfs.opendir, path).entries)


@dataclass(eq=False)
class Node:
    """A file of the dictionary; a folder when `data` is None."""

    data: bytearray | None = None
    mtime_ns: int = 0


@dataclass
class DictDisk:
    """What a local disk would do, in memory."""

    nodes: dict[str, Node] = field(default_factory=lambda: {"": Node()})

    def open(self, path: str, flags: int) -> Node:
        node = self._find(path)
        if node is None:
            if not flags & os.O_CREAT:
                raise _refused(errno.ENOENT)
            self._parent(path)
            node = self.nodes[path] = Node(bytearray())
        elif flags & os.O_CREAT and flags & os.O_EXCL:
            raise _refused(errno.EEXIST)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            return node
        if node.data is None:
            raise _refused(errno.EISDIR)
        if flags & os.O_TRUNC:
            node.data.clear()
        return node

    def read(self, handle: Node) -> bytes:
        if handle.data is None:
            raise _refused(errno.EISDIR)
        return bytes(handle.data)

    def write(self, handle: Node, data: bytes, offset: int) -> None:
        assert handle.data is not None
        handle.data.extend(bytes(max(0, offset - len(handle.data))))
        handle.data[offset : offset + len(data)] = data

    def copy(self, source: Node, target: Node) -> None:
        self.write(target, self.read(source), 0)

    def close(self, handle: Node) -> None:
        pass

    def truncate(self, path: str, length: int) -> None:
        node = self._need(path)
        if node.data is None:
            raise _refused(errno.EISDIR)
        node.data[:] = bytes(node.data[:length]).ljust(length, b"\0")

    def rename(self, old: str, new: str) -> None:
        source = self._need(old)
        self._parent(new)
        target = self._find(new)
        if new.startswith(f"{old}/"):
            raise _refused(errno.EINVAL)
        if old.startswith(f"{new}/"):
            raise _refused(errno.ENOTEMPTY)
        if target is source:
            return
        if target is not None:
            if source.data is None and target.data is not None:
                raise _refused(errno.ENOTDIR)
            if source.data is not None and target.data is None:
                raise _refused(errno.EISDIR)
            if self._below(new):
                raise _refused(errno.ENOTEMPTY)
        for path in [old, *self._below(old)]:
            self.nodes[new + path.removeprefix(old)] = self.nodes.pop(path)

    def unlink(self, path: str) -> None:
        if self._need(path).data is None:
            raise _refused(errno.EISDIR)
        del self.nodes[path]

    def mkdir(self, path: str) -> None:
        if self._find(path) is not None:
            raise _refused(errno.EEXIST)
        self._parent(path)
        self.nodes[path] = Node()

    def rmdir(self, path: str) -> None:
        if self._need(path).data is not None:
            raise _refused(errno.ENOTDIR)
        if self._below(path):
            raise _refused(errno.ENOTEMPTY)
        del self.nodes[path]

    def utimens(self, path: str, mtime_ns: int) -> None:
        self._need(path).mtime_ns = mtime_ns

    def stat(self, path: str) -> About:
        node = self._need(path)
        return About(node.data is None, len(node.data or b""), node.mtime_ns)

    def names(self, path: str) -> list[str]:
        return sorted(p.removeprefix(f"{path}/") for p in self._below(path) if "/" not in p[len(path) + 1 :])

    def _below(self, path: str) -> list[str]:
        return [other for other in self.nodes if other.startswith(f"{path}/")]

    def _find(self, path: str) -> Node | None:
        if path not in self.nodes:
            self._walk(path)
        return self.nodes.get(path)

    def _need(self, path: str) -> Node:
        node = self._find(path)
        if node is None:
            raise _refused(errno.ENOENT)
        return node

    def _parent(self, path: str) -> None:
        if path.rpartition("/")[0] not in self.nodes:
            raise _refused(errno.ENOENT)

    def _walk(self, path: str) -> None:
        """ENOTDIR when a file stands where a folder should."""
        parent = path.rpartition("/")[0]
        while parent:
            node = self.nodes.get(parent)
            if node is not None and node.data is not None:
                raise _refused(errno.ENOTDIR)
            parent = parent.rpartition("/")[0]


def _refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))
