"""Image bytes on disk: one sparse file per image, of which any part may be here. Format: docs/FORMATS.md.

The service never changes a stored object, so bytes are kept for as long as there is room and never asked for
again. A file tells by itself what is in it: behind the image's bytes it has a slot for each chunk, filled
once the chunk is complete. So nothing has to be read at start, and a kill at any moment loses at most the
chunk that was coming in. Each slot has a checksum, looked at when the chunk is used for the first time in
this process's life: after a power cut a slot may be there without its bytes. What was adopted from the spool
is whole, and was made durable there.

The least recently used files go first when the folder passes its bound or the disk runs low; files that are
open never do. Who is oldest is found out by looking at the folder, a thousand at a time.

A disk that takes nothing keeps nobody from reading (see cache/diskless): an image's file may be one in
memory, from the start or from the moment at which a write fails, for as long as it is open.

Lock order: `CachedImage._lock`, `ContentCache._evicting`, `ContentCache._lock`, those of cache/diskless;
nothing is called while one is held but the file system.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import heapq
import logging
import os
import shutil
import struct
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pictofs.cache.diskless import DiskTrouble, Memory, copy, is_refusal, pwrite
from pictofs.cache.ranges import Ranges

log = logging.getLogger(__name__)

FOLDER_NAME = "content-2"
"""The cache's folder in an account's cache folder. The number is the format's version."""

OLD_FOLDER_NAMES = ("images",)
"""Folders of older formats: dropped, since everything in them can be fetched again."""

CHUNK_BYTES = 64 * 1024
"""What counts as here or not: half of the kernel's largest read, and what a file manager reads of a file."""

_SLOT = struct.Struct("<II")  # a chunk's CRC-32, and _FULL once it is complete
_FULL = 1
_TAIL = struct.Struct("<8sQ")  # _MAGIC, the image's size in bytes
_MAGIC = b"pictofs2"
_ADOPTED = ".whole"  # the suffix of a file without slots, complete by its name
_AHEAD_BYTES = 1 << 20  # what the disk begins with before it is read
_DISK_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the disk's own
_VICTIMS = 1000
"""How many of the oldest files one look at the folder finds: it takes half a second for 100,000 files."""


class Usage(NamedTuple):
    """Files and the disk space that they take, in bytes."""

    files: int
    bytes: int


