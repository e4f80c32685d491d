# ruff: noqa: ARG002 - callbacks have libfuse's arguments, whether they need them or not
"""The FUSE adapter: it translates calls, and decides nothing.

It serves fusepy on libfuse 2 and mfusepy on libfuse 2 and 3. Their own translation of each call, where their
bugs are, is passed by (`fs/binding`): libfuse's raw arguments go to the method of `_Calls` that has the
callback's name.

Deleted means deleted (`hard_remove`): a remove, or a rename over an open file, arrives as such, and the
handles go on working, because calls on a handle carry no path (`nullpath_ok`). libfuse's default, a rename of
the target to `.fuse_hidden…`, would take it away before the vfs could refuse the call. The price: fstat of a
removed file fails (ENOENT, on libfuse 3 ESTALE) once `attr_timeout_s` has passed, since the kernel asks it by
the path.

On a read-only mount there are no open files at all (on libfuse 3): the kernel does without, see
`fs/unopened`, and each call carries a path.

Threads: libfuse calls from up to `max_threads` threads of its own. `_Calls._lock` guards the
prepared listings; nothing is called while it is held.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import errno
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

from cachetools import LRUCache

from pictofs.fs.attributes import Listing
from pictofs.fs.binding import Binding, FuseUnavailableError, Library, load, run, view_of_buffer
from pictofs.fs.complaints import Complaints
from pictofs.fs.kernel import KernelCache, Pages
from pictofs.fs.opened import Opened
from pictofs.fs.packing import PreparedListing, StatPacker
from pictofs.fs.protocol import VfsProtocol
from pictofs.fs.unopened import Unopened

__all__ = ["Binding", "FuseUnavailableError", "MountFailedError", "MountOptions", "mount"]

logger = logging.getLogger(__name__)

# Of so many folders the last listing is kept as the kernel reads it: about 250 bytes for each entry.
_PREPARED_FOLDERS = 1000
# A CPU-bound Python thread delays every call by up to this; the default, 5 ms, is 100 times a call's length.
_SWITCH_INTERVAL_S = 0.0005
_NS_PER_S = 1_000_000_000
_UTIME_NOW = (1 << 30) - 1  # tv_nsec values with a meaning, from linux/stat.h
_UTIME_OMIT = (1 << 30) - 2
_RENAME_NOREPLACE = 1
_FUSE_READDIR_PLUS = 1
_FUSE_FILL_DIR_PLUS = 2
_FUSE_CAP_READDIRPLUS_AUTO = 1 << 14
# A callback returns its count as an int.
_LONGEST_COPY = (1 << 31) - 1
# What libfuse 3's main returns when its loop ended otherwise than by unmounting: a signal, in practice.
_LOOP_ENDED = (7, 8)


class _Phase(enum.Enum):
    """MOUNTING → SERVING, in init → ENDED, when libfuse's loop has returned."""

    MOUNTING = "mounting"
    SERVING = "serving"
    ENDED = "ended"


class MountFailedError(Exception):
    """FUSE refused the mount, after saying why on standard error."""


@dataclass(frozen=True)
class MountOptions:
    """How the drive appears to the kernel.

    `uid` and `gid` replace the owner the vfs reports (None: keep it); the bits of `umask` are taken off every
    mode.

    The kernel trusts attributes and names for one second: enough for `ls -l` to ask once, and little on top
    of the time to live of the metadata, after which others' changes must show. Longer would save 3 µs a file
    when 10,000 are listed again, and make it hang on each change behind the kernel's back being told to it,
    which libfuse 2 cannot (see fs/kernel). Our own changes go through the kernel, which knows them at once.
    Absent names it does not remember: the server may add one at any moment that a program is waiting for.

    `max_threads`: libfuse 3 from 3.12 on stops at 10 calls at a time, so ten slow opens would stall every
    stat; other versions have no limit. `max_background`: how many reads ahead the kernel sends at once.
    """

    ro: bool = False
    allow_other: bool = False
    default_permissions: bool = False
    uid: int | None = None
    gid: int | None = None
    umask: int = 0
    fsname: str = "pictofs"
    subtype: str = "pictofs"
    attr_timeout_s: float = 1.0
    entry_timeout_s: float = 1.0
    negative_timeout_s: float = 0.0
    max_threads: int = 50
    max_background: int = 64
    debug: bool = False


