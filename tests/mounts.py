"""Real mounts for tests: wait for one to answer, take it down, and see that nothing is left.

Nothing here sleeps instead of waiting for a condition, and nothing waits for ever. Mounts stand below the
caller's scratch folder; `tests/conftest.py` fails the run if one survives it.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Generous: on a busy machine a Python process takes seconds to start. A test that works never waits so long.
DEADLINE_S = 30.0
_POLL_S = 0.005


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Poll until `condition()` is true. AssertionError naming `what` at the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(_POLL_S)


def mount_type(mountpoint: str | os.PathLike[str]) -> str | None:
    """The file system type of the mount at this very path ("fuse.pictofs"), or None if nothing is."""
    path = Path(mountpoint)
    wanted = str(path.parent.resolve() / path.name)  # without touching the mount, which may be dead
    found = None
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, source = line.partition(" - ")
        here = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields.split(" ")[4])
        if here == wanted:
            found = source.split(" ")[0]  # the last one is on top
    return found


def wait_mounted(
    mountpoint: str | os.PathLike[str],
    alive: Callable[[], bool] = lambda: True,
    deadline_s: float = DEADLINE_S,
) -> None:
    """Wait until something is mounted at `mountpoint` and answers. Fails early when `alive()` turns false."""

    def answers() -> bool:
        assert alive(), f"the process that was to mount {mountpoint} has ended"
        if mount_type(mountpoint) is None:
            return False
        Path(mountpoint).stat()
        return True

    wait_until(answers, f"{mountpoint} is mounted and answers", deadline_s)


def unmount(mountpoint: str | os.PathLike[str]) -> None:
    """Unmount as a user does. AssertionError with fusermount's words when it refuses."""
    done = subprocess.run(
        [_fusermount(), "-u", mountpoint], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr


def force_unmount(mountpoint: str | os.PathLike[str]) -> None:
    """Remove whatever is mounted there, alive or dead. For teardown: never fails on "nothing was mounted"."""
    for _ in range(8):  # several may be stacked
        if mount_type(mountpoint) is None:
            return
        subprocess.run([_fusermount(), "-uz", mountpoint], capture_output=True, timeout=DEADLINE_S)
    raise AssertionError(f"{mountpoint} cannot be unmounted")


def _fusermount() -> str:
    found = shutil.which("fusermount3") or shutil.which("fusermount")
    assert found, "neither fusermount3 nor fusermount is installed"
    return found


@dataclass
class MountProcess:
    """A process that serves a mount in the foreground; its standard error is in the file `log`."""

    process: subprocess.Popen[str]
    mountpoint: Path
    log: Path

    def words(self) -> str:
        """What it has said so far on standard error."""
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, wait for the end; the exit status, negative for a signal that killed it."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end; the exit status."""
        try:
            return self.process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end; it said:\n{self.words()}") from None


@contextmanager
def mount_process(
    command: Sequence[str],
    mountpoint: Path,
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    wait: bool = True,
) -> Iterator[MountProcess]:
    """Run `command`, which mounts `mountpoint` in the foreground; with `wait`, until the mount answers.

    After the block the process, if it still runs, gets SIGTERM; it must end with status 0, and the mount be
    gone. When the block raised, it is only made sure that nothing is left.
    """
    mountpoint.mkdir(exist_ok=True)
    with log.open("w") as log_file:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log_file, text=True, env=env
        )
    served = MountProcess(process, mountpoint, log)
    try:
        if wait:
            try:
                wait_mounted(mountpoint, lambda: process.poll() is None)
            except AssertionError as exc:
                raise AssertionError(f"{exc}; it said:\n{served.words()}") from None
        yield served
        if process.poll() is None:
            status = served.stop()
            assert status == 0, f"exit status {status}; it said:\n{served.words()}"
        assert mount_type(mountpoint) is None, f"{mountpoint} is still mounted"
    finally:
        if process.poll() is None:
            process.kill()
        force_unmount(mountpoint)
        process.wait(DEADLINE_S)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
