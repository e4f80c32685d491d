"""The values every file operation answers with: attributes, listings, numbers of the whole drive.

Pure data, immutable, shared by `fs/vfs` (which makes them) and `fs/fuse` (which hands them to the kernel).
Neither reaches further than this file for them, so the vfs needs no FUSE and the adapter needs no vfs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Attributes", "Entry", "Listing", "StatFs"]


@dataclass(frozen=True, slots=True)
class Attributes:
    """What stat(2) shows of one file or folder.

    `ino` is stable for as long as the thing exists and never 0 (the kernel hides an entry with inode 0).
    `mode` includes the type bits (S_IFREG or S_IFDIR). `size` is bytes; times are nanoseconds since 1970.
    """

    ino: int
    mode: int
    nlink: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    uid: int
    gid: int


class Entry(NamedTuple):
    """One name in a folder, as the program sees it, with its attributes."""

    name: str
    attributes: Attributes


@dataclass(frozen=True, eq=False, slots=True)
class Listing:
    """A snapshot of one folder: its own attributes, its parent's, and the entries without `.` and `..`.

    Return the same object for as long as nothing in the folder changed, and after that the same objects for
    the entries that did not: the adapter prepares each of them for the kernel once.
    """

    attributes: Attributes
    parent: Attributes
    entries: Sequence[Entry]


@dataclass(frozen=True, slots=True)
class StatFs:
    """What statfs(2) shows: counts in units of `block_size` bytes; `name_max` in bytes.

    `blocks_available` is what can be written now, of the `blocks_free` that are not used."""

    block_size: int
    blocks: int
    blocks_free: int
    blocks_available: int
    files: int
    files_free: int
    name_max: int
