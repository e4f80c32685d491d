"""Image bytes on disk, one whole file per image id.

The service never changes a stored object, so bytes are kept for as long as there is room and never asked for
again. The least recently opened go first when the folder passes its bound or the disk runs low. A file is
complete once it has its final name; `.part` files of an earlier life are removed at start.

Lock order: `ContentCache._lock` is innermost; nothing is called while it is held but the file system.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import os
import threading
from collections import OrderedDict
from pathlib import Path

log = logging.getLogger(__name__)

_PART = ".part"


class ContentCache:
    """A bounded folder of image files.

    Args:
        folder: where the files are; made private to the user.
        max_bytes: the bound of all files together.
        min_free_bytes: room to leave on the disk.
    """

    def __init__(self, folder: Path, *, max_bytes: int, min_free_bytes: int = 0) -> None:
        self._folder = folder
        self.max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._lock = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # file name → bytes, least recently used first
        self._used_bytes = 0
        self._numbers = itertools.count()  # so that two transfers of one image never share a file
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = []
        for entry in os.scandir(folder):
            if entry.name.endswith(_PART):
                Path(entry.path).unlink(missing_ok=True)
            else:
                status = entry.stat()
                found.append((status.st_mtime_ns, entry.name, status.st_size))
        for _, name, size_bytes in sorted(found):
            self._sizes[name] = size_bytes
            self._used_bytes += size_bytes

    @property
    def used_bytes(self) -> int:
        """Bytes of all complete files."""
        return self._used_bytes

    def open(self, image_id: str) -> int | None:
        """A descriptor for reading the image's bytes (the caller closes it), or None: not here."""
        name = _file_name(image_id)
        with self._lock:
            if name not in self._sizes:
                return None
            self._sizes.move_to_end(name)
        path = self._folder / name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            os.utime(fd)  # So that the order of use survives a restart.
        except FileNotFoundError:
            with self._lock:
                self._used_bytes -= self._sizes.pop(name, 0)
            return None
        return fd

    def partial(self, image_id: str) -> Path:
        """Where to collect an image's bytes; `commit` it when they are complete and right."""
        return self._folder / f"{_file_name(image_id)}.{next(self._numbers)}{_PART}"

    def commit(self, image_id: str, partial: Path) -> None:
        """Take a completed file in under the image's id, and make room if that passes a bound."""
        name = _file_name(image_id)
        size_bytes = partial.stat().st_size
        partial.replace(self._folder / name)
        with self._lock:
            self._used_bytes += size_bytes - self._sizes.pop(name, 0)
            self._sizes[name] = size_bytes
        self._make_room()

    def adopt(self, image_id: str, file: Path) -> None:
        """Take in the bytes of a file that was just uploaded: a hard link where that is possible.

        Nothing is lost if it is not: the bytes are on the service.
        """
        partial = self.partial(image_id)
        try:
            os.link(file, partial)
            self.commit(image_id, partial)
        except OSError as error:
            log.debug("The bytes of %s were not kept in the cache: %s", image_id, error)

    def _make_room(self) -> None:
        while True:
            with self._lock:
                disk = os.statvfs(self._folder)
                low = disk.f_bavail * disk.f_frsize < self._min_free_bytes
                if not self._sizes or not (low or self._used_bytes > self.max_bytes):
                    return
                name, size_bytes = self._sizes.popitem(last=False)
                self._used_bytes -= size_bytes
            (self._folder / name).unlink(missing_ok=True)


def _file_name(image_id: str) -> str:
    """An id as a file name. Ids are data of the service: they may hold anything, so they are hashed."""
    return hashlib.sha256(image_id.encode("utf-8", "surrogatepass")).hexdigest()
