"""Browsing and reading on a real mount: what programs see, and what it costs."""

from __future__ import annotations

import base64
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from drives import Drive, picture
from PIL import Image as PillowImage
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse


def test_listing_10000_images_costs_4_requests_and_nothing_again(
    tmp_path: Path, sandbox: SandboxProcess
) -> None:
    sandbox.populate(dataset="photos", folders=20, images=10_000)
    sandbox.reset_stats()
    with Drive(tmp_path, sandbox) as drive:
        listing = subprocess.run(["ls", "-lR", drive.mnt], capture_output=True, text=True, check=True).stdout
        assert sum(line.startswith("-rw") for line in listing.splitlines()) == 10_000
        assert sandbox.requests() <= 4
        sandbox.reset_stats()
        again = subprocess.run(["ls", "-lR", drive.mnt], capture_output=True, text=True, check=True).stdout
        # The dataset's own link count is known only now; all else is the same.
        assert again.splitlines()[3:] == listing.splitlines()[3:]
        assert sandbox.requests() == 0


def test_reading_1000_images_costs_6_requests(tmp_path: Path, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="photos", folders=4, images=1000, distinct=True)
    sandbox.reset_stats()
    with Drive(tmp_path, sandbox) as drive:
        seen = {path.read_bytes() for path in drive.mnt.rglob("*.jpg")}
        assert len(seen) == 1000
        assert sandbox.requests() <= 6
        sandbox.reset_stats()
        assert {path.read_bytes() for path in drive.mnt.rglob("*.jpg")} == seen
        assert sandbox.requests() == 0


def test_what_programs_read(drive: Drive, sandbox: SandboxProcess, tmp_path: Path) -> None:
    data = picture(7, size=(64, 48))
    sandbox.populate(
        dataset="photos",
        raw_images=[
            {
                "filename": "a.jpg",
                "directory_path": "/deep/er",
                "content_base64": base64.b64encode(data).decode(),
            }
        ],
    )
    drive.run("refresh", str(drive.mnt), check=True)
    path = drive.mnt / "photos" / "deep" / "er" / "a.jpg"
    assert path.read_bytes() == data
    with PillowImage.open(path) as image:
        assert image.size == (64, 48)
    assert subprocess.run(["cat", path], capture_output=True, check=True).stdout == data
    subprocess.run(["cp", "-p", path, tmp_path / "out.jpg"], check=True)
    assert (tmp_path / "out.jpg").read_bytes() == data
    assert (tmp_path / "out.jpg").stat().st_mtime_ns // 1000 == path.stat().st_mtime_ns // 1000
    subprocess.run(["tar", "-C", drive.mnt, "-cf", tmp_path / "out.tar", "photos"], check=True)
    with tarfile.open(tmp_path / "out.tar") as archive:
        member = archive.extractfile("photos/deep/er/a.jpg")
        assert member is not None
        assert member.read() == data
    assert subprocess.run(
        ["du", "-sb", "--apparent-size", path], capture_output=True, check=True
    ).stdout.startswith(str(len(data)).encode())
    found = subprocess.run(
        ["find", drive.mnt, "-name", "*.jpg"], capture_output=True, text=True, check=True
    ).stdout
    assert found.splitlines() == [str(path)]
    about = os.stat(path)
    assert about.st_nlink == 1
    assert about.st_uid == os.getuid()
    assert (drive.mnt / "photos").stat().st_nlink == 3
    assert (drive.mnt / "photos" / "deep").stat().st_nlink == 3
    assert (drive.mnt / "photos" / "deep" / "er").stat().st_nlink == 2
    space = os.statvfs(drive.mnt)
    assert space.f_bfree > 0
    assert space.f_namemax == 255


HOSTILE = [
    "../../x",
    "a/b.jpg",
    "nul\0.jpg",
    "n" * 300 + ".jpg",
    "same.jpg",
    "same.jpg",
    ".",
    "🦊.jpg",
    "\ud800.jpg",
    "",
]


def test_hostile_names_are_listed_safely_distinct_and_readable(drive: Drive, sandbox: SandboxProcess) -> None:
    images = [
        {"filename": name, "content_base64": base64.b64encode(picture(number)).decode()}
        for number, name in enumerate(HOSTILE)
    ]
    sandbox.populate(dataset="photos", raw_images=images, raw_directories=["/../up", "/a b", "/" + "d" * 300])
    drive.run("refresh", str(drive.mnt), check=True)
    names = os.listdir(drive.mnt / "photos")
    files = [name for name in names if (drive.mnt / "photos" / name).is_file()]
    assert len(files) == len(HOSTILE)
    assert len(set(names)) == len(names)
    assert all(0 < len(name.encode()) <= 255 and name not in (".", "..") for name in names)
    assert {(drive.mnt / "photos" / name).read_bytes() for name in files} == {
        picture(number) for number in range(len(HOSTILE))
    }
    folders = [name for name in names if (drive.mnt / "photos" / name).is_dir()]
    assert len(folders) == 3


