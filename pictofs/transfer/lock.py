"""One mount per account: the flock on the account's state folder.

Owns `<state folder>/lock`. Whoever opens the journal or cleans the spool must hold it; the kernel lets go of
it when the last process that holds it dies, so a kill -9 never leaves it behind.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from types import TracebackType

__all__ = ["StateLock", "StateLockedError"]

_LOCK_NAME = "lock"


class StateLockedError(Exception):
    """Another process uses this account's state folder.

    Attributes:
        pid: its process id, None when it did not say.
        mount_point: where it has the drive mounted, None when it did not say.
    """

    def __init__(self, folder: Path, pid: int | None, mount_point: str | None) -> None:
        self.pid = pid
        self.mount_point = mount_point
        where = f"mounted at {mount_point}" if mount_point else "in use"
        who = f" by process {pid}" if pid else ""
        super().__init__(
            f"This account's drive is already {where}{who}. Unmount it there first "
            f"(its pending uploads are in {folder})."
        )


class StateLock:
    """The lock of one account's state folder, taken for as long as the object is `held`.

    It survives a fork: a daemon that forks after `acquire` keeps it and calls `announce` for its own pid.
    """

    def __init__(self, folder: Path, *, mount_point: str | None = None) -> None:
        self._folder = folder
        self._mount_point = mount_point
        self._fd = -1

    @property
    def held(self) -> bool:
        """True between `acquire` and `release`."""
        return self._fd >= 0

    def acquire(self) -> None:
        """Takes the lock, making the folder (0700) if it is missing.

        Raises:
            StateLockedError: another process holds it.
            OSError: the folder cannot be made.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        fd = os.open(self._folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _read_holder(fd)
            os.close(fd)
            raise StateLockedError(self._folder, holder[0], holder[1]) from None
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        self.announce(self._mount_point)

    def announce(self, mount_point: str | None) -> None:
        """Writes this process's pid and mount point where a second mount will read them."""
        self._mount_point = mount_point
        note = json.dumps({"pid": os.getpid(), "mount_point": mount_point}).encode()
        os.pwrite(self._fd, note, 0)
        os.ftruncate(self._fd, len(note))

    def release(self) -> None:
        """Lets go; a second call does nothing."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.ftruncate(fd, 0)
            os.close(fd)

    def __enter__(self) -> StateLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _read_holder(fd: int) -> tuple[int | None, str | None]:
    """The note of `announce`; Nones while it is being written."""
    try:
        note = json.loads(os.pread(fd, 65536, 0))
        return note["pid"], note["mount_point"]
    except (ValueError, KeyError, TypeError):
        return None, None