def mount(
    vfs: VfsProtocol,
    mountpoint: str,
    options: MountOptions,
    *,
    binding: Binding = "auto",
    on_ready: Callable[[], None],
    kernel: KernelCache | None = None,
) -> None:
    """Serve `vfs` at `mountpoint` until it is unmounted or SIGTERM, SIGINT or SIGHUP comes, then return.

    Call it in the main thread of the process that shall serve; it does not daemonise. `on_ready` is called
    once, from another thread, when the drive has answered a stat. While the drive is mounted, `kernel` makes
    the kernel forget what it is told to.

    Raises:
        FuseUnavailableError: no binding, no library or no /dev/fuse.
        MountFailedError: FUSE refused.
        Whatever `vfs.start` or `on_ready` raised.
    """
    library = load(binding)
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    calls = _Calls(vfs, library, mountpoint, options, on_ready, kernel or KernelCache())
    try:
        with _signals_left_to_libfuse():
            run(library, calls, calls._call, mountpoint, _mount_arguments(library, options))
    except RuntimeError as exc:
        status = exc.args[0] if exc.args else None
        if calls._phase is _Phase.MOUNTING:
            raise MountFailedError(
                f"FUSE could not mount {mountpoint} (status {status}); its own words are on standard error"
            ) from exc
        if status not in _LOOP_ENDED:
            raise
        logger.info("%s was taken down by a signal", mountpoint)
    calls._phase = _Phase.ENDED
    if calls._failure is not None:
        raise calls._failure


def _mount_arguments(library: Library, options: MountOptions) -> dict[str, Any]:
    """What goes to libfuse as `-o`; libfuse 3 takes the rest in init()."""
    escaped = options.fsname.replace("\\", "\\\\").replace(",", "\\,")
    arguments: dict[str, Any] = {
        "foreground": True,
        "debug": options.debug,
        "fsname": escaped,
        "subtype": options.subtype,
        "ro": options.ro,
        "allow_other": options.allow_other,
        "default_permissions": options.default_permissions,
        "attr_timeout": options.attr_timeout_s,
        "entry_timeout": options.entry_timeout_s,
        "negative_timeout": options.negative_timeout_s,
    }
    if library.version[0] == 2:
        arguments |= {
            "use_ino": True,
            "hard_remove": True,
            "atomic_o_trunc": True,  # O_TRUNC comes with open, as on libfuse 3
            "big_writes": True,  # 128 KiB in a call, not 4
            "max_background": options.max_background,
        }
    elif library.version >= (3, 12):
        arguments["max_threads"] = options.max_threads
        arguments["max_idle_threads"] = options.max_threads  # its own default, -1, it complains about
    return arguments


