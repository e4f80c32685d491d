"""Real programs copying in: each file arrives once, under its final name, with its bytes and time."""

from __future__ import annotations

import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import mounts
import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse

COUNT = 12
OLD_S = 1_500_000_000


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with pictures of 2017, in two levels."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for number in range(COUNT):
        path = folder / ("sub" if number % 2 else "") / f"{number:02}.jpg"
        path.write_bytes(picture(number))
        os.utime(path, (OLD_S + number, OLD_S + number))
    return folder


def shell(*command: str | Path, **options: object) -> str:
    """Run a program that must work; its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stderr}"
    return str(done.stdout)


def assert_arrived(drive: Drive, source: Path, *, folder: str = "/new", times: bool = True) -> None:
    """Everything of `source` is on the server, once, byte-identical; and its times show."""
    done = drive.wait()
    assert done.returncode == 0, done.stdout + drive.log()
    expected = {f"{folder}/{path.relative_to(source)}": path for path in source.rglob("*.jpg")}
    assert set(drive.images("photos")) == set(expected)
    for place, path in expected.items():
        shown = drive.mnt / f"photos{place}"
        assert shown.read_bytes() == path.read_bytes()
        assert not times or shown.stat().st_mtime == path.stat().st_mtime
    for place in list(expected)[:2]:
        assert drive.download("photos", place) == expected[place].read_bytes()


def test_cp_r(drive: Drive, source: Path) -> None:
    shell("cp", "-r", source, drive.mnt / "photos" / "new")
    assert_arrived(drive, source, times=False)


def test_cp_p(drive: Drive, source: Path) -> None:
    shell("cp", "-rp", source, drive.mnt / "photos" / "new")
    assert_arrived(drive, source)


def test_rsync_twice_sends_nothing_the_second_time_also_after_a_remount(
    drive: Drive, source: Path, program: Callable[[str], str]
) -> None:
    rsync = program("rsync")
    sent = shell(rsync, "-a", "--itemize-changes", f"{source}/", drive.mnt / "photos" / "new/")
    assert sent.count(">f") == COUNT
    again = shell(rsync, "-a", "--itemize-changes", f"{source}/", drive.mnt / "photos" / "new/")
    assert ">f" not in again
    assert_arrived(drive, source)
    drive.umount()
    drive.mount()
    assert ">f" not in shell(rsync, "-a", "--itemize-changes", f"{source}/", drive.mnt / "photos" / "new/")
    assert_arrived(drive, source)


def test_looking_again_costs_next_to_nothing(
    tmp_path: Path, sandbox: SandboxProcess, program: Callable[[str], str]
) -> None:
    rsync = program("rsync")
    sandbox.populate(dataset="many", folders=4, images=1000)
    with Drive(tmp_path, sandbox, "--metadata-ttl", "1h") as drive:
        many, copy = drive.mnt / "many", tmp_path / "copy"
        shell(rsync, "-a", f"{many}/", copy)
        (tmp_path / "mark").touch()
        sandbox.reset_stats()
        assert ">f" not in shell(rsync, "-a", "--itemize-changes", f"{copy}/", many)
        assert sandbox.requests() <= 3
        sandbox.reset_stats()
        assert shell("du", "-sb", many).split()[0] == str(
            sum(path.stat().st_size for path in copy.rglob("*.jpg"))
        )
        assert shell("find", many, "-newer", tmp_path / "mark", "-name", "*.jpg") == ""
        assert shell("ls", "-R", many).count(".jpg") == 1000
        assert sandbox.requests() == 0


def test_tar_x(drive: Drive, source: Path, tmp_path: Path) -> None:
    shell("tar", "-C", source, "-cf", tmp_path / "in.tar", ".")
    (drive.mnt / "photos" / "new").mkdir()
    shell("tar", "-C", drive.mnt / "photos" / "new", "-xf", tmp_path / "in.tar")
    assert_arrived(drive, source)


def test_unzip(drive: Drive, source: Path, tmp_path: Path, program: Callable[[str], str]) -> None:
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in source.rglob("*.jpg"):
            archive.write(path, path.relative_to(source))
    shell(program("unzip"), "-q", tmp_path / "in.zip", "-d", drive.mnt / "photos" / "new")
    assert_arrived(drive, source, times=False)


def test_install(drive: Drive, source: Path) -> None:
    for path in source.rglob("*.jpg"):
        shell(
            "install", "-D", "-p", "-m", "640", path, drive.mnt / "photos" / "new" / path.relative_to(source)
        )
    assert_arrived(drive, source)


def test_shutil(drive: Drive, source: Path) -> None:
    shutil.copytree(source, drive.mnt / "photos" / "new")
    assert_arrived(drive, source)


def test_dd_with_fsync_returns_when_the_image_is_on_the_server(drive: Drive, source: Path) -> None:
    shell(
        "dd", f"if={source / '00.jpg'}", f"of={drive.mnt / 'photos' / 'x.jpg'}", "conv=fsync", "status=none"
    )
    assert set(drive.images("photos")) == {"/x.jpg"}


def test_convert(drive: Drive, source: Path, program: Callable[[str], str]) -> None:
    target = drive.mnt / "photos" / "x.png"
    shell(program("convert"), source / "00.jpg", "-resize", "50%", target)
    assert drive.wait().returncode == 0
    image = drive.images("photos")["/x.png"]
    assert (image.width, image.height) == (16, 12)
    # ImageMagick also writes over what it reads: refused for an uploaded image, which stays as it is.
    before = drive.download("photos", "/x.png")
    done = subprocess.run([program("convert"), target, "-negate", target], capture_output=True, check=False)
    assert done.returncode != 0
    assert drive.download("photos", "/x.png") == before


def test_exiftool_rewrites_a_pending_file_through_its_working_name(
    drive: Drive, source: Path, program: Callable[[str], str]
) -> None:
    drive.sandbox.faults(stall=["x.jpg"])
    target = drive.mnt / "photos" / "x.jpg"
    shutil.copy(source / "00.jpg", target)
    shell(program("exiftool"), "-q", "-overwrite_original", "-Artist=somebody", target)
    changed = target.read_bytes()
    assert b"somebody" in changed
    drive.sandbox.clear_faults()
    assert drive.wait().returncode == 0
    assert set(drive.images("photos")) == {"/x.jpg"}
    assert drive.download("photos", "/x.jpg") == changed


def test_gio_copy(drive: Drive, source: Path, program: Callable[[str], str]) -> None:
    (drive.mnt / "photos" / "new" / "sub").mkdir(parents=True)
    for path in source.rglob("*.jpg"):
        shell(program("gio"), "copy", path, drive.mnt / "photos" / "new" / path.relative_to(source))
    assert_arrived(drive, source, times=False)


def test_browsers_and_editors_use_working_names(drive: Drive, source: Path) -> None:
    photos = drive.mnt / "photos"
    (photos / "x.jpg.part").write_bytes((source / "00.jpg").read_bytes())
    (photos / "x.jpg").touch()
    (photos / "x.jpg.part").rename(photos / "x.jpg")
    with (photos / ".goutputstream-ABCDEF").open("wb") as file:
        file.write(
            (source / "01.jpg" if (source / "01.jpg").exists() else source / "sub" / "01.jpg").read_bytes()
        )
        os.fsync(file.fileno())
    (photos / ".goutputstream-ABCDEF").rename(photos / "y.jpg")
    assert drive.wait().returncode == 0
    assert set(drive.images("photos")) == {"/x.jpg", "/y.jpg"}


def test_overwrite_archives_the_old_image(tmp_path: Path, drive: Drive, source: Path) -> None:
    drive.umount()
    drive.mount("-o", "overwrite")
    target = drive.mnt / "photos" / "x.jpg"
    shutil.copy(source / "00.jpg", target)
    assert drive.wait().returncode == 0
    shutil.copy(source / "02.jpg", target)
    assert target.read_bytes() == (source / "02.jpg").read_bytes()
    assert drive.wait().returncode == 0
    assert drive.download("photos", "/x.jpg") == (source / "02.jpg").read_bytes()
    with drive.sdk() as sdk:
        assert sorted(i.is_archived for i in sdk.images.iter("photos", include_archived=True)) == [
            False,
            True,
        ]


def test_read_your_writes_while_queued_failed_and_after_a_restart(drive: Drive, source: Path) -> None:
    photos = drive.mnt / "photos"
    drive.sandbox.faults(
        stall=["stuck"], refuse=[{"filename": "no.jpg", "status": 403, "message": "your role"}]
    )
    (photos / "stuck.jpg").write_bytes(picture(1))
    (photos / "no.jpg").write_bytes(picture(2))
    (photos / "gone.jpg.part").write_bytes(picture(3))
    os.utime(photos / "stuck.jpg", (OLD_S, OLD_S))
    for _ in range(2):
        mounts.wait_until(
            lambda: os.getxattr(photos / "no.jpg", "user.pictograph.upload") == b"failed: your role",
            "the refused file is parked",
        )
        assert sorted(os.listdir(photos)) == ["gone.jpg.part", "no.jpg", "stuck.jpg"]
        assert (photos / "stuck.jpg").read_bytes() == picture(1)
        assert (photos / "stuck.jpg").stat().st_mtime == OLD_S
        assert (photos / "no.jpg").read_bytes() == picture(2)
        drive.kill()
        drive.mount()
    (photos / "no.jpg").rename(photos / "yes.jpg")
    (photos / "gone.jpg.part").unlink()
    drive.sandbox.clear_faults()
    assert drive.wait().returncode == 0
    assert set(drive.images("photos")) == {"/stuck.jpg", "/yes.jpg"}
