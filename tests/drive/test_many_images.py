"""Listings at scale, and those that outlive a mount: what they cost, also without a connection."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse

RESIDENT_MB = 200


def files(folder: Path) -> list[str]:
    """The paths of all files below a folder."""
    return sorted(
        str(Path(at, name).relative_to(folder)) for at, _, names in os.walk(folder) for name in names
    )


def resident_mb(pid: int) -> float:
    """The most memory that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


@pytest.mark.slow
def test_100000_images_cost_14_requests_and_200_mb_once(tmp_path: Path, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="photos", folders=20, images=100_000)
    sandbox.reset_stats()
    with Drive(tmp_path, sandbox) as drive:
        assert sum(len(names) for _, _, names in os.walk(drive.mnt)) == 100_000
        assert sandbox.requests() <= 14
        assert resident_mb(drive.pid()) <= RESIDENT_MB
    sandbox.stop()
    try:
        with Drive(tmp_path, sandbox) as drive:
            assert len(os.listdir(drive.mnt / "photos" / "folder-07")) == 5_000
            assert resident_mb(drive.pid()) <= RESIDENT_MB
    finally:
        sandbox.start()


def test_the_next_mount_lists_and_reads_without_a_connection(tmp_path: Path, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="photos", folders=2, images=6, distinct=True)
    with Drive(tmp_path, sandbox) as drive:
        before = {name: (drive.mnt / name).read_bytes() for name in files(drive.mnt)}
        assert len(before) == 6
    sandbox.stop()
    try:
        with Drive(tmp_path, sandbox) as drive:
            assert {name: (drive.mnt / name).read_bytes() for name in files(drive.mnt)} == before
            assert os.statvfs(drive.mnt).f_bfree > 0
    finally:
        sandbox.start()


def test_what_a_killed_mount_uploaded_is_there_in_the_next_one(drive: Drive, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="photos", images=3)
    drive.run("refresh", str(drive.mnt), check=True)
    assert len(files(drive.mnt)) == 3
    drive.umount()  # its listing is on the disk now
    drive.mount()
    assert len(files(drive.mnt)) == 3
    (drive.mnt / "photos" / "mine.jpg").write_bytes(picture(1))
    assert drive.wait().returncode == 0
    (drive.mnt / "photos" / "image-00000.jpg").unlink()
    drive.kill()
    drive.mount()
    assert files(drive.mnt) == ["photos/image-00001.jpg", "photos/image-00002.jpg", "photos/mine.jpg"]
    assert drive.wait().returncode == 0
    assert sorted(drive.images("photos")) == ["/image-00001.jpg", "/image-00002.jpg", "/mine.jpg"]


def test_the_key_is_in_no_file_and_another_key_gets_nothing(
    drive: Drive, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    assert os.listdir(drive.mnt) == ["photos"]
    drive.umount()
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert any(path.parent.name == "organizations" for path in kept)
    assert not [path for path in kept if sandbox.api_key.encode() in path.read_bytes()]
    drive.env["PICTOGRAPH_API_KEY"] = sandbox.api_key + "x"
    refused = drive.run("mount", str(drive.mnt))
    assert refused.returncode == 1
    assert "refuses the API key" in refused.stderr
    drive.env["PICTOGRAPH_API_KEY"] = sandbox.api_key
    drive.mount()


def test_damaged_listings_are_asked_for_again(drive: Drive, sandbox: SandboxProcess, tmp_path: Path) -> None:
    sandbox.populate(dataset="photos", images=3)
    drive.run("refresh", str(drive.mnt), check=True)
    before = files(drive.mnt)
    drive.umount()
    kept = [
        path for path in (tmp_path / "cache").rglob("*") if path.parent.name in ("listings", "organizations")
    ]
    assert len(kept) == 3
    for path in kept:
        path.write_bytes(path.read_bytes()[:-20])
    drive.mount()
    assert files(drive.mnt) == before


def test_beyond_the_limit_only_folders_that_are_looked_into_are_listed(
    tmp_path: Path, sandbox: SandboxProcess
) -> None:
    sandbox.populate(dataset="photos", folders=10, images=3_000)
    sandbox.reset_stats()
    with Drive(tmp_path, sandbox, "--listing-limit", "1000") as drive:
        photos = drive.mnt / "photos"
        assert sorted(os.listdir(photos)) == [f"folder-{number:02d}" for number in range(10)]
        assert photos.stat().st_nlink == 12
        sandbox.reset_stats()
        assert len(os.listdir(photos / "folder-03")) == 300
        assert (photos / "folder-03" / "image-00003.jpg").read_bytes()
        assert not (photos / "folder-03" / "none.jpg").exists()
        stats = sandbox.stats()["api"]["by_route"]
        assert stats.pop("GET /images/") == 1
        assert sum(stats.values()) <= 1  # the bytes
        shutil.copy(photos / "folder-03" / "image-00003.jpg", photos / "folder-04" / "copy.jpg")
        assert drive.wait().returncode == 0
        assert len(os.listdir(photos / "folder-04")) == 301
