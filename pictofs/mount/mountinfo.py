"""What the kernel says about mount points, and taking one down. Of what is mounted it knows the type."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

FSTYPE = "fuse.pictofs"
"""What the mount table calls our file systems: FUSE's option subtype=pictofs."""

_MOUNTINFO = Path("/proc/self/mountinfo")
_OCTAL = re.compile(r"\\([0-7]{3})")
_DETACH_TIMEOUT_S = 30.0
"""fusermount answers at once; when it does not, the kernel waits for a hung daemon."""


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of the mount table; `fstype` looks like `fuse.pictofs`."""

    mountpoint: str
    fstype: str
    source: str

    @property
    def is_fuse(self) -> bool:
        return self.fstype == "fuse" or self.fstype.startswith("fuse.")

    @property
    def is_ours(self) -> bool:
        return self.fstype == FSTYPE


def real_path(path: str | os.PathLike[str]) -> Path:
    """The path as the mount table has it. What is mounted at the path itself is not asked: a dead mount
    would answer with an error, a hung one not at all."""
    here = Path(os.path.abspath(path))  # noqa: PTH100  (Path.absolute keeps "..")
    for _ in range(40):  # as many links as the kernel follows
        here = Path(os.path.realpath(here.parent)) / here.name
        if entry(here) is not None or not here.is_symlink():
            break
        here = Path(os.path.abspath(here.parent / here.readlink()))  # noqa: PTH100
    return here


def entry(path: str | os.PathLike[str]) -> MountEntry | None:
    """What is mounted at exactly this real path (the topmost), or None."""
    wanted = os.fspath(path)
    found = None
    for line in _MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        # 36 35 98:0 /root /mount/point options [optional fields] - fstype source superoptions
        before, _, after = line.partition(" - ")
        place = _unescaped(before.split(" ")[4])
        if place == wanted:
            fstype, source = after.split(" ")[:2]
            found = MountEntry(place, fstype, _unescaped(source))
    return found


def is_dead(path: str | os.PathLike[str]) -> bool:
    """Whether a FUSE mount is there whose daemon has died (ENOTCONN)."""
    try:
        os.statvfs(path)  # stat may still be answered from the kernel's memory
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def detach(path: str | os.PathLike[str], *, lazy: bool = False) -> None:
    """Unmount a FUSE file system, as its user.

    `lazy` takes it out of the tree at once even though it is in use or dead.

    Raises:
        OSError: EBUSY, it is in use; EPERM, it is somebody else's; ENOENT, none of fusermount3, fusermount
            and umount is installed; EIO, with the tool's words.
    """
    for tool in ("fusermount3", "fusermount", "umount"):
        if shutil.which(tool):
            break
    else:
        raise OSError(errno.ENOENT, "neither fusermount3 nor fusermount is installed (apt install fuse3)")
    if tool == "umount":
        command = [tool, *(["-l"] if lazy else []), "--", os.fspath(path)]
    else:
        command = [tool, "-u", *(["-z"] if lazy else []), "--", os.fspath(path)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env={**os.environ, "LC_ALL": "C"},
            timeout=_DETACH_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OSError(errno.EIO, f"{tool} did not come back", os.fspath(path)) from None
    if done.returncode == 0 or entry(path) is None:
        return
    words = done.stderr.strip().rpartition(": ")[2] or f"{tool} failed"
    if "busy" in words.lower():
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), os.fspath(path))
    if "not permitted" in words.lower():
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), os.fspath(path))
    raise OSError(errno.EIO, words, os.fspath(path))


def wait_until_gone(path: str | os.PathLike[str], timeout_s: float) -> bool:
    """Whether nothing is mounted at `path` any more, within `timeout_s`."""
    with _MOUNTINFO.open("rb") as table:
        changes = select.poll()
        changes.register(table, select.POLLPRI | select.POLLERR)  # the kernel's way to say that it changed
        return _wait(lambda: entry(path) is None, changes, timeout_s)


def wait_until_ended(pid: int, timeout_s: float) -> bool:
    """Whether the process has ended, within `timeout_s`."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        end = select.poll()
        end.register(descriptor, select.POLLIN)
        return bool(end.poll(max(0.0, timeout_s) * 1000))
    finally:
        os.close(descriptor)


def users_of(path: str | os.PathLike[str], most: int = 3) -> list[str]:
    """Programs that keep the mount busy, as far as this user may see: `bash (4711)`."""
    root = os.fspath(path)
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            links = [process / "cwd", *(process / "fd").iterdir()]
            if any(_is_below(link, root) for link in links):
                found.append(f"{(process / 'comm').read_text().strip()} ({process.name})")
                if len(found) == most:
                    break
    return found


def _is_below(link: Path, root: str) -> bool:
    try:
        target = os.readlink(link)  # noqa: PTH115  (kept as text: it may not be a path at all)
    except OSError:
        return False
    return target == root or target.startswith(root + "/")


def _wait(met: Callable[[], bool], changes: select.poll, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not met():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            return False
        changes.poll(left_s * 1000)
    return True


def _unescaped(text: str) -> str:
    """Undo the table's octal escapes, which stand for bytes."""
    if "\\" not in text:
        return text
    raw = _OCTAL.sub(lambda match: chr(int(match[1], 8)), os.fsencode(text).decode("latin-1"))
    return os.fsdecode(raw.encode("latin-1"))
