"""A file system in memory with the surface of `VfsProtocol`, and levers for tests: faults, gates, counters.

Knows nothing of FUSE. One lock, `_lock`, guards the tree, the handles and the counters.
"""

from __future__ import annotations

import errno
import os
import ssl
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pictofs.api import errors
from pictofs.fs.attributes import Attributes, Entry, Listing, StatFs
from pictofs.fs.kernel import KernelCache

MANY = 10_000
MAX_FILE_BYTES = 50 * 1024 * 1024
STATFS = StatFs(
    block_size=4096,
    blocks=1_000_000,
    blocks_free=250_000,
    blocks_available=200_000,
    files=777,
    files_free=555,
    name_max=255,
)
HOSTILE_NAMES = [
    b"caf\xe9.jpg",  # Latin-1, no UTF-8
    "café.jpg".encode(),
    b"\xff\xfe\xfd",
    b"two\nlines\ttab",
    "🏔️ sunrise.png".encode(),
    b" leading and trailing ",
    b"-rf",
    b"*?[a]$(x)`y`\\'\"",
    b"x" * 255,
    "\u202egpj.exe".encode(),
]
# Names that no file system can list; they must not take the rest of the folder down.
UNLISTABLE_NAMES = ["a/b.jpg", "nul\0.jpg", "lone \ud800 surrogate.jpg", "", "y" * 256]


def refused(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def exception_named(name: str) -> BaseException:
    """A class of `api/errors`, "OSError <number>", or one of the awkward ones."""
    awkward: dict[str, Callable[[], BaseException]] = {
        "SSLError": lambda: ssl.SSLError(1, "certificate verify failed"),
        "TimeoutError": lambda: TimeoutError("no errno"),
        "ValueError": lambda: ValueError("a bug"),
        "SystemExit": lambda: SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt,
        "ApiError 413": lambda: errors.ApiError("too large", status=413),
    }
    if name in awkward:
        return awkward[name]()
    kind, _, number = name.partition(" ")
    if kind == "OSError":
        return refused(int(number))
    cls = getattr(errors, kind)
    if issubclass(cls, errors.ApiError):
        return cls("from a test", status=400)
    if issubclass(cls, errors.StorageError):
        return cls("from a test", status=403)
    if issubclass(cls, errors.IncompleteTransferError):
        return cls("from a test", expected=2, received=1)
    return cls("from a test")


@dataclass(eq=False)
class Node:
    """A file (`data`) or a folder (`children`)."""

    ino: int
    data: bytearray | None = None
    children: dict[str, Node] | None = None
    atime_ns: int = 0
    mtime_ns: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)
    listing: tuple[int, Listing] | None = None  # with the tree's version that it shows

    def attributes(self) -> Attributes:
        if self.children is not None:
            mode, nlink, size = stat.S_IFDIR | 0o755, 2, 0
            nlink += sum(child.children is not None for child in self.children.values())
        else:
            assert self.data is not None
            mode, nlink, size = stat.S_IFREG | 0o644, 1, len(self.data)
        return Attributes(
            ino=self.ino,
            mode=mode,
            nlink=nlink,
            size=size,
            atime_ns=self.atime_ns,
            mtime_ns=self.mtime_ns,
            ctime_ns=self.mtime_ns,
            uid=os.getuid(),
            gid=os.getgid(),
        )


