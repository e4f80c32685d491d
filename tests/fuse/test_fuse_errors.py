# ruff: noqa: PTH102, PTH104, PTH108 - the kernel's calls, by their own names
"""Errors and parallel calls on a real mount, through each binding."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_vfs import exception_named
from mounts import wait_until
from served_fake import Drive

from pictofs.api import errors
from pictofs.fs.errnos import errno_of

pytestmark = pytest.mark.fuse

_SLOW_OPENS = 40


def raises(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, match=rf"\[Errno {number}\]")


@pytest.mark.parametrize(
    "name",
    [
        *errors.__all__,
        "ApiError 413",
        "SSLError",
        "TimeoutError",
        "ValueError",
        "SystemExit",
        "KeyboardInterrupt",
        *(
            f"OSError {number}"
            for number in (errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EDQUOT, errno.EPERM, errno.EACCES)
        ),
    ],
)
def test_each_exception_arrives_as_its_errno_and_the_drive_lives(
    drive: Drive, folder: Path, name: str
) -> None:
    path = folder / "a.jpg"
    path.write_bytes(b"x" * 1000)
    number = errno_of(exception_named(name))
    with drive.fault("open", name), raises(number):
        path.read_bytes()
    fd = os.open(path, os.O_RDWR)
    try:
        for operation, call in (
            ("read", lambda: os.pread(fd, 4096, 0)),
            ("write", lambda: os.pwrite(fd, b"y", 0)),
            ("ftruncate", lambda: os.ftruncate(fd, 10)),
            ("fsync", lambda: os.fsync(fd)),
            ("utimens", lambda: os.utime(path)),
            ("getxattr", lambda: os.getxattr(path, "user.a")),
            ("opendir", lambda: os.listdir(folder)),
            ("unlink", lambda: os.unlink(path)),
            ("rename", lambda: os.rename(path, folder / "b.jpg")),
            ("mkdir", lambda: os.mkdir(folder / "made")),
            ("statfs", lambda: os.statvfs(folder)),
        ):
            if operation == "read":
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            with drive.fault(operation, name), raises(number):
                call()
    finally:
        os.close(fd)
    assert path.read_bytes() == b"x" * 1000


def test_an_error_of_flush_is_an_error_of_close(drive: Drive, folder: Path) -> None:
    for name in ("PaymentRequiredError", "NetworkError", f"OSError {errno.ENOSPC}", "ValueError"):
        fd = os.open(folder / "a.jpg", os.O_WRONLY | os.O_CREAT)
        os.write(fd, b"x")
        with drive.fault("flush", name), raises(errno_of(exception_named(name))):
            os.close(fd)


def test_each_close_flushes_and_the_last_releases(drive: Drive, folder: Path) -> None:
    flushes, releases = drive.calls("flush"), drive.calls("release")
    fd = os.open(folder / "a.jpg", os.O_WRONLY | os.O_CREAT)
    os.close(os.dup(fd))
    assert drive.calls("flush") == flushes + 1
    os.close(fd)
    assert drive.calls("flush") == flushes + 2
    wait_until(lambda: drive.calls("release") == releases + 1, "the handle is released")
    wait_until(lambda: drive.ask("state")["open_files"] == 0, "nothing is open")


def test_a_failing_release_is_logged_and_reaches_nobody(drive: Drive, folder: Path) -> None:
    before = drive.calls("release")
    with drive.fault("release", "ConfigurationError"):
        (folder / "a.jpg").write_bytes(b"x")
        wait_until(lambda: drive.calls("release") > before, "the handle is released")
        wait_until(
            lambda: (
                f"release '/{folder.name}/a.jpg' failed with EIO: ConfigurationError" in drive.served.words()
            ),
            "the log names the operation and the path",
        )


def test_a_bug_is_logged_once_with_its_traceback(drive: Drive, folder: Path) -> None:
    path = folder / "a.jpg"
    path.touch()
    with drive.fault("chmod", "ValueError"):
        for _ in range(5):
            with raises(errno.EIO):
                path.chmod(0o600)
    words = drive.served.words()
    assert words.count(f"chmod '/{folder.name}/a.jpg' failed with EIO: ValueError: a bug") == 1
    assert "in chmod" in words


def test_forty_slow_opens_do_not_stall_a_stat(drive: Drive, folder: Path) -> None:
    names = [folder / f"slow-{index}.jpg" for index in range(_SLOW_OPENS)]
    for name in names:
        name.touch()
    quick = folder / "quick.jpg"
    quick.touch()
    answered = threading.Event()

    def ask() -> None:
        assert quick.read_bytes() == b""
        assert len(os.listdir(folder)) == _SLOW_OPENS + 1
        os.statvfs(folder)
        answered.set()

    with ThreadPoolExecutor(_SLOW_OPENS + 1) as pool:
        drive.ask("gate", open=False)
        try:
            reading = [pool.submit(name.read_bytes) for name in names]
            wait_until(lambda: drive.ask("state")["waiting"] == _SLOW_OPENS, "all opens are under way")
            asking = pool.submit(ask)
            assert answered.wait(20), "a quick call waits for the slow ones"
            assert drive.ask("state")["waiting"] == _SLOW_OPENS
        finally:
            drive.ask("gate", open=True)
        asking.result()
        assert [done.result() for done in reading] == [b""] * _SLOW_OPENS


def test_threads_keep_what_is_theirs(drive: Drive, folder: Path) -> None:
    """threading.local survives from one call to the next, so that a session per thread does, too."""
    for index in range(200):
        (folder / f"{index}.jpg").touch()
    remembered = drive.ask("state")["calls_a_thread_remembers"]
    assert max(remembered) > 100


def test_parallel_writers_and_readers(folder: Path) -> None:
    def work(index: int) -> None:
        data = bytes([index]) * 300_000
        for turn in range(5):
            path = folder / f"{index}-{turn}.jpg"
            path.write_bytes(data)
            assert path.read_bytes() == data
            os.rename(path, folder / f"{index}-{turn}-renamed.jpg")
            assert path.name not in os.listdir(folder)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(os.listdir(folder)) == 40