@contextmanager
def _signals_left_to_libfuse() -> Iterator[None]:
    """libfuse handles a signal only if nobody else does, and a Python handler would not run in its loop."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# The callbacks after which attributes in an older listing are no longer true.
_CHANGING = frozenset(
    (
        *("open", "create", "write", "copy_file_range", "truncate", "ftruncate", "utimens"),
        *("unlink", "rename", "mkdir", "rmdir"),
    )
)


# --- arguments -------------------------------------------------------------------------------


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _optional_text(path: bytes | None) -> str | None:
    return None if path is None else _text(path)


def _handle(fip: Any) -> int | None:
    return int(fip.contents.fh) if fip else None


def _time_ns(spec: Any) -> int | None:
    if spec.tv_nsec == _UTIME_OMIT:
        return None
    if spec.tv_nsec == _UTIME_NOW:
        return time.time_ns()
    return int(spec.tv_sec * _NS_PER_S + spec.tv_nsec)


# --- the callbacks ---------------------------------------------------------------------------


class _Calls:
    """libfuse's callbacks, named and called as in its struct fuse_operations.

    libfuse 3 passes some of them one more argument than libfuse 2. What is missing is answered by libfuse or
    the kernel: access (by permission bits), locks (local to this machine), ioctl (ENOTTY), lseek,
    fallocate (EOPNOTSUPP), fsyncdir (nothing to do).

    Bindings take any public attribute with an operation's name for the operation, so others start with `_`.
    """

    use_ns = True  # keeps the bindings from warning about float times
    flag_utime_omit_ok = 1

    def __init__(
        self,
        vfs: VfsProtocol,
        library: Library,
        mountpoint: str,
        options: MountOptions,
        on_ready: Callable[[], None],
        kernel: KernelCache,
    ) -> None:
        self._vfs = vfs
        self._library = library
        self._mountpoint = mountpoint
        self._options = options
        self._on_ready = on_ready
        self._phase = _Phase.MOUNTING
        self._failure: BaseException | None = None
        self._packer = StatPacker(
            library.module.c_stat, uid=options.uid, gid=options.gid, umask=options.umask
        )
        self._file_info = ctypes.POINTER(library.module.fuse_file_info)
        self._is_3 = library.version[0] == 3
        fill_arguments = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_longlong]
        # PYFUNCTYPE keeps the GIL: filling an entry takes less time than giving it away.
        self._fill_type = ctypes.PYFUNCTYPE(ctypes.c_int, *fill_arguments, *([ctypes.c_int] * self._is_3))
        self._lock = threading.Lock()
        self._prepared: LRUCache[bytes, tuple[Listing, PreparedListing]] = LRUCache(_PREPARED_FOLDERS)
        self._opened = Opened()
        self._pages = Pages()
        self._kernel = kernel
        self._complaints = Complaints()
        self._unopened = Unopened(vfs) if options.ro and self._is_3 else None
        # libfuse 2 reads these from the struct; libfuse 3 has them in its configuration, see init.
        self.flag_nullpath_ok = self.flag_nopath = int(self._unopened is None)

    # Lifecycle

    def init(self, conn: Any, config: Any = None) -> None:
        self._phase = _Phase.SERVING
        if self._is_3:
            self._configure(conn.contents, config.contents)
            self._attach()
        try:
            self._vfs.start()
        except BaseException as exc:  # noqa: BLE001 - raised by mount(), in its own thread
            self._failure = exc
            self._library.module.fuse_exit()
            return
        threading.Thread(target=self._announce, name="pictofs-ready", daemon=True).start()

    def _configure(self, connection: Any, config: Any) -> None:
        config.use_ino = 1
        config.hard_remove = 1
        config.nullpath_ok = self.flag_nullpath_ok
        connection.max_background = self._options.max_background
        # Every part of a listing with attributes, not only the first: a name without costs a look-up.
        connection.want &= ~_FUSE_CAP_READDIRPLUS_AUTO

    def _attach(self) -> None:
        library = self._library.module._libfuse
        drive = ctypes.c_void_p(library.fuse_get_context().contents.fuse)
        invalidate = library.fuse_invalidate_path
        invalidate.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._kernel.attach(lambda path: invalidate(drive, path))

    def destroy(self, private_data: Any) -> None:
        self._kernel.detach()

    def _announce(self) -> None:
        try:
            os.stat(self._mountpoint)  # noqa: PTH116 - answered by another thread, once init has returned
            self._on_ready()
        except BaseException as exc:  # noqa: BLE001 - raised by mount(), in its own thread
            if self._phase is _Phase.SERVING:  # else somebody unmounted before it answered, and that is all
                self._failure = exc
                os.kill(os.getpid(), signal.SIGTERM)  # libfuse's handler unmounts

    def _call(self, name: str, args: tuple[Any, ...]) -> int:
        """Every callback passes here. Returns 0, a count, or an errno negated."""
        try:
            return getattr(self, name)(*args) or 0
        except BaseException as exc:  # noqa: BLE001 - what escapes here would end the mount
            return -self._failed(name, args, exc)
        finally:
            if name in _CHANGING:
                self._opened.note_change(self._paths(args))

    def _failed(self, operation: str, args: tuple[Any, ...], exc: BaseException) -> int:
        """The errno for what a callback raised, once the log has heard of it."""
        return self._complaints.note(
            operation, " ".join(repr(_text(path)) for path in self._paths(args)), exc
        )

    def _paths(self, args: tuple[Any, ...]) -> list[bytes]:
        """The paths among a callback's arguments, or else the path of its handle."""
        if paths := [argument for argument in args if isinstance(argument, bytes)]:
            return paths
        handles = (argument.contents.fh for argument in args if isinstance(argument, self._file_info))
        return [path for handle in handles if (path := self._opened.path_of(handle)) is not None]

    # Attributes

    def getattr(self, path: bytes | None, buf: Any, fip: Any = None) -> None:
        handle = None if self._unopened is not None else _handle(fip)
        packed = self._packer.pack(self._vfs.getattr(_optional_text(path), handle))
        ctypes.memmove(buf, packed, len(packed))

    fgetattr = getattr  # libfuse 2's, with a handle

    def utimens(self, path: bytes | None, times: Any, fip: Any = None) -> None:
        atime_ns, mtime_ns = _time_ns(times.contents.actime), _time_ns(times.contents.modtime)
        if atime_ns is not None or mtime_ns is not None:
            self._vfs.utimens(_optional_text(path), atime_ns, mtime_ns, _handle(fip))

    def chmod(self, path: bytes | None, mode: int, fip: Any = None) -> None:
        if path is not None:  # through a handle, never seen: there is nothing to change anyway
            self._vfs.chmod(_text(path), mode)

    def chown(self, path: bytes | None, uid: int, gid: int, fip: Any = None) -> None:
        if path is not None:
            unsigned = 0xFFFFFFFF  # -1 comes as the largest uid_t
            self._vfs.chown(_text(path), -1 if uid == unsigned else uid, -1 if gid == unsigned else gid)

    def statfs(self, path: bytes, buf: Any) -> None:
        numbers, out = self._vfs.statfs(), buf.contents
        out.f_bsize = out.f_frsize = numbers.block_size
        out.f_blocks = numbers.blocks
        out.f_bfree = numbers.blocks_free
        out.f_bavail = numbers.blocks_available
        out.f_files = numbers.files
        out.f_ffree = out.f_favail = numbers.files_free
        out.f_namemax = numbers.name_max

    # Extended attributes

    def getxattr(self, path: bytes, name: bytes, value: Any, size: int) -> int:
        if not name.startswith(b"user."):
            # Not there, and never will be: `ls -l`, told so once, does not ask twice for each of its files.
            return -errno.ENOTSUP
        return self._fill(value, size, self._vfs.getxattr(_text(path), _text(name)))

    def listxattr(self, path: bytes, value: Any, size: int) -> int:
        names = self._vfs.listxattr(_text(path))
        return self._fill(value, size, b"".join(n.encode("utf-8", "surrogateescape") + b"\0" for n in names))

    @staticmethod
    def _fill(buf: Any, size: int, data: bytes) -> int:
        if size == 0:  # only asks how much room it takes
            return len(data)
        if len(data) > size:
            raise OSError(errno.ERANGE, os.strerror(errno.ERANGE))
        ctypes.memmove(buf, data, len(data))
        return len(data)

    def setxattr(self, path: bytes, name: bytes, value: Any, size: int, flags: int) -> None:
        self._vfs.setxattr(_text(path), _text(name), ctypes.string_at(value, size), flags)

    def removexattr(self, path: bytes, name: bytes) -> None:
        self._vfs.removexattr(_text(path), _text(name))

    # Folders

    def opendir(self, path: bytes, fip: Any) -> None:
        number, folder = self._opened.add_folder(path)
        try:
            folder.listing = self._prepare(path, self._vfs.opendir(_text(path)))
        except BaseException:
            self._opened.remove_folder(number)
            raise
        fip.contents.fh = number

    def _prepare(self, path: bytes, listing: Listing) -> PreparedListing:
        with self._lock:
            known, prepared = self._prepared.get(path, (None, None))
        if known is not listing or prepared is None:
            prepared = PreparedListing(listing, self._packer, prepared)
            with self._lock:
                self._prepared[path] = listing, prepared
        return prepared

    def readdir(
        self, path: bytes | None, buf: int, filler: Any, offset: int, fip: Any, flags: int = 0
    ) -> None:
        folder = self._opened.folder(fip.contents.fh)
        listing, changed = folder.listing, folder.changed
        assert listing is not None  # opendir has succeeded
        names, first_stat, stride = listing.names, listing.first_stat, listing.stride
        fill = ctypes.cast(filler, self._fill_type)
        plus = (_FUSE_FILL_DIR_PLUS if flags & _FUSE_READDIR_PLUS else 0,) if self._is_3 else ()
        name_only = (0,) if self._is_3 else ()
        for index in range(offset, len(names)):
            name = names[index]
            with_attributes = plus if name not in changed else name_only
            # The offset is where to go on after this entry: never 0, which would mean "all in one go".
            if fill(buf, name, first_stat + index * stride, index + 1, *with_attributes):
                break  # the kernel's buffer is full; it asks again from there

    def releasedir(self, path: bytes | None, fip: Any) -> None:
        self._opened.remove_folder(fip.contents.fh)

    def mkdir(self, path: bytes, mode: int) -> None:
        self._vfs.mkdir(_text(path))

    def rmdir(self, path: bytes) -> None:
        self._vfs.rmdir(_text(path))

    # Names

    def unlink(self, path: bytes) -> None:
        self._vfs.unlink(_text(path))

    def rename(self, old: bytes, new: bytes, flags: int = 0) -> None:
        if flags & ~_RENAME_NOREPLACE:  # EXCHANGE taken for a plain rename would destroy the target
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._vfs.rename(_text(old), _text(new), flags)
        self._opened.renamed(old, new)
        self._pages.renamed(old, new)

    def symlink(self, target: bytes, path: bytes) -> int:
        return -errno.EPERM  # the service has files and folders only

    def link(self, path: bytes, new: bytes) -> int:
        return -errno.EPERM

    def mknod(self, path: bytes, mode: int, device: int) -> int:
        return -errno.EPERM

    # Open files

    def open(self, path: bytes, fip: Any) -> int:
        if self._unopened is not None:
            return -errno.ENOSYS  # The kernel asks once, and opens and closes by itself from then on.
        flags = fip.contents.flags
        try:
            handle = fip.contents.fh = self._vfs.open(_text(path), flags)
        except FileNotFoundError as gone:
            # The kernel remembers a name for `entry_timeout_s` after it went. Told so it looks again, and
            # creates the file if it was asked to, where ENOENT would make `cp` fail.
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), gone.filename) from gone
        self._note_open(handle, path, fip, writes=flags & os.O_ACCMODE != os.O_RDONLY)
        return 0

    def create(self, path: bytes, mode: int, fip: Any) -> None:
        handle = fip.contents.fh = self._vfs.create(_text(path), mode, fip.contents.flags)
        self._note_open(handle, path, fip, writes=True)

    def _note_open(self, handle: int, path: bytes, fip: Any, *, writes: bool) -> None:
        """Decide what the kernel may do with the pages that it has under the path: it has one set for all
        handles, which may have been opened when the path was another file. And spare it the flush at each
        close of what was only read (libfuse 3.11, Linux 5.16): half of a close's time."""
        now = None
        with contextlib.suppress(Exception):  # then its pages are read again
            now = self._vfs.getattr(None, handle)
        if self._opened.add_file(handle, path, now.ino if now else 0, writes=writes):
            fip.contents.direct_io = 1
        elif now and self._pages.are_of(path, (now.ino, now.size, now.mtime_ns)):
            fip.contents.keep_cache = 1
        if self._is_3 and not writes:
            fip.contents.noflush = 1

    def read(self, path: bytes | None, buf: Any, size: int, offset: int, fip: Any) -> int:
        handle_to_read = self._handle_to_read(path, offset, size, fip)
        with view_of_buffer(buf, size, writable=True) as view, handle_to_read as handle:
            return self._vfs.read_into(handle, view, offset, self._is_interrupted)

    def _handle_to_read(
        self, path: bytes | None, offset: int, size: int, fip: Any
    ) -> AbstractContextManager[int]:
        if self._unopened is None:
            return contextlib.nullcontext(fip.contents.fh)
        if path is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return self._unopened.handle(_text(path), offset, size)

    def _is_interrupted(self) -> bool:
        """Whether the program that waits for this call was interrupted. To be asked in the call's thread."""
        return bool(self._library.module._libfuse.fuse_interrupted())

    def write(self, path: bytes | None, buf: Any, size: int, offset: int, fip: Any) -> int:
        with view_of_buffer(buf, size) as view:
            written: int = self._vfs.write(fip.contents.fh, view, offset)
        return written

    def copy_file_range(
        self,
        path_in: bytes | None,
        fip_in: Any,
        offset_in: int,
        path_out: bytes | None,
        fip_out: Any,
        offset_out: int,
        size: int,
        flags: int,
    ) -> int:
        copied = self._vfs.copy_range(
            fip_in.contents.fh, offset_in, fip_out.contents.fh, offset_out, min(size, _LONGEST_COPY)
        )
        # Not ENOSYS, after which the kernel would never ask again. It reads and writes then.
        return -errno.EOPNOTSUPP if copied is None else copied

    def truncate(self, path: bytes | None, length: int, fip: Any = None) -> None:
        self._vfs.truncate(_optional_text(path), length, _handle(fip))

    ftruncate = truncate  # libfuse 2's, with a handle

    def flush(self, path: bytes | None, fip: Any) -> int:
        if self._unopened is not None:
            return -errno.ENOSYS  # as in open
        self._vfs.flush(fip.contents.fh)
        return 0

    def fsync(self, path: bytes | None, datasync: int, fip: Any) -> None:
        if self._unopened is None:
            self._vfs.fsync(fip.contents.fh)

    def release(self, path: bytes | None, fip: Any) -> None:
        handle = fip.contents.fh
        try:
            self._vfs.release(handle)
        except BaseException as exc:  # noqa: BLE001 - the log is the only one to hear of it
            self._failed("release", args=(path, fip), exc=exc)
        finally:
            self._opened.remove_file(handle)