class FakeVfs:
    """Does what a local disk does, within `VfsProtocol`.

    Attributes, all for tests:
        kernel: what its mount is handed.
        calls: how often each operation was called.
        last_flags: of open or create.
        faults: operation → name of the exception it raises (see `exception_named`), on every path.
        gate: open of a name that starts with "slow" waits for it; it is open at first.
        waiting: how many do.
        thread_states: one entry per thread that called in: how many calls its threading.local remembers.
    """

    def __init__(self, *, fail_start: bool = False) -> None:
        self.kernel = KernelCache()
        self._lock = threading.Lock()
        self._version = 0  # of the tree: names, sizes, times
        self._inos = iter(range(2, 1 << 40))
        self._handles: dict[int, Node] = {}
        self._handle_numbers = iter(range(1, 1 << 40))
        self._fail_start = fail_start
        self._local = threading.local()
        self.calls: Counter[str] = Counter()
        self.last_flags = 0
        self.faults: dict[str, str] = {}
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = 0
        self.thread_states: dict[int, int] = {}
        self.root = Node(1, children={}, mtime_ns=time.time_ns())
        many: dict[str, Node] = {}
        for index in range(MANY):
            # Inodes from all 64 bits, as hashes give.
            ino = (index * 0x9E3779B97F4A7C15 + 1) % (1 << 64)
            many[f"image-{index:05}.jpg"] = Node(
                ino, bytearray(index % 7), mtime_ns=1_500_000_000_000_000_000 + index
            )
        hostile = {name.decode("utf-8", "surrogateescape"): self._file() for name in HOSTILE_NAMES}
        hostile |= {name: self._file() for name in UNLISTABLE_NAMES}
        for name, children in (("many", many), ("hostile", hostile)):
            assert self.root.children is not None
            self.root.children[name] = Node(next(self._inos), children=children, mtime_ns=time.time_ns())

    def _file(self) -> Node:
        now_ns = time.time_ns()
        return Node(next(self._inos), bytearray(), atime_ns=now_ns, mtime_ns=now_ns)

    def start(self) -> None:
        if self._fail_start:
            raise RuntimeError("the vfs cannot start")

    # --- what all operations share

    def _enter(self, operation: str, path: str = "") -> None:
        remembered = self._local.calls = getattr(self._local, "calls", 0) + 1
        with self._lock:
            self.calls[operation] += 1
            self.thread_states[threading.get_native_id()] = remembered
            fault = self.faults.get(operation)
        if fault is not None:
            raise exception_named(fault)
        if path.rpartition("/")[2].startswith("slow") and operation == "open":
            with self._lock:
                self.waiting += 1
            opened = self.gate.wait(60)
            with self._lock:
                self.waiting -= 1
            if not opened:
                raise refused(errno.ETIMEDOUT)

    def _find(self, path: str) -> Node:
        node = self.root
        for name in path.strip("/").split("/") if path != "/" else []:
            if node.children is None:
                raise refused(errno.ENOTDIR)
            if name not in node.children:
                raise refused(errno.ENOENT)
            node = node.children[name]
        return node

    def _folder(self, path: str) -> tuple[Node, dict[str, Node], str]:
        """The folder that holds `path`, its children, and the last name of the path."""
        parent, _, name = path.rpartition("/")
        node = self._find(parent or "/")
        if node.children is None:
            raise refused(errno.ENOTDIR)
        return node, node.children, name

    def _node(self, path: str | None, handle: int | None) -> Node:
        if handle is not None:
            return self._handles[handle]
        assert path is not None
        return self._find(path)

    def _changed(self, *nodes: Node) -> None:
        self._version += 1
        for node in nodes:
            node.mtime_ns = time.time_ns()

    # --- attributes

    def getattr(self, path: str | None, handle: int | None) -> Attributes:
        self._enter("getattr", path or "")
        with self._lock:
            return self._node(path, handle).attributes()

    def utimens(
        self, path: str | None, atime_ns: int | None, mtime_ns: int | None, handle: int | None
    ) -> None:
        self._enter("utimens")
        with self._lock:
            node = self._node(path, handle)
            node.atime_ns = node.atime_ns if atime_ns is None else atime_ns
            self._changed()
            node.mtime_ns = node.mtime_ns if mtime_ns is None else mtime_ns

    def chmod(self, path: str, mode: int) -> None:
        self._enter("chmod")

    def chown(self, path: str, uid: int, gid: int) -> None:
        self._enter("chown")

    def statfs(self) -> StatFs:
        self._enter("statfs")
        return STATFS

    def getxattr(self, path: str, name: str) -> bytes:
        self._enter("getxattr")
        if name.startswith(("security.", "system.")):
            raise refused(errno.ENOTSUP)
        with self._lock:
            xattrs = self._find(path).xattrs
            if name not in xattrs:
                raise refused(errno.ENODATA)
            return xattrs[name]

    def listxattr(self, path: str) -> list[str]:
        self._enter("listxattr")
        with self._lock:
            return list(self._find(path).xattrs)

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        self._enter("setxattr")
        with self._lock:
            xattrs = self._find(path).xattrs
            if flags == os.XATTR_CREATE and name in xattrs:
                raise refused(errno.EEXIST)
            if flags == os.XATTR_REPLACE and name not in xattrs:
                raise refused(errno.ENODATA)
            xattrs[name] = value

    def removexattr(self, path: str, name: str) -> None:
        self._enter("removexattr")
        with self._lock:
            if self._find(path).xattrs.pop(name, None) is None:
                raise refused(errno.ENODATA)

    # --- folders and names

    def opendir(self, path: str) -> Listing:
        self._enter("opendir")
        with self._lock:
            node = self._find(path)
            if node.children is None:
                raise refused(errno.ENOTDIR)
            if node.listing is None or node.listing[0] != self._version:
                entries = [Entry(name, child.attributes()) for name, child in node.children.items()]
                parent = self._find(path.rpartition("/")[0] or "/")
                node.listing = self._version, Listing(node.attributes(), parent.attributes(), entries)
            return node.listing[1]

    def mkdir(self, path: str) -> None:
        self._enter("mkdir")
        with self._lock:
            folder, children, name = self._folder(path)
            if name in children:
                raise refused(errno.EEXIST)
            children[name] = Node(next(self._inos), children={}, mtime_ns=time.time_ns())
            self._changed(folder)

    def rmdir(self, path: str) -> None:
        self._enter("rmdir")
        with self._lock:
            folder, children, name = self._folder(path)
            if self._find(path).children:
                raise refused(errno.ENOTEMPTY)
            del children[name]
            self._changed(folder)

    def unlink(self, path: str) -> None:
        self._enter("unlink")
        with self._lock:
            self._find(path)
            folder, children, name = self._folder(path)
            del children[name]
            self._changed(folder)

    def rename(self, old: str, new: str, flags: int) -> None:
        self._enter("rename")
        with self._lock:
            node = self._find(old)
            old_folder, old_children, old_name = self._folder(old)
            new_folder, new_children, new_name = self._folder(new)
            if flags & 1 and new_name in new_children:
                raise refused(errno.EEXIST)
            if new_name == "precious.jpg" and new_name in new_children:  # as an uploaded image
                raise refused(errno.EEXIST)
            del old_children[old_name]
            new_children[new_name] = node
            self._changed(old_folder, new_folder)

    # --- open files

    def open(self, path: str, flags: int) -> int:
        self._enter("open", path)
        with self._lock:
            self.last_flags = flags
            node = self._find(path)
            if flags & os.O_TRUNC and node.data is not None:
                node.data.clear()
                self._changed(node)
            return self._opened(node)

    def create(self, path: str, mode: int, flags: int) -> int:
        self._enter("create")
        with self._lock:
            self.last_flags = flags
            folder, children, name = self._folder(path)
            if name in children:
                if flags & os.O_EXCL:
                    raise refused(errno.EEXIST)
            else:
                children[name] = self._file()
                self._changed(folder)
            return self._opened(children[name])

    def _opened(self, node: Node) -> int:
        handle = next(self._handle_numbers)
        self._handles[handle] = node
        return handle

    def _data(self, handle: int) -> bytearray:
        data = self._handles[handle].data
        assert data is not None
        return data

    def read_into(
        self, handle: int, buffer: memoryview, offset: int, is_interrupted: Callable[[], bool]
    ) -> int:
        self._enter("read")
        with self._lock:
            data = bytes(memoryview(self._data(handle))[offset : offset + len(buffer)])
        buffer[: len(data)] = data
        return len(data)

    def write(self, handle: int, data: memoryview, offset: int) -> int:
        self._enter("write")
        end = offset + len(data)
        if end > MAX_FILE_BYTES:
            raise refused(errno.EFBIG)
        with self._lock:
            stored = self._data(handle)
            if len(stored) < offset:
                stored.extend(bytes(offset - len(stored)))
            stored[offset:end] = data
            self._changed(self._handles[handle])
        return len(data)

    def copy_range(
        self, source: int, source_offset: int, target: int, target_offset: int, size: int
    ) -> int | None:
        self._enter("copy_range")
        with self._lock:
            data = self._data(source)
            if (source_offset, target_offset) != (0, 0) or size < len(data) or self._data(target):
                return None
            self._data(target).extend(data)
            self._changed(self._handles[target])
            return len(data)

    def truncate(self, path: str | None, length: int, handle: int | None) -> None:
        self._enter("truncate" if handle is None else "ftruncate")
        if length > MAX_FILE_BYTES:
            raise refused(errno.EFBIG)
        with self._lock:
            node = self._node(path, handle)
            assert node.data is not None
            del node.data[length:]
            node.data.extend(bytes(length - len(node.data)))
            self._changed(node)

    def flush(self, handle: int) -> None:
        self._enter("flush")

    def fsync(self, handle: int) -> None:
        self._enter("fsync")

    def release(self, handle: int) -> None:
        self._enter("release")
        with self._lock:
            del self._handles[handle]

    # --- for tests, over the control channel of `serve.py`

    def command_fault(self, operation: str, exception: str | None) -> None:
        with self._lock:
            if exception is None:
                self.faults.pop(operation, None)
            else:
                self.faults[operation] = exception

    def command_gate(self, open: bool) -> None:
        if open:
            self.gate.set()
        else:
            self.gate.clear()

    def command_state(self) -> dict[str, Any]:
        with self._lock:
            return {
                "calls": dict(self.calls),
                "last_flags": self.last_flags,
                "waiting": self.waiting,
                "open_files": len(self._handles),
                "calls_a_thread_remembers": list(self.thread_states.values()),
            }

    def command_swap(self, path: str, text: str) -> None:
        """Another file under this name, made at the same time, as another client may upload one."""
        with self._lock:
            _, children, name = self._folder(path)
            self._changed()
            children[name] = Node(
                next(self._inos), bytearray(text.encode()), mtime_ns=children[name].mtime_ns
            )

    def command_vanish(self, path: str) -> None:
        """Remove a file behind the kernel's back."""
        with self._lock:
            _, children, name = self._folder(path)
            self._changed()
            del children[name]

    def command_forget(self, paths: list[str]) -> bool:
        """Make the kernel forget paths; whether it is done."""
        self.kernel.forget(paths)
        return self.kernel.settle(10)

    def command_replace(self, path: str, text: str) -> None:
        """Change a file behind the kernel's back, as another client does."""
        with self._lock:
            node = self._find(path)
            node.data = bytearray(text.encode())
            self._changed(node)
