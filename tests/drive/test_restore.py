"""Bringing back what was removed, with the command line on a real mount; the SDK sees it live again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse


def fill(drive: Drive, sandbox: SandboxProcess, *paths: str) -> None:
    images = [
        {"filename": path.rpartition("/")[2], "directory_path": path.rpartition("/")[0] or "/"}
        for path in paths
    ]
    folders = sorted({str(image["directory_path"]) for image in images} - {"/"})
    parents = {str(parent) for folder in folders for parent in Path(folder).parents} - {"/"}
    sandbox.populate(dataset="photos", raw_images=images, raw_directories=[*parents, *folders])
    drive.run("refresh", str(drive.mnt), check=True)


def archived(drive: Drive, *path: str | Path) -> list[str]:
    done = drive.run("archive", "list", *map(str, path), "--json", check=True)
    return sorted(str(Path(row["path"]).relative_to(drive.mnt)) for row in json.loads(done.stdout)["rows"])


def test_an_image_comes_back_at_once_while_its_removal_is_queued(
    drive: Drive, sandbox: SandboxProcess
) -> None:
    fill(drive, sandbox, "a.jpg", "b.jpg")
    path = drive.mnt / "photos" / "a.jpg"
    path.unlink()
    assert drive.run("restore", str(path)).stderr == "pictofs: 1 item restored.\n"
    assert sorted(os.listdir(drive.mnt / "photos")) == ["a.jpg", "b.jpg"]
    assert len(path.read_bytes()) == path.stat().st_size
    assert sorted(drive.images("photos")) == ["/a.jpg", "/b.jpg"]


def test_a_folder_of_100_comes_back_in_few_requests(drive: Drive, sandbox: SandboxProcess) -> None:
    names = [f"{number:03}.jpg" for number in range(100)]
    fill(drive, sandbox, "keep.jpg", *(f"/trip/day/{name}" for name in names))
    shutil.rmtree(drive.mnt / "photos" / "trip")
    assert archived(drive, drive.mnt / "photos" / "trip") == [f"photos/trip/day/{name}" for name in names]
    assert archived(drive) == archived(drive, drive.mnt / "photos" / "trip")
    sandbox.reset_stats()
    drive.run("restore", str(drive.mnt / "photos" / "trip"), check=True)
    assert sorted(os.listdir(drive.mnt / "photos" / "trip" / "day")) == names
    assert sandbox.requests() <= 3
    assert len(drive.images("photos")) == 101
    assert drive.run("archive", "list").stdout == "Nothing is archived there.\n"


def test_a_name_taken_meanwhile_is_refused_with_a_sentence(drive: Drive, sandbox: SandboxProcess) -> None:
    fill(drive, sandbox, "a.jpg", "b.jpg")
    for name in ("a.jpg", "b.jpg"):
        (drive.mnt / "photos" / name).unlink()
    (drive.mnt / "photos" / "a.jpg").write_bytes(picture(1))
    assert drive.wait().returncode == 0
    paths = [drive.mnt / "photos" / name for name in ("a.jpg", "b.jpg", "never.jpg")]
    done = drive.run("archive", "restore", *map(str, paths))
    assert done.returncode == 1
    assert (
        f"{paths[0]} was not restored: another file has this name now; rename that one first.\n"
        in done.stderr
    )
    assert f"{paths[2]} was not restored: nothing of this name is archived.\n" in done.stderr
    assert paths[0].read_bytes() == picture(1)
    assert sorted(os.listdir(drive.mnt / "photos")) == ["a.jpg", "b.jpg"]


def test_of_several_with_one_name_the_newest_comes_back_and_the_others_by_the_name_listed(
    drive: Drive, sandbox: SandboxProcess
) -> None:
    path = drive.mnt / "photos" / "a.jpg"
    for number in (1, 2):
        path.write_bytes(picture(number))
        assert drive.wait().returncode == 0
        path.unlink()
        assert drive.wait().returncode == 0
    plain, older = sorted(archived(drive, path), key=len)
    assert plain == "photos/a.jpg"
    drive.run("restore", str(path), check=True)
    assert path.read_bytes() == picture(2)
    path.unlink()
    drive.run("restore", str(drive.mnt / older), check=True)
    assert path.read_bytes() == picture(1)


def test_a_dataset_comes_back(drive: Drive, sandbox: SandboxProcess) -> None:
    (drive.mnt / "empty").mkdir()
    (drive.mnt / "empty").rmdir()
    assert archived(drive) == ["empty"]
    done = drive.run("restore", str(drive.mnt / "empty" / "a.jpg"))
    assert (done.returncode, "restore empty first" in done.stderr) == (1, True)
    drive.run("restore", str(drive.mnt / "empty"), check=True)
    assert sorted(os.listdir(drive.mnt)) == ["empty", "photos"]
    assert drive.run("restore", str(drive.mnt / "nowhere")).returncode == 1


def test_a_read_only_drive_restores_and_deletes_nothing(tmp_path: Path, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="photos", raw_images=[{"filename": "a.jpg"}])
    with Drive(tmp_path, sandbox, "--ro") as drive:
        for command in (["restore"], ["rm", "--permanent", "--yes"]):
            done = drive.run(*command, str(drive.mnt / "photos" / "a.jpg"))
            assert done.returncode == 1
            assert "Read-only file system" in done.stderr
    assert list(drive.images("photos")) == ["/a.jpg"]
