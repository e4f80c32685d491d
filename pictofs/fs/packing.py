"""`Attributes` and listings in the memory layout that libfuse reads. Pure: no binding, no libfuse, no state.

A folder of 10,000 entries is prepared once, not for each program that lists it.
"""

from __future__ import annotations

import ctypes
import itertools
import logging
import struct
from operator import itemgetter
from typing import Any

from pictofs.fs.attributes import Attributes, Entry, Listing

__all__ = ["PreparedListing", "StatPacker"]

logger = logging.getLogger(__name__)

# st_blksize, by which Python and stdio size their buffers: each write is one call, so as much as one takes.
_BLOCK_SIZE_BYTES = 128 * 1024
_STAT_BLOCK_BYTES = 512  # the unit of st_blocks, fixed by stat(2)
_NAME_MAX_BYTES = 255  # with one longer name, or a `/` in one, the kernel fails the whole listing
_UNKNOWN_INO = 0xFFFFFFFF  # libfuse's own; an entry with inode 0 would be invisible
_NS_PER_S = 1_000_000_000


class StatPacker:
    """Turns `Attributes` into the bytes of a struct stat.

    `c_stat` is the binding's ctypes structure of this platform. `uid` and `gid` replace the owner (None: keep
    it); the bits of `umask` are taken off every mode. `padded_bytes` is the room to leave for each in memory.
    """

    _FIELDS = ("ino", "mode", "nlink", "uid", "gid", "size", "blksize", "blocks")
    _TIMES = ("atimespec", "mtimespec", "ctimespec")
    # fusepy's c_stat ends 24 bytes before the real one, and libfuse copies the real one out of a listing.
    _PADDED_BYTES = 144

    def __init__(self, c_stat: Any, *, uid: int | None, gid: int | None, umask: int) -> None:
        self._uid, self._gid, self._mode_mask = uid, gid, ~umask
        members: list[tuple[int, str, int]] = []  # (offset, struct code, index into the values of `pack`)
        for index, name in enumerate(self._FIELDS):
            member = getattr(c_stat, f"st_{name}")
            members.append((member.offset, {2: "H", 4: "I", 8: "Q"}[member.size], index))
        for index, name in enumerate(self._TIMES):
            member = getattr(c_stat, f"st_{name}")
            half, first = member.size // 2, len(self._FIELDS) + 2 * index
            code = {4: "i", 8: "q"}[half]  # signed: before 1970
            members += [(member.offset, code, first), (member.offset + half, code, first + 1)]
        members.sort()
        layout = "="
        for offset, code, _ in members:
            layout += f"{offset - struct.calcsize(layout)}x{code}"
        self._struct = struct.Struct(layout)
        self._in_order = itemgetter(*(index for _, _, index in members))
        self.padded_bytes = max(ctypes.sizeof(c_stat), self._PADDED_BYTES)

    def pack(self, attributes: Attributes) -> bytes:
        """The struct from its start to its last field that has a value."""
        values = (
            attributes.ino or _UNKNOWN_INO,
            attributes.mode & self._mode_mask,
            attributes.nlink,
            attributes.uid if self._uid is None else self._uid,
            attributes.gid if self._gid is None else self._gid,
            attributes.size,
            _BLOCK_SIZE_BYTES,
            -(-attributes.size // _STAT_BLOCK_BYTES),
            *divmod(attributes.atime_ns, _NS_PER_S),
            *divmod(attributes.mtime_ns, _NS_PER_S),
            *divmod(attributes.ctime_ns, _NS_PER_S),
        )
        return self._struct.pack(*self._in_order(values))


class PreparedListing:
    """A listing as readdir needs it, `.` and `..` first. Keep the object for as long as the address is used.

    `names` are bytes; the struct stat of `names[i]` is at the address `first_stat + i * stride`. A name that
    the kernel would not take is left out and logged: it would fail the whole listing.

    Entries that are the same objects as in `previous`, the folder's last listing, are not packed again.
    """

    def __init__(self, listing: Listing, packer: StatPacker, previous: PreparedListing | None = None) -> None:
        self.names: list[bytes] = []
        self.stride = packer.padded_bytes
        self._entries: list[Entry] = []  # in the order of `names`, and alive, so that their ids stay theirs
        known = {} if previous is None else previous._positions()
        stats: list[bytes] = []
        refused: list[str] = []
        folders = (Entry(".", listing.attributes), Entry("..", listing.parent))
        for entry in itertools.chain(folders, listing.entries):
            position = known.get(id(entry))
            if position is not None:
                assert previous is not None  # it is where the position is from
                encoded: bytes | None = previous.names[position]
                packed = previous._stat(position)
            else:
                encoded = _encoded(entry.name)
                packed = packer.pack(entry.attributes).ljust(self.stride, b"\0")
            if encoded is None:
                refused.append(entry.name)
                continue
            self.names.append(encoded)
            self._entries.append(entry)
            stats.append(packed)
        if refused:
            logger.warning("%d names cannot be listed, the first is %r", len(refused), refused[0])
        self._block: bytes = b"".join(stats)
        self.first_stat = ctypes.cast(ctypes.c_char_p(self._block), ctypes.c_void_p).value or 0

    def _stat(self, position: int) -> bytes:
        return self._block[position * self.stride : (position + 1) * self.stride]

    def _positions(self) -> dict[int, int]:
        """Where each entry is, by the id of the object."""
        return {id(entry): position for position, entry in enumerate(self._entries)}


def _encoded(name: str) -> bytes | None:
    try:
        encoded = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return None
    valid = 0 < len(encoded) <= _NAME_MAX_BYTES and b"/" not in encoded and b"\0" not in encoded
    return encoded if valid else None
