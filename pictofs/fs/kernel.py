"""What the kernel remembers of the drive: whose bytes are in its page cache, and what it has to forget.

The kernel believes a name and its attributes for a second (`MountOptions`), and keeps a file's pages until it
is told otherwise. What is changed through the mount it knows. What others change, or what ends here without
it (`pictofs uploads discard`), reaches it in two ways. At each open of a file, `Pages` tells whether the
pages it has under that path are still this file's. And `KernelCache` makes it forget paths at once, where
libfuse can (from 3 on), by a thread of its own: in a callback it would wait for itself.

Lock order: `KernelCache._lock` alone: `forget` of libfuse is called without it. `Pages._lock` alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable

__all__ = ["KernelCache", "Pages"]

_PATHS = 200_000
"""Of so many paths it is known whose pages the kernel has, about 100 bytes each; others are read again."""


class KernelCache:
    """Makes the kernel forget paths. Before `attach`, after `detach`, and on libfuse 2 it does nothing."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._forget: Callable[[bytes], object] | None = None
        self._waiting: deque[bytes] = deque()
        self._is_running = False

    def attach(self, forget: Callable[[bytes], object]) -> None:
        """From now on `forget` drops the attributes and pages of a path."""
        with self._lock:
            self._forget = forget

    def detach(self) -> None:
        """The drive is being taken down: `forget` is not called any more once this returns."""
        with self._lock:
            self._forget = None
            self._waiting.clear()
            self._lock.wait_for(lambda: not self._is_running)

    def forget(self, paths: Iterable[str]) -> None:
        """Forget these paths of the drive (no leading slash), soon; returns at once."""
        with self._lock:
            if self._forget is None:
                return
            self._waiting.extend(b"/" + path.encode("utf-8", "surrogateescape") for path in paths)
            if self._waiting and not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="kernel-forget", daemon=True).start()
            self._lock.notify_all()

    def settle(self, timeout_s: float) -> bool:
        """Wait until all is forgotten; whether that is so."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._is_running, timeout_s)

    def _run(self) -> None:
        while True:
            with self._lock:
                forget = self._forget
                if forget is None or not self._waiting:
                    self._is_running = False
                    self._lock.notify_all()
                    return
                path = self._waiting.popleft()
            forget(path)  # An error: the kernel did not know the path.


class Pages:
    """Whose bytes the kernel may have in its page cache under each path: what was opened there last."""

    def __init__(self, paths: int = _PATHS) -> None:
        self._lock = threading.Lock()
        self._limit = paths
        self._count = 0
        self._folders: dict[bytes, dict[bytes, Hashable]] = {}

    def are_of(self, path: bytes, identity: Hashable) -> bool:
        """Whether the pages under a path are this file's, which is being opened there."""
        return self.note(path, identity) == identity

    def note(self, path: bytes, identity: Hashable) -> Hashable | None:
        """The pages under a path are this file's from now on; whose they were."""
        parent, _, name = path.rpartition(b"/")
        with self._lock:
            folder = self._folders.setdefault(parent, {})
            known = folder.get(name)
            self._count += known is None
            folder[name] = identity
            while self._count > self._limit:
                self._drop(next(iter(self._folders)))
        return known

    def known(self, path: bytes) -> Hashable | None:
        """Whose bytes the kernel may have under a path."""
        parent, _, name = path.rpartition(b"/")
        with self._lock:
            return self._folders.get(parent, {}).get(name)

    def renamed(self, old: bytes, new: bytes) -> None:
        """What was at `old`, with all below it, is now at `new`: nothing is known of either."""
        with self._lock:
            for path in (old, new):
                parent, _, name = path.rpartition(b"/")
                self._count -= self._folders.get(parent, {}).pop(name, None) is not None
                below = path + b"/"
                for folder in [f for f in self._folders if f == path or f.startswith(below)]:
                    self._drop(folder)

    def _drop(self, folder: bytes) -> None:
        self._count -= len(self._folders.pop(folder))
