"""Copying in and removing on a real mount, with the official SDK as the witness of what the service got."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import mounts
import pytest
from drives import Drive, picture
from pictograph import BBoxAnnotation, BoundingBox
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse

FORMATS = {
    "a.jpg": "JPEG", "b.jpeg": "JPEG", "c.png": "PNG", "d.webp": "WEBP", "e.bmp": "BMP",
    "f.tif": "TIFF", "g.tiff": "TIFF", "h.gif": "GIF",
}  # fmt: skip


@pytest.fixture
def synced(tmp_path: Path, sandbox: SandboxProcess) -> Iterator[Drive]:
    """The drive with `-o sync`: close() tells the truth."""
    with Drive(tmp_path, sandbox, "-o", "sync") as drive:
        yield drive


def test_every_format_arrives_byte_identical_with_its_size(synced: Drive, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for number, (name, form) in enumerate(FORMATS.items()):
        (source / name).write_bytes(picture(number, form, (40, 30)))
    oriented = picture(99, "JPEG", (40, 30), exif=_orientation(6))
    (source / "turned.jpg").write_bytes(oriented)
    subprocess.run(["cp", "-r", source, synced.mnt / "photos" / "new"], check=True)
    seen = synced.images("photos")
    assert set(seen) == {f"/new/{path.name}" for path in source.iterdir()}
    for path in source.iterdir():
        assert synced.download("photos", f"/new/{path.name}") == path.read_bytes()
        assert (synced.mnt / "photos" / "new" / path.name).read_bytes() == path.read_bytes()
    assert (seen["/new/a.jpg"].width, seen["/new/a.jpg"].height) == (40, 30)
    assert (seen["/new/turned.jpg"].width, seen["/new/turned.jpg"].height) == (30, 40)


def _orientation(value: int) -> bytes:
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def test_tar_and_shutil(synced: Drive, tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "sub").mkdir(parents=True)
    for number in range(5):
        (source / "sub" / f"{number}.png").write_bytes(picture(number, "PNG"))
    with tarfile.open(tmp_path / "in.tar", "w") as archive:
        archive.add(source / "sub", "sub")
    subprocess.run(["tar", "-C", synced.mnt / "photos", "-xf", tmp_path / "in.tar"], check=True)
    copied = shutil.copy2(source / "sub" / "0.png", synced.mnt / "photos" / "copy.png")
    assert os.stat(copied).st_mtime_ns == (source / "sub" / "0.png").stat().st_mtime_ns
    assert set(synced.images("photos")) == {"/copy.png", *(f"/sub/{n}.png" for n in range(5))}
    assert synced.download("photos", "/sub/3.png") == (source / "sub" / "3.png").read_bytes()


def test_rm_archives_and_the_name_is_free_again(synced: Drive) -> None:
    path = synced.mnt / "photos" / "x.jpg"
    path.write_bytes(picture(1))
    path.unlink()
    assert not path.exists()
    path.write_bytes(picture(2))
    assert synced.wait().returncode == 0
    assert synced.download("photos", "/x.jpg") == picture(2)
    with synced.sdk() as sdk:
        everything = list(sdk.images.iter("photos", include_archived=True))
    assert sorted(image.is_archived for image in everything) == [False, True]


def test_a_failed_upload_is_the_exit_status_of_cp(
    synced: Drive, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    (tmp_path / "x.jpg").write_bytes(picture(1))
    sandbox.faults(
        refuse=[{"filename": "x.jpg", "status": 402, "message": "image limit reached on this plan"}]
    )
    done = subprocess.run(
        ["cp", tmp_path / "x.jpg", synced.mnt / "photos"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Disk quota exceeded" in done.stderr
    assert synced.images("photos") == {}


REFUSED = [
    ("photos/notes.txt", "Invalid argument"),
    ("photos/noextension", "Invalid argument"),
    ("x.jpg", "Operation not permitted"),
    ("nowhere/x.jpg", "No such file"),
]


@pytest.mark.parametrize(("place", "words"), REFUSED)
def test_refused_at_once(drive: Drive, tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "x.jpg").write_bytes(picture(1))
    done = subprocess.run(
        ["cp", tmp_path / "x.jpg", drive.mnt / place], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert drive.images("photos") == {}


def test_an_uploaded_image_is_never_changed_in_place(synced: Drive) -> None:
    path = synced.mnt / "photos" / "x.jpg"
    path.write_bytes(picture(1))
    for change in (
        lambda: path.write_bytes(picture(2)),
        lambda: path.open("xb"),
        lambda: os.truncate(path, 0),
    ):
        with pytest.raises(FileExistsError):
            change()
    (synced.mnt / "photos" / ".y.jpg.AbCdEf").write_bytes(picture(2))
    with pytest.raises(FileExistsError):
        (synced.mnt / "photos" / ".y.jpg.AbCdEf").rename(path)
    assert synced.download("photos", "/x.jpg") == picture(1)


def test_more_than_50_mb_is_efbig_and_leaves_nothing(drive: Drive) -> None:
    path = drive.mnt / "photos" / "big.bmp"

    def write_51_mb() -> None:
        with path.open("wb", buffering=0) as file:
            for _ in range(51):
                file.write(bytes(1 << 20))

    with pytest.raises(OSError, match="File too large"):
        write_51_mb()
    assert not path.exists()
    path = path.with_name("another.bmp")  # the kernel remembers a name for a second
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    with pytest.raises(OSError, match="File too large"):
        os.ftruncate(fd, 50 * 1024 * 1024 + 1)
    with pytest.raises(OSError, match="File too large"):
        os.close(fd)
    mounts.wait_until(lambda: not path.exists(), "nothing is left of it")


def test_no_links_no_devices(drive: Drive) -> None:
    photos = drive.mnt / "photos"
    (photos / "x.jpg").write_bytes(picture(1))
    for change in (
        lambda: (photos / "l.jpg").symlink_to("x.jpg"),
        lambda: os.link(photos / "x.jpg", photos / "h.jpg"),
        lambda: os.mkfifo(photos / "p.jpg"),
    ):
        with pytest.raises(PermissionError):
            change()


def test_folders_and_datasets(synced: Drive) -> None:
    (synced.mnt / "new-dataset").mkdir()
    (synced.mnt / "new-dataset" / "a" / "b").mkdir(parents=True)
    (synced.mnt / "new-dataset" / "a" / "b" / "x.jpg").write_bytes(picture(1))
    assert set(synced.images("new-dataset")) == {"/a/b/x.jpg"}
    with pytest.raises(OSError, match="not empty"):
        (synced.mnt / "new-dataset" / "a" / "b").rmdir()
    shutil.rmtree(synced.mnt / "new-dataset" / "a")
    assert os.listdir(synced.mnt / "new-dataset") == []
    (synced.mnt / "new-dataset").rmdir()
    assert os.listdir(synced.mnt) == ["photos"]
    with synced.sdk() as sdk:
        assert {d.name: d.is_archived for d in sdk.datasets.list(archived=True)} == {"new-dataset": True}


def test_moving_an_image_to_another_folder_keeps_it(synced: Drive) -> None:
    photos = synced.mnt / "photos"
    (photos / "a").mkdir()
    (photos / "x.jpg").write_bytes(picture(1))
    before = synced.images("photos")["/x.jpg"].id
    (photos / "x.jpg").rename(photos / "a" / "x.jpg")
    assert synced.images("photos")["/a/x.jpg"].id == before
    with synced.sdk() as sdk:
        label = BBoxAnnotation(name="bird", bounding_box=BoundingBox(x=1, y=1, w=2, h=2))
        sdk.annotations.save("photos", "a/x.jpg", [label])
    synced.run("refresh", str(synced.mnt), check=True)
    with pytest.raises(PermissionError):
        (photos / "a" / "x.jpg").rename(photos / "a" / "y.jpg")
    (photos / "a").rename(photos / "b")
    assert os.listdir(photos / "b") == ["x.jpg"]
    assert set(synced.images("photos")) == {"/b/x.jpg"}


def test_heic_becomes_png_and_its_old_name_resolves_for_a_while(synced: Drive, tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    from PIL import Image

    pillow_heif.from_pillow(Image.new("RGB", (64, 48), (200, 30, 30))).save(tmp_path / "x.heic")
    subprocess.run(["cp", "-p", tmp_path / "x.heic", synced.mnt / "photos"], check=True)
    assert set(synced.images("photos")) == {"/x.png"}
    assert os.listdir(synced.mnt / "photos") == ["x.png"]
    stored = synced.download("photos", "/x.png")
    mounts.wait_until(
        lambda: (synced.mnt / "photos" / "x.heic").stat().st_size == len(stored),
        "the old name shows what is stored (the kernel remembers a size for a second)",
    )
    assert (synced.mnt / "photos" / "x.png").read_bytes() == stored


def test_a_dataset_that_somebody_renamed_is_still_the_same(drive: Drive) -> None:
    photos = drive.mnt / "photos"
    (photos / "x.jpg").write_bytes(picture(1))
    assert drive.wait().returncode == 0
    with drive.sdk() as sdk:
        sdk.datasets.update("photos", new_name="pictures")
    (photos / "x.jpg").unlink()
    mounts.wait_until(lambda: drive.images("pictures") == {}, "it is archived under the new name")
