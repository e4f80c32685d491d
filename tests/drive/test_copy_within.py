"""cp within a dataset on a real mount: the service copies, labels and all, and no bytes move."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from drives import Drive, picture
from pictograph import BBoxAnnotation, BoundingBox
from sandbox_process import SandboxProcess

MANY = 200
COPY = {"match": "POST /batch/images/copy", "action": "status"}


def shell(drive: Drive, command: str) -> None:
    """A command line with the dataset as its working folder, which must succeed."""
    subprocess.run(["sh", "-c", command], cwd=drive.mnt / "photos", check=True, timeout=60)


def settle(drive: Drive) -> None:
    assert drive.wait().returncode == 0, drive.log()
    assert drive.status()["refused"] == []


def transfers(sandbox: SandboxProcess) -> tuple[int, int]:
    """How often the storage was read, and written."""
    storage = sandbox.stats()["storage"]
    return storage["gets"], storage["puts"]


def images(drive: Drive) -> dict[str, tuple[str, int, int]]:
    """What the SDK sees: path → id, labels, size."""
    found = drive.images("photos")
    return {path: (i.id, i.annotation_count, i.file_size) for path, i in found.items()}


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture
def many(drive: Drive, sandbox: SandboxProcess) -> dict[str, tuple[str, int, int]]:
    """photos/a with 200 uploaded images, labels on some, whose listing the mount knows."""
    sandbox.populate(dataset="photos", folders=1, images=MANY)
    drive.run("refresh", str(drive.mnt), check=True)
    (folder,) = (drive.mnt / "photos").iterdir()
    folder.rename(folder.with_name("a"))
    found = images(drive)
    with drive.sdk() as sdk:
        for path in list(found)[:5]:
            box = BBoxAnnotation(name="cat", bounding_box=BoundingBox(x=1, y=1, w=2, h=2))
            sdk.annotations.save("photos", path.lstrip("/"), [box])
    drive.run("refresh", str(drive.mnt), check=True)
    assert len(list((drive.mnt / "photos/a").iterdir())) == MANY
    sandbox.reset_stats()
    return images(drive)


def check_copied(drive: Drive, before: dict[str, tuple[str, int, int]], target: str = "b") -> None:
    after = images(drive)
    assert {path: after[path] for path in before} == before
    copies = {path: row for path, row in after.items() if path not in before}
    assert {p.replace(f"/{target}/", "/a/"): row[1:] for p, row in copies.items()} == {
        path: row[1:] for path, row in before.items()
    }
    assert len({row[0] for row in after.values()}) == 2 * len(before)
    assert sum(labels > 0 for _, labels, _ in copies.values()) >= 5


def test_cp_r_of_200_images_costs_6_requests_and_no_bytes(
    drive: Drive, sandbox: SandboxProcess, many: dict[str, tuple[str, int, int]]
) -> None:
    sandbox.reset_stats()
    shell(drive, "cp -r a b")
    shown = {path.name: path.stat().st_size for path in (drive.mnt / "photos/b").iterdir()}
    assert shown == {path.name: path.stat().st_size for path in (drive.mnt / "photos/a").iterdir()}
    settle(drive)
    assert sandbox.requests() <= 6
    assert transfers(sandbox) == (0, 0)
    check_copied(drive, many)
    assert digests(drive.mnt / "photos/b") == digests(drive.mnt / "photos/a")
    for path in list(many)[:3]:
        assert drive.download("photos", path.replace("/a/", "/b/")) == drive.download("photos", path)


def test_kill_9_right_after_cp_loses_and_doubles_nothing(
    drive: Drive, sandbox: SandboxProcess, many: dict[str, tuple[str, int, int]]
) -> None:
    os.utime(drive.mnt / "photos/a" / Path(next(iter(many))).name, (5, 5))
    shell(drive, "cp -rp a b")
    drive.kill()
    drive.mount()
    assert {p.name: p.stat().st_mtime_ns for p in (drive.mnt / "photos/b").iterdir()} == {
        p.name: p.stat().st_mtime_ns for p in (drive.mnt / "photos/a").iterdir()
    }
    settle(drive)
    check_copied(drive, many)
    assert transfers(sandbox) == (0, 0)
    assert digests(drive.mnt / "photos/b") == digests(drive.mnt / "photos/a")


@pytest.fixture
def few(drive: Drive) -> Path:
    """photos/a with three uploaded images, beside an empty photos/b."""
    return three(drive)


def three(drive: Drive) -> Path:
    photos = drive.mnt / "photos"
    (photos / "a").mkdir()
    for number in range(3):
        (photos / "a" / f"{number}.jpg").write_bytes(picture(number))
    settle(drive)
    assert len(list((photos / "a").iterdir())) == 3
    (photos / "b").mkdir()
    return photos


def test_cp_p_keeps_the_time_and_a_name_that_is_there_is_refused(drive: Drive, few: Path) -> None:
    os.utime(few / "a/0.jpg", (5, 5))
    shell(drive, "cp -p a/* b/")
    copy = few / "b/0.jpg"
    first = copy.stat()
    assert (first.st_mtime, first.st_size) == (5, len(picture(0)))
    assert first.st_ino != (few / "a/0.jpg").stat().st_ino
    settle(drive)
    assert (copy.stat().st_mtime, copy.stat().st_ino) == (5, first.st_ino)
    said = subprocess.run(
        ["rsync", "-ai", f"{few}/a/", f"{few}/b/"], capture_output=True, text=True, check=True, timeout=60
    )
    assert [line for line in said.stdout.splitlines() if ".jpg" in line] == []
    before = images(drive)
    again = subprocess.run(["cp", few / "a/0.jpg", few / "b/"], capture_output=True, text=True, timeout=60)
    assert again.returncode == 1
    assert os.strerror(errno.EEXIST) in again.stderr
    settle(drive)
    assert images(drive) == before
    os.utime(copy, (7, 7))
    drive.umount()
    drive.mount()
    assert copy.stat().st_mtime == 7


def test_the_source_is_removed_or_moved_at_once(drive: Drive, few: Path, sandbox: SandboxProcess) -> None:
    sandbox.reset_stats()
    shell(drive, "cp a/*.jpg b/ && rm a/0.jpg && mv a/1.jpg . && rm a/2.jpg && rmdir a")
    assert sorted(path.name for path in (few / "b").iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    settle(drive)
    assert transfers(sandbox) == (0, 0)
    assert sorted(images(drive)) == ["/1.jpg", "/b/0.jpg", "/b/1.jpg", "/b/2.jpg"]
    for number in range(3):
        assert drive.download("photos", f"/b/{number}.jpg") == picture(number)
    shell(drive, "mkdir c && cp b/0.jpg c/")
    drive.run("rm", "--permanent", "--yes", str(few / "b/0.jpg"), check=True)
    settle(drive)
    assert sorted(images(drive)) == ["/1.jpg", "/b/1.jpg", "/b/2.jpg", "/c/0.jpg"]
    assert drive.download("photos", "/c/0.jpg") == picture(0)
    assert transfers(sandbox)[1] == 0


def test_the_copy_is_used_at_once(drive: Drive, few: Path) -> None:
    shell(drive, "cp a/0.jpg b/ && rm b/0.jpg && cp a/1.jpg b/ && cat b/1.jpg > /dev/null")
    assert (few / "b/1.jpg").read_bytes() == picture(1)
    shell(drive, "cp a/2.jpg b/ && mv b/2.jpg . && cp a/0.jpg b/")
    os.setxattr(few / "b/0.jpg", "user.pictograph.status", b"review")
    assert os.getxattr(few / "a/0.jpg", "user.pictograph.status") == b"new"
    settle(drive)
    found = drive.images("photos")
    assert sorted(found) == ["/2.jpg", "/a/0.jpg", "/a/1.jpg", "/a/2.jpg", "/b/0.jpg", "/b/1.jpg"]
    assert found["/b/0.jpg"].status == "review"
    assert os.getxattr(few / "b/0.jpg", "user.pictograph.id").decode() == found["/b/0.jpg"].id
    assert drive.download("photos", "/2.jpg") == picture(2)


def test_a_pending_copy_is_shown_and_read_while_the_service_is_away(
    drive: Drive, few: Path, sandbox: SandboxProcess
) -> None:
    assert (few / "a/0.jpg").read_bytes() == picture(0)  # in the cache
    sandbox.faults(next=[{**COPY, "status": 503, "count": 10_000}])
    shell(drive, "cp a/0.jpg b/")
    copy = few / "b/0.jpg"
    assert copy.read_bytes() == picture(0)
    assert os.getxattr(copy, "user.pictograph.upload") == b"queued"
    assert os.getxattr(copy, "user.pictograph.id") == b""
    drive.run("refresh", str(drive.mnt), check=True)
    assert [path.name for path in (few / "b").iterdir()] == ["0.jpg"]
    assert copy.read_bytes() == picture(0)
    drive.kill()
    drive.mount()
    assert [path.name for path in (few / "b").iterdir()] == ["0.jpg"]
    sandbox.clear_faults()
    settle(drive)
    assert sorted(images(drive)) == ["/a/0.jpg", "/a/1.jpg", "/a/2.jpg", "/b/0.jpg"]


def test_a_refused_copy_is_taken_back_and_said(drive: Drive, few: Path, sandbox: SandboxProcess) -> None:
    before = images(drive)
    sandbox.faults(next=[{**COPY, "status": 403}])
    shell(drive, "cp a/0.jpg b/")
    drive.wait()
    assert list((few / "b").iterdir()) == []
    (refused,) = drive.status()["refused"]
    assert (refused["kind"], refused["path"]) == ("copy", "/photos/b/0.jpg")
    assert images(drive) == before


def test_what_the_service_cannot_copy_goes_through_the_cache(
    drive: Drive, few: Path, sandbox: SandboxProcess
) -> None:
    sandbox.populate(dataset="other", folders=0, images=0)
    drive.run("refresh", str(drive.mnt), check=True)
    shell(drive, "cp a/0.jpg b/x.jpg && cp a/1.jpg ../other/")
    size = len(picture(0))
    with (few / "a/0.jpg").open("rb") as source, (few / "b/0.jpg").open("xb", buffering=0) as copy:
        assert os.copy_file_range(source.fileno(), copy.fileno(), 1 << 40) == size
        assert os.copy_file_range(source.fileno(), copy.fileno(), 1 << 40) == 0
        assert os.fstat(copy.fileno()).st_size == size
        copy.seek(size)
        copy.write(b"more")
    with (few / "a/1.jpg").open("rb") as source, (few / "b/1.jpg").open("xb", buffering=0) as copy:
        assert os.copy_file_range(source.fileno(), copy.fileno(), size // 2) == size // 2
        shutil.copyfileobj(source, copy)
    settle(drive)
    assert "POST /batch/images/copy" not in sandbox.stats()["api"]["by_route"]
    assert drive.download("photos", "/b/x.jpg") == picture(0)
    assert drive.download("other", "/1.jpg") == picture(1)
    assert drive.download("photos", "/b/0.jpg") == picture(0) + b"more"
    assert drive.download("photos", "/b/1.jpg") == picture(1)


def test_sync_waits_for_the_copy_and_says_why_not(tmp_path: Path, sandbox: SandboxProcess) -> None:
    with Drive(tmp_path, sandbox, "-o", "sync") as drive:
        photos = three(drive)
        shell(drive, "cp a/0.jpg b/")
        assert "/b/0.jpg" in images(drive)
        sandbox.faults(next=[{**COPY, "status": 403}])
        done = subprocess.run(["cp", photos / "a/1.jpg", photos / "b/"], capture_output=True, timeout=60)
        assert done.returncode == 1
        assert os.strerror(errno.EACCES).encode() in done.stderr
        assert [path.name for path in (photos / "b").iterdir()] == ["0.jpg"]


def test_on_libfuse_2_cp_reads_and_writes(
    tmp_path: Path, sandbox: SandboxProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FUSE_LIBRARY_PATH", "libfuse.so.2")
    with Drive(tmp_path, sandbox) as drive:
        three(drive)
        shell(drive, "cp a/0.jpg b/")
        settle(drive)
        assert drive.download("photos", "/b/0.jpg") == picture(0)
        assert "POST /batch/images/copy" not in sandbox.stats()["api"]["by_route"]