class CachedImage:
    """One image's file, open. Any thread may use it until it is closed.

    Attributes:
        fd: the image's bytes, from offset 0. Read only what is here, and never past `total_bytes`.
        total_bytes: the image's size.
        is_in_memory: the bytes are not on the disk, and go when the image is closed.
    """

    def __init__(self, cache: ContentCache, name: str, fd: int, total_bytes: int, disk_bytes: int) -> None:
        self.fd = fd
        self.total_bytes = total_bytes
        self.name = name
        self._cache = cache
        self._lock = threading.Lock()
        self._present = Ranges()
        self._stored: set[int] = set()  # chunks whose slots are filled
        self._unchecked: dict[int, int] = {}  # chunk → checksum that its bytes must have
        self._disk_bytes = disk_bytes
        self.is_in_memory = False  # becomes true at most once
        self._is_read_only = False  # opened so because the disk is
        self._is_trusted = True  # no slot is known to lie
        self._writing_since: int | None = None  # how often the disk had refused something by the first write

    def is_empty(self) -> bool:
        """Whether nothing is here yet."""
        return self._present.total() == 0

    def is_whole(self) -> bool:
        """Whether all of it is here, and was looked at."""
        return len(self._stored) == _chunks(self.total_bytes) and not self._unchecked

    def has(self, start: int, end: int) -> bool:
        """Whether the bytes `[start, end)` are here."""
        return self.first_gap(start, end) is None

    def first_gap(self, start: int, end: int) -> tuple[int, int] | None:
        """The first part of `[start, end)` that is not here; None when all of it is."""
        if self._unchecked:
            self._check(start, end)
        with self._lock:
            return self._present.first_gap(start, end)

    def write(self, data: bytes | memoryview, offset: int) -> None:
        """Store bytes of the image.

        Raises:
            OSError: the disk did not take them, even after room was made; or too much is in memory.
        """
        end = offset + len(data)
        complete = None
        while complete is None:
            was_in_memory = self.is_in_memory
            self._put(data, offset)
            with self._lock:
                if was_in_memory == self.is_in_memory:  # else they may be in the file that was left meanwhile
                    self._present.add(offset, end)
                    complete = [
                        chunk
                        for chunk in range(offset // CHUNK_BYTES, -(-end // CHUNK_BYTES))
                        if chunk not in self._stored and self._present.covers(*self._bounds(chunk))
                    ]
        for chunk in complete:
            if not was_in_memory:
                start, stop = self._bounds(chunk)
                self._write_slot(chunk, zlib.crc32(os.pread(self.fd, stop - start, start)), _FULL)
            self._stored.add(chunk)
        if complete or was_in_memory:
            self._account()

    def go_into_memory(self) -> None:
        """Leave the file on the disk for one in memory, with what is here, under the same `fd`.

        Raises:
            OSError: too much is in memory, or what is here cannot be read.
        """
        memory = self._cache.memory
        with self._lock:
            if self.is_in_memory:
                return
            memory.check_room(self._present.total())
            fd = memory.create()
            try:
                for start, end in self._present:
                    copy(self.fd, fd, start, end)
                self._cache._grew(_disk_bytes(os.fstat(self.fd)) - self._disk_bytes)
                os.dup2(fd, self.fd, inheritable=False)  # whoever reads just now reads the old one to the end
            finally:
                os.close(fd)
            self._disk_bytes = 0
            self.is_in_memory = True
            is_useless = not self._stored
        self._account()
        if is_useless:
            with contextlib.suppress(OSError):
                self._cache._unlink(self.name)

    def close(self) -> None:
        """Let go of the file. What is here stays in the cache."""
        self._account()
        self._cache._closed(self)
        os.close(self.fd)

    # Inside

    def _bounds(self, chunk: int) -> tuple[int, int]:
        start = chunk * CHUNK_BYTES
        return start, min(start + CHUNK_BYTES, self.total_bytes)

    def _load(self, *, is_checked: bool) -> None:
        """Find out from the slots what is here."""
        slots = os.pread(self.fd, _SLOT.size * _chunks(self.total_bytes), self.total_bytes)
        for chunk, (checksum, state) in enumerate(_SLOT.iter_unpack(slots)):
            if state == _FULL:
                self._present.add(*self._bounds(chunk))
                self._stored.add(chunk)
                if not is_checked:
                    self._unchecked[chunk] = checksum

    def _load_whole(self) -> None:
        self._present.add(0, self.total_bytes)
        self._stored.update(range(_chunks(self.total_bytes)))

    def _check(self, start: int, end: int) -> None:
        """Compare with their checksums the chunks of `[start, end)` that this process did not look at yet."""
        for chunk in range(start // CHUNK_BYTES, -(-end // CHUNK_BYTES)):
            expected = self._unchecked.get(chunk)
            if expected is None:
                continue
            begin, stop = self._bounds(chunk)
            is_good = zlib.crc32(os.pread(self.fd, stop - begin, begin)) == expected
            with self._lock:
                if not is_good and chunk in self._unchecked:
                    log.warning("A chunk of a cached image is damaged and will be fetched again")
                    try:
                        self._write_slot(chunk, 0, 0)
                    except OSError:
                        self._is_trusted = False
                    self._present.remove(begin, stop)
                    self._stored.discard(chunk)
                self._unchecked.pop(chunk, None)

    def _write_slot(self, chunk: int, checksum: int, state: int) -> None:
        self._put(_SLOT.pack(checksum, state), self.total_bytes + _SLOT.size * chunk)

    def _put(self, data: bytes | memoryview, offset: int) -> None:
        """Write to the file, with a second try if room can be made. Raises OSError."""
        if self.is_in_memory:
            self._cache.memory.check_room(len(data))
            pwrite(self.fd, data, offset)
            return
        if self._writing_since is None:
            self._writing_since = self._cache.trouble.refusals
        self._cache.trouble.watch(
            lambda: self._put_on_disk(data, offset), lambda: self._cache._give_way(self.total_bytes)
        )

    def _put_on_disk(self, data: bytes | memoryview, offset: int) -> None:
        if self._is_read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        pwrite(self.fd, data, offset)

    def _account(self) -> None:
        with self._lock:
            before, self._disk_bytes = self._disk_bytes, _disk_bytes(os.fstat(self.fd))
            grew = self._cache.memory.grew if self.is_in_memory else self._cache._grew
            grew(self._disk_bytes - before)


class ContentCache:
    """A bounded folder of image files.

    Args:
        folder: where the files are; made private to the user.
        max_bytes: the bound of the disk space that they take.
        min_free_bytes: room to leave on the disk.

    Attributes:
        trouble: whether the disk takes what is written.
        memory: what is there instead when it does not.
    """

    def __init__(self, folder: Path, *, max_bytes: int, min_free_bytes: int = 0) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._lock = threading.Lock()
        self._used_bytes = 0
        self._open: Counter[str] = Counter()  # file name → how often it is open
        # Files that this process has looked through: hash of the name → whether all of the image is there.
        self._sound: dict[int, bool] = {}
        self._ambiguous: set[str] = set()  # names that are open, perhaps as two files: one was unlinked
        self._victims: deque[tuple[int, str]] = deque()  # access time in ns, name: the oldest first
        self._evicting = threading.Lock()
        self.trouble = DiskTrouble(folder)
        self.memory = Memory()
        try:
            self.trouble.watch(self._make_folder)
        except OSError as error:
            if not is_refusal(error):
                raise

    def start(self) -> None:
        """`settle` in the background."""
        threading.Thread(target=self.settle, name="cache-count", daemon=True).start()

    def settle(self) -> None:
        """Drop what older versions have left, count what is here, and keep to the bounds."""
        for name in OLD_FOLDER_NAMES:
            shutil.rmtree(self.folder.parent / name, ignore_errors=True)
        self.count()
        self.make_room()

    @property
    def used_bytes(self) -> int:
        """Disk space that the files take; until `start` has counted, that of this process's files alone."""
        return self._used_bytes

    def capacity_bytes(self) -> int:
        """How much can be here now: the cache's bound, or what the disk leaves it."""
        if self.trouble.error is not None:
            return 0
        return min(self.max_bytes, max(0, self._used_bytes + self._disk_room_bytes()))

    def open(self, image_id: str, size_bytes: int) -> CachedImage:
        """The image's file; made for `size_bytes` if there is none.

        Look at its `total_bytes`: an earlier listing may have known another size.

        Raises:
            OSError: the file cannot be made; see `open_in_memory`.
        """
        name = _file_name(image_id)
        with self._lock:
            self._open[name] += 1  # so that it is not evicted while it is being opened
        image = None
        try:
            image = (
                self._load(name, size_bytes)
                or self._load(name + _ADOPTED, size_bytes)
                or self.trouble.watch(
                    lambda: self._make(name, size_bytes), lambda: self._give_way(size_bytes)
                )
            )
        finally:
            if image is None:
                with self._lock:
                    self._let_go(name)
        return image

    def open_in_memory(self, image_id: str, size_bytes: int) -> CachedImage:
        """A file for the image that is not on the disk, and goes when it is closed. Raises OSError."""
        name = _file_name(image_id)
        image = CachedImage(self, name, self.memory.create(), size_bytes, 0)
        image.is_in_memory = True
        with self._lock:
            self._open[name] += 1
        return image

    def expect(self, image_id: str, size_bytes: int) -> None:
        """Have the disk begin with an image's first bytes, if they are here: somebody will read them soon."""
        name = _file_name(image_id)
        for path in (self.folder / name, self.folder / (name + _ADOPTED)):
            with contextlib.suppress(OSError):
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    os.posix_fadvise(fd, 0, min(size_bytes, _AHEAD_BYTES), os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(fd)
                return

    def adopt(self, image_id: str, file: Path) -> None:
        """Take in the bytes of a file that was just uploaded: a hard link where that is possible.

        Nothing is lost if it is not: the bytes are on the service.
        """
        target = self.folder / (_file_name(image_id) + _ADOPTED)
        try:
            os.link(file, target)
            self._grew(_disk_bytes(target.stat()))
        except OSError as error:
            log.debug("The bytes of %s were not kept in the cache: %s", image_id, error)
        self.make_room()

    def discard(self, image_id: str) -> None:
        """Forget what is here of an image; whoever has it open keeps what they have. Raises OSError."""
        for name in (_file_name(image_id), _file_name(image_id) + _ADOPTED):
            self._unlink(name)

    def clear(self) -> Usage:
        """Remove every file that is not open; what went."""
        files = freed = 0
        for entry, _ in self._entries():
            if not self._is_open(entry.name):
                gone_bytes = self._unlink(entry.name)
                files, freed = files + 1, freed + gone_bytes
        self.count()
        return Usage(files, freed)

    def count(self) -> Usage:
        """Look at the folder: what is in it. Takes about half a second for 100,000 files."""
        files = used = 0

        def seen() -> Iterator[tuple[int, str]]:
            nonlocal files, used
            for entry, status in self._entries():
                files, used = files + 1, used + _disk_bytes(status)
                yield status.st_atime_ns, entry.name

        oldest = heapq.nsmallest(_VICTIMS, seen())
        with self._lock:
            self._used_bytes = used
            self._victims = deque(oldest)
        return Usage(files, used)

    def make_room(self) -> None:
        """Remove the least recently used files until the folder and the disk are within their bounds."""
        if not self._is_over() or not self._evicting.acquire(blocking=False):
            return
        try:
            for _ in self._evictions():
                if not self._is_over():
                    return
        finally:
            self._evicting.release()

    # Inside

    def _evictions(self) -> Iterator[int]:
        """Remove the least recently used file, and then the next, as long as there is one that is not open;
        gives how many bytes went with each. Needs `_evicting`."""
        counted = False
        while True:
            with self._lock:
                victim = self._victims.popleft() if self._victims else None
            if victim is None:
                if counted:
                    return  # all that is left is open
                self.count()
                counted = True
                continue
            used_ns, name = victim
            try:
                if not self._is_open(name) and (self.folder / name).stat().st_atime_ns == used_ns:
                    yield self._unlink(name)
                    counted = False
            except FileNotFoundError:
                continue
            except OSError as error:
                log.debug("Nothing goes from the image cache: %s", error)
                return

    def _give_way(self, wanted_bytes: int) -> bool:
        """Let files go, whatever room there should be, until the disk has so much more; whether any went."""
        freed = 0
        with self._evicting:
            for gone_bytes in self._evictions():
                freed += gone_bytes
                if freed >= wanted_bytes:
                    break
        return freed > 0

    def _load(self, name: str, size_bytes: int) -> CachedImage | None:
        path = self.folder / name
        access = os.O_RDONLY if name.endswith(_ADOPTED) else os.O_RDWR  # the former may still be in the spool
        is_read_only = False
        try:
            fd = os.open(path, access | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            fd, is_read_only = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), True
        try:
            status = os.fstat(fd)
            # The order of use is kept as the access time: the modification time of what was adopted may be
            # looked at by whoever still has the spool's file open.
            with contextlib.suppress(OSError):  # a full or read-only disk may refuse even that
                os.utime(fd, ns=(time.time_ns(), status.st_mtime_ns))
            image = self._loaded(name, fd, status, size_bytes)
            if image is not None:
                image._is_read_only = is_read_only
                return image
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)
        log.info("A file of the image cache is damaged and was dropped: %s", path)
        self._unlink(name)
        return None

    def _loaded(self, name: str, fd: int, status: os.stat_result, size_bytes: int) -> CachedImage | None:
        """The image in a file; None when the file makes no sense."""
        total_bytes: int | None
        if is_whole := name.endswith(_ADOPTED):
            total_bytes = status.st_size
        elif is_whole := self._sound.get(hash(name), False) and status.st_size == _file_bytes(size_bytes):
            total_bytes = size_bytes
        else:
            os.posix_fadvise(fd, 0, min(status.st_size, _AHEAD_BYTES), os.POSIX_FADV_WILLNEED)
            total_bytes = _total_bytes(fd, status.st_size)
        if total_bytes is None:
            return None
        image = CachedImage(self, name, fd, total_bytes, _disk_bytes(status))
        if is_whole:
            image._load_whole()
        else:
            image._load(is_checked=hash(name) in self._sound)
        return image

    def _make(self, name: str, total_bytes: int) -> CachedImage:
        self._make_folder()
        aside = self.folder / f"{name}.{threading.get_ident()}"
        fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.pwrite(fd, _TAIL.pack(_MAGIC, total_bytes), _file_bytes(total_bytes) - _TAIL.size)
            aside.replace(self.folder / name)
            with self._lock:
                self._sound.pop(hash(name), None)
                if self._open[name] > 1:
                    self._ambiguous.add(name)
            image = CachedImage(self, name, fd, total_bytes, _disk_bytes(os.fstat(fd)))
        except BaseException:
            os.close(fd)
            aside.unlink(missing_ok=True)
            raise
        self._grew(image._disk_bytes)
        return image

    def _closed(self, image: CachedImage) -> None:
        if image.is_in_memory:
            self.memory.grew(-image._disk_bytes)
        elif self.trouble.error is not None and image._writing_since == self.trouble.refusals:
            self.trouble.over()  # all that was written since the last refusal
        with self._lock:
            stem = _stem(image.name)
            if not image._unchecked and image._is_trusted and not image.is_in_memory:
                self._sound[hash(image.name)] = image.is_whole() and stem not in self._ambiguous
            self._let_go(stem)

    def _let_go(self, stem: str) -> None:
        self._open[stem] -= 1
        if self._open[stem] <= 0:
            del self._open[stem]
            self._ambiguous.discard(stem)

    def _is_open(self, name: str) -> bool:
        with self._lock:
            return _stem(name) in self._open

    def _grew(self, by_bytes: int) -> None:
        with self._lock:
            self._used_bytes += by_bytes

    def _unlink(self, name: str) -> int:
        path = self.folder / name
        try:
            freed = _disk_bytes(path.lstat())
            path.unlink()
        except FileNotFoundError:
            return 0
        with self._lock:
            self._used_bytes -= freed
            self._sound.pop(hash(name), None)
            if _stem(name) in self._open:
                self._ambiguous.add(_stem(name))
        return freed

    def _is_over(self) -> bool:
        return self._used_bytes > self.max_bytes or self._disk_room_bytes() < 0

    def _disk_room_bytes(self) -> int:
        """What the disk has beyond the room that is to be left on it; negative when that is reached."""
        try:
            disk = os.statvfs(self.folder)
        except FileNotFoundError:
            return 0  # it is made with the next file
        return disk.f_bavail * disk.f_frsize - self._min_free_bytes

    def _make_folder(self) -> None:
        """It may have been deleted at any time: it is a cache."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _entries(self) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        with contextlib.suppress(FileNotFoundError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    yield entry, entry.stat(follow_symlinks=False)


def _file_name(image_id: str) -> str:
    """An id as a file name. Ids are data of the service: they may hold anything, so they are hashed."""
    return hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).hexdigest()


def _stem(name: str) -> str:
    """What all files of one image have in common, whatever their suffix."""
    return name.partition(".")[0]


def _chunks(total_bytes: int) -> int:
    return -(-total_bytes // CHUNK_BYTES)


def _file_bytes(total_bytes: int) -> int:
    """How long the file of an image of so many bytes is."""
    return total_bytes + _SLOT.size * _chunks(total_bytes) + _TAIL.size


def _total_bytes(fd: int, length: int) -> int | None:
    """The image's size as the file's tail tells it; None when the tail makes no sense."""
    tail = os.pread(fd, _TAIL.size, max(0, length - _TAIL.size))
    if len(tail) != _TAIL.size:
        return None
    magic, total_bytes = _TAIL.unpack(tail)
    if magic != _MAGIC or length != _file_bytes(total_bytes):
        return None
    return int(total_bytes)


def _disk_bytes(status: os.stat_result) -> int:
    return status.st_blocks * _DISK_BLOCK_BYTES
