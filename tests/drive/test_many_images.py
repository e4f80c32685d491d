"""Listings at scale, and those that outlive a mount: what they cost, also without a connection."""

from __future__ import annotations

import base64
import os
import shutil
from pathlib import Path

import mounts
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


def put(sandbox: SandboxProcess, name: str, data: bytes) -> None:
    """What another client uploads, with any size and time as they come."""
    image = {"filename": name, "content_base64": base64.b64encode(data).decode()}
    sandbox.populate(dataset="photos", raw_images=[image])


@pytest.mark.parametrize("binding", ["mfusepy", "fusepy"])
def test_another_client_is_seen_within_the_ttl_and_never_as_stale_bytes(
    tmp_path: Path, sandbox: SandboxProcess, binding: str
) -> None:
    """A name is used again by an image of the same size while the old one is open; then it is moved away."""
    one, two = (picture(number, "BMP") for number in (1, 2))
    assert len(one) == len(two)
    put(sandbox, "x.bmp", one)
    with (
        Drive(tmp_path, sandbox, "--binding", binding, "--metadata-ttl", "300ms") as drive,
        drive.sdk() as sdk,
    ):
        path = drive.mnt / "photos" / "x.bmp"
        assert path.read_bytes() == one
        with path.open("rb") as reader:
            sdk.images.delete("photos", "x.bmp")
            put(sandbox, "x.bmp", two)
            mounts.wait_until(lambda: path.read_bytes() != one, "the other image shows")
            assert path.read_bytes() == two
            assert reader.read() == one
            reader.seek(0)
            assert path.read_bytes() == two
        sdk.directories.create("photos", "/folder")
        (image,) = drive.images("photos").values()
        sdk.batch.move("photos", [image.id], target_directory_path="/folder")
        moved = drive.mnt / "photos" / "folder" / "x.bmp"
        mounts.wait_until(lambda: os.listdir(drive.mnt / "photos") == ["folder"], "the move shows")
        mounts.wait_until(lambda: not path.exists(), "the kernel has forgotten")
        assert moved.read_bytes() == two
        sdk.directories.rename("photos", "/folder", "other")
        mounts.wait_until(lambda: os.listdir(drive.mnt / "photos") == ["other"], "the new name shows")
        mounts.wait_until(lambda: not moved.exists(), "the kernel has forgotten")
        sdk.images.delete("photos", "other/x.bmp")
        mounts.wait_until(lambda: os.listdir(drive.mnt / "photos" / "other") == [], "the removal shows")


def test_after_a_refresh_the_kernel_remembers_nothing_either(drive: Drive, sandbox: SandboxProcess) -> None:
    """Within the second for which it would believe what it was told."""
    put(sandbox, "x.jpg", picture(1))
    put(sandbox, "gone.jpg", picture(2))
    drive.run("refresh", str(drive.mnt), check=True)
    with drive.sdk() as sdk:
        for number in range(3, 6):
            paths = [drive.mnt / "photos" / name for name in ("x.jpg", "gone.jpg")]
            assert all(path.read_bytes() for path in paths)
            believed = [path.stat() for path in paths]
            sdk.images.delete("photos", "x.jpg")
            put(sandbox, "x.jpg", picture(number, size=(32, 24 + number)))
            drive.run("refresh", str(drive.mnt / "photos"), check=True)
            assert paths[0].stat().st_ino != believed[0].st_ino
            assert paths[0].read_bytes() == picture(number, size=(32, 24 + number))
        sdk.images.delete("photos", "gone.jpg")
        drive.run("refresh", str(drive.mnt / "photos"), check=True)
        assert not paths[1].exists()


def test_a_discarded_file_is_gone_at_once(drive: Drive) -> None:
    path = drive.mnt / "photos" / "broken.jpg"
    path.write_bytes(b"no image at all")
    assert path.stat().st_size == 15
    drive.run("uploads", "discard", str(drive.mnt), "--yes", check=True)
    assert not path.exists()
