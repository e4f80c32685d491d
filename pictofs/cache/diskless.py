"""When the disk of the image cache takes nothing: which errors say so, telling it once, and files in memory.

Lock order: the locks here are taken last, and nothing is called while one is held.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""Making room may help."""

REFUSALS = NO_ROOM | {errno.EROFS, errno.EIO}
"""The disk does not take what is written. Other errors are this process's own, as EMFILE."""

MAX_MEMORY_BYTES = 256 << 20
"""Of images that are being read without the disk, together: five of the largest, or a data loader's workers
with a few photos each, on a machine of 2 GB too."""

TELL_EVERY_S = 600.0
"""The least time between two warnings, where small images still fit on the disk and large ones do not."""

_COPY_BYTES = 1 << 20


def is_refusal(error: BaseException) -> bool:
    """Whether an error says that the disk takes nothing."""
    return isinstance(error, OSError) and error.errno in REFUSALS


class DiskTrouble:
    """Whether the disk takes what is written to the image cache.

    Attributes:
        error: why it does not; None when it does. Its file name is the cache's folder.
        refusals: how often something was refused.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.error: OSError | None = None
        self.refusals = 0
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._told_at: float | None = None
        self._is_told = False  # of this trouble

    def watch(self, write: Callable[[], T], make_room: Callable[[], bool] = lambda: False) -> T:
        """What `write` gives. Where there is no room for it and `make_room` makes some, it is called again.

        Raises:
            OSError: of `write`; that the disk refuses is remembered.
        """
        try:
            try:
                return write()
            except OSError as error:
                if error.errno not in NO_ROOM or not make_room():
                    raise
            return write()
        except OSError as error:
            if is_refusal(error):
                self._began(error)
            raise

    def _began(self, error: OSError) -> None:
        with self._lock:
            self.refusals += 1
            is_new = self.error is None
            self.error = OSError(error.errno, error.strerror, str(self._folder))
            now = self._clock()
            is_due = self._told_at is None or now - self._told_at >= TELL_EVERY_S
            if not (is_new and is_due):
                return
            self._told_at, self._is_told = now, True
        log.warning(
            "The image cache in %s takes nothing (%s): images are read without it, none is fetched ahead",
            self._folder,
            error.strerror,
        )

    def over(self) -> None:
        """The disk has taken something again."""
        with self._lock:
            was_told, self._is_told, self.error = self._is_told, False, None
        if was_told:
            log.info("The image cache in %s is used again", self._folder)


class Memory:
    """The memory that images take which are read without the disk.

    Attributes:
        used_bytes: by all of them.
    """

    def __init__(self, max_bytes: int = MAX_MEMORY_BYTES) -> None:
        self.used_bytes = 0
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def create(self) -> int:
        """An unnamed file in memory; its descriptor. Raises OSError: the system gives none."""
        return os.memfd_create("pictofs-image", os.MFD_CLOEXEC)

    def check_room(self, wanted_bytes: int) -> None:
        """Raises OSError(ENOSPC) when so much more would be too much."""
        if self.used_bytes + wanted_bytes > self._max_bytes:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}, and too much is read without the disk")

    def grew(self, by_bytes: int) -> None:
        """Files in memory take so much more, or less, than before."""
        with self._lock:
            self.used_bytes += by_bytes


def pwrite(fd: int, data: bytes | memoryview, offset: int) -> None:
    """All of `data` into a file. Raises OSError; a part may be there then."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def copy(source: int, target: int, start: int, end: int) -> None:
    """The bytes `[start, end)` of one file to the same place of another. Raises OSError."""
    while start < end:
        data = os.pread(source, min(_COPY_BYTES, end - start), start)
        if not data:
            raise OSError(errno.EIO, "a file of the image cache has become shorter")
        pwrite(target, data, start)
        start += len(data)
