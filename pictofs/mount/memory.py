"""How the daemon's process handles memory: a listing of 100,000 images comes as 10 answers of 8 MB each, is
parsed by short-lived threads, and then stays for days as half a million small objects."""

from __future__ import annotations

import contextlib
import ctypes
import gc

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8  # from glibc's malloc.h

_BIG_BLOCK_BYTES = 1 << 20
_ARENAS = 2
_FULL_COLLECTION_AFTER = 200
"""Collections of the middle generation between two of everything: the default, 10, would look at every image
again and again while a listing is read, and nothing else runs meanwhile (0.1 s for 100,000)."""


def prepare() -> None:
    """Call it once, in the process that serves.

    Big blocks go back to the system when they are freed, and threads share their memory: left alone, glibc
    keeps some of both for each thread that ever parsed an answer (measured: 14 MB more with each of the first
    refreshes of 100,000 images).
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_THRESHOLD, _BIG_BLOCK_BYTES)
        library.mallopt(_M_ARENA_MAX, _ARENAS)
    gc.freeze()  # the modules
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, _FULL_COLLECTION_AFTER)
