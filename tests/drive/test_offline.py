"""A spell without the server: what is known is shown and read, changes wait, and all settles after."""

from __future__ import annotations

import os
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mounts
import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse

MOVES_WAIT = False
"""Whether `mv` of an uploaded image waits in the queue while the server is away, instead of failing."""

SPELL_S = 60.0


def seed(drive: Drive, folder: Path) -> dict[str, bytes]:
    """Six images on the server, in two folders, of which the drive has the listing."""
    paths = [f"/{folder}/{number}.jpg" for folder in "ab" for number in range(3)]
    made = {path: picture(number) for number, path in enumerate(paths)}
    with drive.sdk() as sdk:
        for path, data in made.items():
            file = folder / path.rpartition("/")[2]
            file.write_bytes(data)
            sdk.images.upload("photos", file, directory_path=path.rpartition("/")[0])
    drive.run("refresh", str(drive.mnt), check=True)
    root = drive.mnt / "photos"
    mounts.wait_until(lambda: len(list(root.rglob("*.jpg"))) == len(made), "the images are listed")
    return made


def test_an_offline_spell(drive: Drive, sandbox: SandboxProcess, tmp_path: Path) -> None:
    made = seed(drive, tmp_path)
    root = drive.mnt / "photos"
    read_before = ["/a/0.jpg", "/a/1.jpg", "/b/0.jpg"]
    for path in read_before:
        assert Path(f"{root}{path}").read_bytes() == made[path]
    before = {path: image.id for path, image in drive.images("photos").items()}

    sandbox.stop()
    assert sorted(f"/{p.relative_to(root)}" for p in root.rglob("*.jpg")) == sorted(made)
    for path in read_before:
        assert Path(f"{root}{path}").read_bytes() == made[path]
        assert Path(f"{root}{path}").stat().st_size == len(made[path])

    want = dict(made)
    for number in range(3):  # new files
        want[f"/a/new{number}.jpg"] = picture(100 + number)
        (root / "a" / f"new{number}.jpg").write_bytes(picture(100 + number))
    (root / "a" / "new0.jpg").rename(root / "b" / "newer.jpg")  # on their way: moved, removed
    want["/b/newer.jpg"] = want.pop("/a/new0.jpg")
    (root / "a" / "new1.jpg").unlink()
    del want["/a/new1.jpg"]
    for path in ("/a/0.jpg", "/b/1.jpg"):  # images: removed, read before or not
        Path(f"{root}{path}").unlink()
        del want[path]
    if MOVES_WAIT:
        (root / "a" / "2.jpg").rename(root / "2.jpg")
        want["/2.jpg"] = want.pop("/a/2.jpg")
    os.utime(root / "b" / "0.jpg", ns=(1, 1_000_000_000))
    assert sorted(f"/{p.relative_to(root)}" for p in root.rglob("*.jpg")) == sorted(want)
    assert (root / "b" / "newer.jpg").read_bytes() == picture(100)
    mounts.wait_until(lambda: drive.status()["uploads"]["waiting"], "status says why nothing moves")

    drive.kill()  # and what waits survives the daemon, too
    sandbox.start()
    drive.mount()
    done = drive.wait()
    assert done.returncode == 0, done.stdout + done.stderr + drive.log()
    images = drive.images("photos")
    assert {path: drive.download("photos", path) for path in images} == want
    assert {f"/{p.relative_to(root)}": p.read_bytes() for p in root.rglob("*.jpg")} == want
    assert (root / "b" / "0.jpg").stat().st_mtime_ns == 1_000_000_000
    archived = {image.id for image in _with_archived(drive)} - {image.id for image in images.values()}
    assert archived == {before["/a/0.jpg"], before["/b/1.jpg"]}


def _with_archived(drive: Drive) -> list[Any]:
    with drive.sdk() as sdk:
        return list(sdk.images.iter("photos", include_archived=True))


@pytest.mark.soak
def test_soak_the_server_is_gone_for_a_full_minute_in_the_middle_of_a_copy(
    drive: Drive, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    count = 240
    source = tmp_path / "in"
    source.mkdir()
    want = {f"/{number:04}.jpg": picture(number) for number in range(count)}
    for path, data in want.items():
        Path(f"{source}{path}").write_bytes(data)
    copied = threading.Semaphore(0)

    def copy() -> None:
        for path in sorted(want):
            shutil.copy(f"{source}{path}", drive.mnt / "photos")
            copied.release()
            threading.Event().wait(SPELL_S / 2 / count)  # so that the server goes in the middle

    with ThreadPoolExecutor() as pool:
        copying = pool.submit(copy)
        for _ in range(count // 4):
            assert copied.acquire(timeout=60)
        sandbox.stop()
        threading.Event().wait(SPELL_S)  # the minute is the subject, not a wait for something
        copying.result(60)
    assert sorted(os.listdir(drive.mnt / "photos")) == sorted(path.lstrip("/") for path in want)
    report = drive.status()
    assert "server" in report["uploads"]["waiting"]["reason"]
    assert report["uploads"]["queued"]["files"] + report["uploads"]["sending"]["files"] > 0
    assert "server" in drive.run("status", str(drive.mnt)).stdout
    sandbox.start()
    done = drive.wait(150)
    assert done.returncode == 0, done.stdout + done.stderr + drive.log()
    images = drive.images("photos")
    assert {path: drive.download("photos", path) for path in images} == want