def test_archived_images_and_unknown_names_are_not_there(drive: Drive, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="photos", raw_images=[{"filename": "gone.jpg", "is_archived": True}])
    drive.run("refresh", str(drive.mnt), check=True)
    assert os.listdir(drive.mnt / "photos") == []
    for missing in ("photos/gone.jpg", "photos/no.jpg", "photos/no/no.jpg", "none/x.jpg", "none"):
        with pytest.raises(FileNotFoundError):
            (drive.mnt / missing).stat()
    sandbox.populate(dataset="photos", raw_images=[{"filename": "file.jpg"}])
    drive.run("refresh", str(drive.mnt), check=True)
    with pytest.raises(NotADirectoryError):
        (drive.mnt / "photos" / "file.jpg" / "x").stat()


def test_what_was_read_can_be_read_offline(drive: Drive, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="photos", images=3, distinct=True)
    drive.run("refresh", str(drive.mnt), check=True)
    before = {path: path.read_bytes() for path in (drive.mnt / "photos").iterdir()}
    assert len(before) == 3
    sandbox.stop()
    try:
        assert {path: path.read_bytes() for path in (drive.mnt / "photos").iterdir()} == before
    finally:
        sandbox.start()


def test_a_size_that_the_listing_does_not_know_is_asked_for(drive: Drive, sandbox: SandboxProcess) -> None:
    data = picture(3)
    sandbox.populate(
        dataset="photos",
        raw_images=[{"filename": "x.jpg", "file_size": 0, "content_base64": base64.b64encode(data).decode()}],
    )
    drive.run("refresh", str(drive.mnt), check=True)
    path = drive.mnt / "photos" / "x.jpg"
    assert path.stat().st_size == len(data)
    assert path.read_bytes() == data


def test_a_wrong_size_is_an_error_then_put_right(drive: Drive, sandbox: SandboxProcess) -> None:
    data = picture(3)
    sandbox.populate(
        dataset="photos",
        raw_images=[
            {"filename": "x.jpg", "file_size": 10, "content_base64": base64.b64encode(data).decode()}
        ],
    )
    drive.run("refresh", str(drive.mnt), check=True)
    path = drive.mnt / "photos" / "x.jpg"
    with pytest.raises(OSError, match="Input/output error"):
        path.read_bytes()
    assert path.stat().st_size == len(data) or path.stat().st_size == 10  # the kernel remembers for a second
    drive.run("refresh", str(drive.mnt / "photos"), check=True)


def test_read_only(tmp_path: Path, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="photos", images=1)
    with Drive(tmp_path, sandbox, "-o", "ro") as drive:
        (image,) = (drive.mnt / "photos").iterdir()
        for change in (
            lambda: (drive.mnt / "photos" / "new.jpg").write_bytes(b"x"),
            lambda: image.unlink(),
            lambda: (drive.mnt / "photos" / "folder").mkdir(),
            lambda: image.rename(drive.mnt / "photos" / "other.jpg"),
        ):
            with pytest.raises(OSError, match="Read-only"):
                change()
        assert len(image.read_bytes()) == image.stat().st_size


def test_only_the_named_datasets(tmp_path: Path, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="animals", images=1)
    with Drive(tmp_path, sandbox, "--dataset", "animals") as drive:
        assert os.listdir(drive.mnt) == ["animals"]


def test_attributes(drive: Drive, sandbox: SandboxProcess) -> None:
    sandbox.populate(
        dataset="photos", raw_images=[{"filename": "x.jpg", "status": "review", "tags": ["a", "b"]}]
    )
    drive.run("refresh", str(drive.mnt), check=True)
    path = drive.mnt / "photos" / "x.jpg"
    assert os.getxattr(path, "user.pictograph.status") == b"review"
    assert os.getxattr(path, "user.pictograph.tags") == b"a,b"
    assert os.getxattr(path, "user.pictograph.upload") == b"done"
    assert "user.pictograph.id" in os.listxattr(path)
    with pytest.raises(OSError, match="No data"):
        os.getxattr(path, "user.other")
    with pytest.raises(PermissionError):
        os.setxattr(path, "user.pictograph.id", b"x")
