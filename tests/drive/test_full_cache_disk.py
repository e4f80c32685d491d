"""Reading on a real mount while the disk of the image cache is full, or read-only."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from drives import Drive, fill
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def contents(sandbox: SandboxProcess) -> dict[str, bytes]:
    """The images of the dataset `full`, by name."""
    return fill(sandbox, "full", [20_000, 300_000, 1_500_000] * 5)


def drive_with_cache_on(disk: Path, folder: Path, sandbox: SandboxProcess, *arguments: str) -> Drive:
    drive = Drive(folder, sandbox, *arguments)
    drive.env["XDG_CACHE_HOME"] = str(disk)
    return drive


def cat(drive: Drive) -> bytes:
    command = f"cat {drive.mnt}/full/*"
    return subprocess.run(command, shell=True, capture_output=True, check=True, timeout=60).stdout


def look(drive: Drive, contents: dict[str, bytes]) -> None:
    """Read all images, several at a time, and not from the kernel's pages."""
    for fd in [os.open(drive.mnt / "full" / name, os.O_RDONLY) for name in contents]:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
    assert cat(drive) == b"".join(contents.values())


def fill_up(disk: Path) -> Path:
    """A file that leaves nothing."""
    with (disk / "others").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return disk / "others"


@pytest.mark.parametrize("way", ["--no-ro", "--ro"])
def test_a_full_disk_keeps_nobody_from_reading(
    tmp_path: Path, sandbox: SandboxProcess, disk: Path, contents: dict[str, bytes], way: str
) -> None:
    drive = drive_with_cache_on(disk, tmp_path / "drive", sandbox, way)
    others = fill_up(disk)
    with drive:
        for _ in range(2):
            look(drive, contents)
        assert list(disk.rglob("content-2/*")) == []
        trouble = drive.status()["cache"]["trouble"]
        assert "No space left on device; make room" in trouble
        assert trouble in drive.run("status", str(drive.mnt), check=True).stdout
        warm = drive.run("cache", "warm", str(drive.mnt / "full"))
        assert warm.returncode == 1
        assert drive.log().count("takes nothing") == 1
        assert "was not brought into the cache" not in drive.log()
        others.unlink()
        look(drive, contents)
        look(drive, contents)
        assert drive.status()["cache"]["trouble"] is None
        sandbox.reset_stats()
        look(drive, contents)
        assert sandbox.transfers() == 0


def test_a_cache_on_a_full_disk_gives_way_to_what_is_read(
    tmp_path: Path, sandbox: SandboxProcess, disk: Path, contents: dict[str, bytes]
) -> None:
    drive = drive_with_cache_on(disk, tmp_path / "drive", sandbox)
    with drive:
        first = next(iter(contents))
        assert (drive.mnt / "full" / first).read_bytes() == contents[first]
        fill_up(disk)
        for name in ("0003.jpg", "0006.jpg"):
            assert (drive.mnt / "full" / name).read_bytes() == contents[name]
        assert drive.status()["cache"]["trouble"] is None
        assert len(list(disk.rglob("content-2/*"))) == 1


def test_a_read_only_disk_keeps_nobody_from_reading(
    tmp_path: Path, sandbox: SandboxProcess, disk: Path, contents: dict[str, bytes]
) -> None:
    drive = drive_with_cache_on(disk, tmp_path / "drive", sandbox)
    with drive:
        (drive.mnt / "full" / "0000.jpg").read_bytes()
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    sandbox.reset_stats()
    with drive:
        assert (drive.mnt / "full" / "0000.jpg").read_bytes() == contents["0000.jpg"]
        assert sandbox.transfers() == 0
        look(drive, contents)
        assert "Read-only file system" in drive.status()["cache"]["trouble"]
