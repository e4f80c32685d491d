"""Which files and folders are open on the mount, and what has changed in a folder since it was listed.

A listing with attributes (READDIRPLUS) is a snapshot from the moment the folder was opened, and the kernel
believes it. For a file that was written since, it would believe the old size: the file would read as cut off,
and an append land in its middle. So the names of all that was changed through the mount after the snapshot,
or may be changing still, are kept here, and get listed without attributes.

Lock order: `Opened._lock` alone; nothing is called while it is held. Paths are bytes, as libfuse gives them.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable

from pictofs.fs.packing import PreparedListing

__all__ = ["Folder", "Opened"]


class Folder:
    """An open folder.

    Attributes:
        path: where it is; changes with rename.
        listing: what was in it when it was opened; set before the first readdir.
        changed: names whose attributes in `listing` may not be true any more.
    """

    def __init__(self, path: bytes, changed: set[bytes]) -> None:
        self.path = path
        self.changed = changed
        self.listing: PreparedListing | None = None


class Opened:
    """The open files, by the vfs's handle, and the open folders, by a number of ours."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: dict[int, bytes] = {}  # handle → path; the last one, for a file that was removed
        self._inos: dict[bytes, dict[int, int]] = {}  # path → handle → inode of the file it was opened as
        self._writers: set[int] = set()  # handles that may write
        self._folders: dict[int, Folder] = {}
        self._numbers = itertools.count(1)

    def add_file(self, handle: int, path: bytes, ino: int, *, writes: bool) -> bool:
        """Whether the path was another file for a handle that is open still."""
        with self._lock:
            self._paths[handle] = path
            if writes:
                self._writers.add(handle)
            there = self._inos.setdefault(path, {})
            there[handle] = ino
            return any(other != ino for other in there.values())

    def remove_file(self, handle: int) -> None:
        with self._lock:
            path = self._paths.pop(handle, None)
            self._writers.discard(handle)
            there = self._inos.get(path or b"", {})
            there.pop(handle, None)
            if path is not None and not there:
                self._inos.pop(path, None)

    def path_of(self, handle: int) -> bytes | None:
        with self._lock:
            return self._paths.get(handle)

    def add_folder(self, path: bytes) -> tuple[int, Folder]:
        """Call it before the listing is taken, so that no change falls between the two."""
        with self._lock:
            number = next(self._numbers)
            written = (_split(self._paths[handle]) for handle in self._writers)
            changed = {name for parent, name in written if parent == path}
            folder = self._folders[number] = Folder(path, changed)
            return number, folder

    def folder(self, number: int) -> Folder:
        with self._lock:
            return self._folders[number]

    def remove_folder(self, number: int) -> None:
        with self._lock:
            del self._folders[number]

    def renamed(self, old: bytes, new: bytes) -> None:
        """`old`, with all below it, is now at `new`."""
        with self._lock:
            for handle, path in self._paths.items():
                self._paths[handle] = _moved(path, old, new)
            inos, self._inos = self._inos, {}
            for path, there in inos.items():
                self._inos.setdefault(_moved(path, old, new), {}).update(there)
            for folder in self._folders.values():
                folder.path = _moved(folder.path, old, new)

    def note_change(self, paths: Iterable[bytes]) -> None:
        """Call it after a change and before the kernel is told that it is done."""
        if not self._folders:  # a folder added from now on is listed after the change
            return
        with self._lock:
            for parent, name in map(_split, paths):
                for folder in self._folders.values():
                    if folder.path == parent:
                        folder.changed.add(name)


def _split(path: bytes) -> tuple[bytes, bytes]:
    parent, _, name = path.rpartition(b"/")
    return parent or b"/", name


def _moved(path: bytes, old: bytes, new: bytes) -> bytes:
    return new + path[len(old) :] if path == old or path.startswith(old + b"/") else path
