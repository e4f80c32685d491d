"""Spool files and the lock of the state folder."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pictofs.transfer.lock import StateLock, StateLockedError
from pictofs.transfer.spool import Spool


@pytest.fixture
def spool(folder: Path) -> Spool:
    return Spool(folder / "state/spool", min_free_bytes=0)


def test_it_is_private_whatever_was_there(folder: Path) -> None:
    (folder / "spool").mkdir(mode=0o755)
    spool = Spool(folder / "spool", min_free_bytes=0)
    with spool.create() as file:
        assert stat.S_IMODE(os.fstat(file.fd).st_mode) == 0o600
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700


def test_reading_and_writing(spool: Spool) -> None:
    with spool.create() as file:
        assert file.pwrite(b"hello", 3) == 5
        assert file.size() == 8
        assert file.pread(100, 0) == b"\0\0\0hello"
        file.truncate(4)
        file.fsync()
        name = file.name
    file.close()
    with spool.open(name) as again:
        assert again.pread(9, 0) == b"\0\0\0h"
    assert spool.used_bytes() == 4
    assert spool.size_bytes(name) == 4
    spool.remove(name)
    spool.remove(name)
    assert spool.size_bytes(name) is None
    with pytest.raises(FileNotFoundError):
        spool.open(name)


def test_entries_are_durable_before_bytes_and_cost_little(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noting(fd: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{fd}").readlink()))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", noting)
    with spool.create() as file:
        file.fsync()
        assert synced == [str(spool.folder), str(file.path)]
    synced.clear()
    for _ in range(1000):
        spool.create().close()
    assert synced == [str(spool.folder)] * len(synced)
    assert len(synced) < 25
    assert len(list(spool.names())) == 1001
    synced.clear()
    spool.link(file.name)
    assert synced == [str(spool.folder)]


def test_a_thread_makes_entries_before_they_are_needed(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    made_by: set[str] = set()
    made = threading.Event()
    sync_folder = Spool.sync_folder

    def noting(self: Spool) -> None:
        sync_folder(self)
        made_by.add(threading.current_thread().name)
        if threading.current_thread().name == "pictofs-spool":
            made.set()

    monkeypatch.setattr(Spool, "sync_folder", noting)
    spool.start()
    try:
        spool.create().close()
        assert len(list(spool.folder.iterdir())) == 1  # a lone file needs no others
        spool.create().close()
        assert made.wait(30)
        made_by.clear()
        names = set()
        for _ in range(40):
            with spool.create() as file:
                names.add(file.name)
        assert len(names) == 40
        assert threading.current_thread().name not in made_by
    finally:
        spool.stop()
    assert len(list(spool.names())) == 42


def test_a_full_disk_is_met_by_create_and_ends_the_making_ahead(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool.start()
    try:
        for _ in range(2):
            spool.create().close()

        def full(_self: Spool, _names: object) -> list[str]:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(Spool, "_make", full)

        def create_many() -> None:
            for _ in range(1000):
                spool.create().close()

        with pytest.raises(OSError, match="full"):
            create_many()
    finally:
        spool.stop()


def test_a_copy_is_of_its_own(spool: Spool) -> None:
    data = os.urandom(3 * 1024 * 1024 + 5)
    with spool.create() as file:
        file.pwrite(data, 0)
        spool.remove(file.name)  # it may have landed meanwhile
        with spool.copy(file) as copy:
            copy.pwrite(b"!", 0)
            assert copy.pread(len(data) + 9, 0) == b"!" + data[1:]
            assert file.pread(1, 0) == data[:1]


def test_a_copy_where_the_kernel_cannot(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(errno.EXDEV, "no")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    data = os.urandom(1024 * 1024 + 5)
    with spool.create() as file:
        file.pwrite(data, 0)
        with spool.copy(file) as copy:
            assert copy.pread(len(data), 0) == data


def test_a_link_outlives_the_first_name(spool: Spool) -> None:
    with spool.create() as file:
        file.pwrite(b"bytes", 0)
    other = spool.link(file.name)
    spool.remove(file.name)
    assert spool.path(other).read_bytes() == b"bytes"


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "x\0"])
def test_only_names_of_its_own(spool: Spool, name: str) -> None:
    with pytest.raises(ValueError, match="spool name"):
        spool.path(name)


def test_the_reserve_is_enospc_and_leaves_nothing_behind(folder: Path) -> None:
    spool = Spool(folder / "spool", min_free_bytes=0)
    with spool.create() as file:
        file.pwrite(b"x" * 1000, 0)
        full = Spool(folder / "spool", min_free_bytes=1 << 60)
        assert full.free_bytes() == 0
        for attempt in (full.create, lambda: full.copy(file), lambda: full.open(file.name).pwrite(b"x", 0)):
            with pytest.raises(OSError, match="No space") as caught:
                attempt()
            assert caught.value.errno == errno.ENOSPC
        assert list(full.names()) == [file.name]


def test_one_lock_per_folder(folder: Path) -> None:
    with StateLock(folder, mount_point="/mnt/pictures") as lock:
        assert lock.held
        with pytest.raises(
            StateLockedError, match=rf"mounted at /mnt/pictures by process {os.getpid()}"
        ) as caught:
            StateLock(folder).acquire()
        assert (caught.value.pid, caught.value.mount_point) == (os.getpid(), "/mnt/pictures")
        lock.announce(None)
        with pytest.raises(StateLockedError, match="in use by process"):
            StateLock(folder).acquire()
    assert not lock.held
    with StateLock(folder):
        pass


def test_the_lock_goes_with_its_process(folder: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from pictofs.transfer.lock import StateLock\n"
        "StateLock(Path(sys.argv[1]), mount_point='/mnt').acquire(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    repository = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script, folder], cwd=repository, check=False)
    with StateLock(folder) as lock:
        assert lock.held


def test_the_lock_is_private(folder: Path) -> None:
    with StateLock(folder / "state"):
        assert stat.S_IMODE((folder / "state").stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "state/lock").stat().st_mode) == 0o600
