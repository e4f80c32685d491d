"""Files that are read without having been opened: on a read-only mount the kernel opens and closes by itself.

A file system that answers an open with ENOSYS is not asked again (`no_open` in fs/fuse/file.c, since Linux
3.15). A file whose pages the kernel has is then read as fast as a local disk's, where asking at each open
and close would cost several times as much as the bytes of a photo (docs/BENCHMARKS.md). A mount that may
write has to hear of the close: that is where a file that was copied in is committed.

What still comes are reads, with a path and without a handle. `Unopened` keeps a handle of the vfs for each
path that is being read, until its end was read or nobody has read there for `LINGER_S`.

Which program reads is not known. So of an image that was replaced nothing but its beginning is given to
anybody (ESTALE) until somebody has read that, or `LINGER_S` after the first refusal: who is in the middle
of the old one must not go on in the new one. The kernel drops the old one's pages when it sees another
size or mtime (`auto_inval_data`, which libfuse has from 3 on: without it they would stay).

Lock order: `Unopened._lock` alone; nothing is called while it is held.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

from pictofs.fs.kernel import Pages
from pictofs.fs.protocol import VfsProtocol

__all__ = ["LINGER_S", "MAX_IDLE", "Unopened"]

LINGER_S = 10.0
"""How long after a read its file counts as being read: programs read on sooner, and what is open in here is
not evicted from the image cache. Also how long the middle of a replaced image is refused."""

MAX_IDLE = 64
"""Of so many paths the handle is kept; beyond, those go that were read the longest time ago."""

_TIDY_S = 1.0


@dataclass(eq=False)
class _Entry:
    """A handle of the vfs, for a file of `size` bytes. `users` is how many reads are under way with it."""

    handle: int
    ino: int
    size: int
    users: int = 0
    used_at: float = 0.0
    is_done: bool = False  # not to be used again: the end was read, or reading has failed


class Unopened:
    """The handles of paths that are read.

    Args:
        vfs: whose they are; only `getattr`, `open` and `release` are called.
        clock: monotonic seconds.
    """

    def __init__(self, vfs: VfsProtocol, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._vfs = vfs
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # by their latest use
        self._is_tidying = False
        self._served = Pages()  # inode, or that of the file before and when the new one was met

    @contextmanager
    def handle(self, path: str, offset: int, size: int) -> Iterator[int]:
        """The handle for a read of `size` bytes at `offset`, valid within the block.

        Raises:
            OSError: ESTALE: the file went, or became another one, since it was opened; what `open` raises.
        """
        entry = self._take(path, offset)
        try:
            yield entry.handle
        except BaseException:
            entry.is_done = True  # a program that tries again is to have what open(2) would give it
            raise
        finally:
            self._give_back(path, entry, end=offset + size)

    def tidy(self) -> bool:
        """Release the handles that were not used for `LINGER_S`; whether there are others."""
        latest = self._clock() - LINGER_S
        with self._lock:
            idle = [p for p, entry in self._entries.items() if not entry.users and entry.used_at <= latest]
            gone = [self._entries.pop(path) for path in idle]
            self._is_tidying = bool(self._entries)
        self._release(gone)
        return self._is_tidying

    def _take(self, path: str, offset: int) -> _Entry:
        try:
            ino = self._vfs.getattr(path, None).ino
            self._check(path, ino, offset)
            with self._lock:
                entry = self._entries.get(path)
                if entry is not None and entry.ino == ino:
                    entry.users += 1
                    return entry
            handle = self._vfs.open(path, os.O_RDONLY)
        except FileNotFoundError as gone:
            raise _stale(path) from gone
        opened = self._vfs.getattr(None, handle)
        return self._add(path, _Entry(handle, opened.ino, opened.size))

    def _check(self, path: str, ino: int, offset: int) -> None:
        """Raises OSError(ESTALE) if a read at `offset` must not have the bytes of the file at the path."""
        place = os.fsencode(path)
        before = self._served.known(place)
        if offset and before not in (None, ino):
            now = self._clock()
            before, since = before if isinstance(before, tuple) else (before, now)
            if before != ino and now - since < LINGER_S:
                self._served.note(place, (before, since))
                raise _stale(path)
        self._served.note(place, ino)

    def _add(self, path: str, opened: _Entry) -> _Entry:
        """Keep what was opened, unless another read was faster."""
        with self._lock:
            known = self._entries.get(path)
            entry, spare = opened, known
            if known is not None and known.ino == opened.ino:
                entry, spare = known, opened
            self._entries[path] = entry
            entry.users += 1
            gone = [spare] if spare is not None and not spare.users else []
            if not self._is_tidying:
                self._is_tidying = True
                threading.Thread(target=self._tidy, name="unopened-tidy", daemon=True).start()
        self._release(gone)
        return entry

    def _give_back(self, path: str, entry: _Entry, end: int) -> None:
        with self._lock:
            entry.users -= 1
            entry.used_at = self._clock()
            entry.is_done |= end >= entry.size
            if entry.is_done and self._entries.get(path) is entry:
                del self._entries[path]
            if self._entries.get(path) is entry:
                self._entries.move_to_end(path)
                idle = (p for p, other in self._entries.items() if not other.users)
                surplus = len(self._entries) - MAX_IDLE
                gone = [self._entries.pop(p) for p in list(islice(idle, max(0, surplus)))]
            else:
                gone = [] if entry.users else [entry]
        self._release(gone)

    def _release(self, entries: list[_Entry]) -> None:
        for entry in entries:
            self._vfs.release(entry.handle)

    def _tidy(self) -> None:
        while self.tidy():
            time.sleep(_TIDY_S)  # what expires does so by the clock, not by an event


def _stale(path: str) -> OSError:
    return OSError(errno.ESTALE, "it is not the file any more that was opened", path)
