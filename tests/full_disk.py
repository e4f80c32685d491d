"""A disk that is full, read-only or broken, for tests in this process: what writes to a folder may fail.

disk = FullDisk(monkeypatch, folder)
disk.refuses = errno.EROFS     every write fails so
disk.max_bytes = 100_000       files of more than that together do not fit; removing some makes room
disk.unlucky = lambda: …       asked before each write whether it fails
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BLOCK_BYTES = 512


class FullDisk:
    """Attributes:
    refused: how many writes were.
    """

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path) -> None:
        self.folder = folder
        self.refuses: int | None = None
        self.max_bytes: int | None = None
        self.unlucky: Callable[[], bool] = lambda: False
        self.refused = 0
        self._pwrite, self._open = os.pwrite, os.open
        patch.setattr(os, "pwrite", self._written)
        patch.setattr(os, "open", self._opened)

    def used_bytes(self) -> int:
        """What the folder's files take, open ones that were removed not counted."""
        return sum(path.stat().st_blocks * BLOCK_BYTES for path in self.folder.iterdir())

    def _is_here(self, path: Any) -> bool:
        return os.fspath(path).startswith(str(self.folder))

    def _refuse(self, number: int) -> None:
        self.refused += 1
        raise OSError(number, os.strerror(number))

    def _written(self, fd: int, data: Any, offset: int) -> int:
        if self._is_here(Path(f"/proc/self/fd/{fd}").readlink()):
            if self.refuses is not None:
                self._refuse(self.refuses)
            is_full = self.max_bytes is not None and self.used_bytes() + len(data) > self.max_bytes
            if is_full or self.unlucky():
                self._refuse(errno.ENOSPC)
        return self._pwrite(fd, data, offset)

    def _opened(self, path: Any, flags: int, *arguments: Any, **keywords: Any) -> int:
        is_written = flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT) and self._is_here(path)
        if self.refuses == errno.EROFS and is_written and (flags & os.O_CREAT or Path(path).exists()):
            self._refuse(errno.EROFS)
        return self._open(path, flags, *arguments, **keywords)
