"""Removing, moving and making folders on a real mount: few requests, nothing lost, refusals undone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import mounts
import pytest
from drives import Drive, picture
from pictograph import BBoxAnnotation, BoundingBox
from sandbox_process import SandboxProcess


def shell(drive: Drive, command: str) -> None:
    """A command line with the mount as its working folder, which must succeed."""
    subprocess.run(["sh", "-c", command], cwd=drive.mnt, check=True, timeout=60)


def fill(drive: Drive, dataset: str, **what: Any) -> None:
    """Put a dataset on the server, and let the mount know."""
    drive.sandbox.populate(dataset=dataset, **what)
    drive.run("refresh", str(drive.mnt), check=True)


def look(drive: Drive, dataset: str) -> list[str]:
    """Everything in a dataset as the mount shows it, which loads its listing."""
    root = drive.mnt / dataset
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def settle(drive: Drive) -> None:
    assert drive.wait().returncode == 0, drive.log()
    assert drive.status()["refused"] == []


def test_rm_and_mv_of_1000_images_cost_6_requests(drive: Drive, sandbox: SandboxProcess) -> None:
    fill(drive, "many", folders=0, images=1000)
    names = look(drive, "many")
    assert len(names) == 1000
    ids = {image.id for image in drive.images("many").values()}
    sandbox.reset_stats()
    shell(drive, "mkdir many/b && mv many/*.* many/b/")
    assert look(drive, "many") == ["b", *(f"b/{name}" for name in names)]
    settle(drive)
    assert sandbox.requests() <= 6
    moved = drive.images("many")
    assert sorted(moved) == [f"/b/{name}" for name in names]
    assert {image.id for image in moved.values()} == ids
    sandbox.reset_stats()
    shell(drive, "rm -r many/b")
    assert look(drive, "many") == []
    settle(drive)
    assert sandbox.requests() <= 6
    assert drive.images("many") == {}
    assert len(drive.images("many", include_archived=True)) == 1000


def test_rm_r_of_20_folders_costs_30_requests(drive: Drive, sandbox: SandboxProcess) -> None:
    fill(drive, "tree", folders=20, images=1000)
    assert len(look(drive, "tree")) == 1020
    sandbox.reset_stats()
    shell(drive, "rm -r tree/*")
    assert look(drive, "tree") == []
    settle(drive)
    assert sandbox.requests() <= 30
    assert drive.images("tree") == {}
    with drive.sdk() as sdk:
        assert list(sdk.directories.list("tree")) == []


def test_cp_r_makes_no_request_for_a_folder(drive: Drive, sandbox: SandboxProcess, tmp_path: Path) -> None:
    for number in range(60):
        folder = tmp_path / "in" / f"f{number // 3}" / "deep"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(picture(number))
    look(drive, "photos")
    sandbox.reset_stats()
    shell(drive, f"cp -r {tmp_path}/in photos/")
    settle(drive)
    assert set(sandbox.stats()["api"]["by_route"]) == {
        "POST /images/bulk-upload-url",
        "POST /images/bulk-register",
    }
    assert sandbox.requests() <= 12
    assert len(drive.images("photos")) == 60


def test_a_swap_through_a_temporary_folder(drive: Drive) -> None:
    photos = drive.mnt / "photos"
    for folder, number in (("a", 1), ("b", 2)):
        (photos / folder).mkdir()
        (photos / folder / "x.jpg").write_bytes(picture(number))
    settle(drive)
    shell(
        drive,
        "cd photos && mkdir t && mv a/x.jpg t/ && mv b/x.jpg a/ && mv t/x.jpg b/ && rmdir t",
    )
    assert (photos / "a/x.jpg").read_bytes() == picture(2)
    assert (photos / "b/x.jpg").read_bytes() == picture(1)
    settle(drive)
    assert drive.download("photos", "/a/x.jpg") == picture(2)
    assert drive.download("photos", "/b/x.jpg") == picture(1)
    assert set(drive.images("photos")) == {"/a/x.jpg", "/b/x.jpg"}


def test_to_another_dataset_with_labels_and_open_files(drive: Drive, sandbox: SandboxProcess) -> None:
    fill(drive, "target", folders=0, images=0)
    fill(drive, "labelled", folders=0, images=3, distinct=True)
    label = BBoxAnnotation(name="bird", bounding_box=BoundingBox(x=1, y=1, w=2, h=2))
    with drive.sdk() as sdk:
        for number, path in enumerate(drive.images("labelled"), start=1):
            sdk.annotations.save("labelled", path.lstrip("/"), [label] * number)
    labels = {path: image.annotation_count for path, image in drive.images("labelled").items()}
    names = look(drive, "labelled")
    contents = {name: (drive.mnt / "labelled" / name).read_bytes() for name in names}
    os.utime(drive.mnt / "labelled" / names[0], (5, 5))
    sandbox.reset_stats()
    with (drive.mnt / "labelled" / names[0]).open("rb") as file:
        shell(drive, "mkdir target/in && mv labelled/* target/in/")
        assert look(drive, "labelled") == []
        assert look(drive, "target") == ["in", *(f"in/{name}" for name in names)]
        for name in names:  # through the id of the source, while the copy is on its way
            assert (drive.mnt / "target" / "in" / name).read_bytes() == contents[name]
        settle(drive)
        assert file.read() == contents[names[0]]
    assert sandbox.requests() <= 9
    assert drive.images("labelled") == {}
    there = drive.images("target")
    assert {path: image.annotation_count for path, image in there.items()} == {
        f"/in{path}": count for path, count in labels.items()
    }
    assert look(drive, "target") == ["in", *(f"in/{name}" for name in names)]
    first = drive.mnt / "target" / "in" / names[0]
    assert first.stat().st_mtime == 5
    assert os.getxattr(first, "user.pictograph.id").decode() == there[f"/in/{names[0]}"].id
    first.unlink()
    settle(drive)
    assert f"/in/{names[0]}" not in drive.images("target")


def test_another_name_keeps_the_bytes_and_archives_the_old(drive: Drive) -> None:
    photos = drive.mnt / "photos"
    (photos / "x.jpg").write_bytes(picture(1))
    settle(drive)
    os.utime(photos / "x.jpg", (5, 5))
    shell(drive, "mkdir photos/a && mv photos/x.jpg photos/a/y.jpg")
    assert look(drive, "photos") == ["a", "a/y.jpg"]
    settle(drive)
    assert look(drive, "photos") == ["a", "a/y.jpg"]
    assert (photos / "a" / "y.jpg").stat().st_mtime == 5
    assert drive.download("photos", "/a/y.jpg") == picture(1)
    assert set(drive.images("photos", include_archived=True)) == {"/x.jpg", "/a/y.jpg"}
    assert set(drive.images("photos")) == {"/a/y.jpg"}


def test_folders_are_renamed_and_moved_with_what_is_in_them(drive: Drive, sandbox: SandboxProcess) -> None:
    fill(drive, "deep", folders=0, images=0, raw_directories=["/f/empty"])
    sandbox.populate(dataset="deep", folders=2, images=20)
    fill(drive, "target", folders=0, images=0)
    before = look(drive, "deep")
    assert len(before) == 24
    ids = {image.id for image in drive.images("deep").values()}
    sandbox.reset_stats()
    shell(drive, "cd deep && mv folder-00 f/sub && mv f g")
    expected = sorted(name.replace("folder-00", "g/sub") for name in before if not name.startswith("f/"))
    expected = sorted({n if n != "f" else "g" for n in expected} | {"g/empty"})
    assert look(drive, "deep") == expected
    settle(drive)
    assert look(drive, "deep") == expected
    assert sandbox.requests() <= 8
    assert {image.id for image in drive.images("deep").values()} == ids
    shell(drive, "mv deep/g target/h")
    assert look(drive, "target") == ["h", *("h" + name[1:] for name in expected if name.startswith("g/"))]
    settle(drive)
    assert len(drive.images("target")) == len(drive.images("deep")) == 10
    with drive.sdk() as sdk:
        assert {d.full_path for d in sdk.directories.list("deep")} == {"/folder-01"}
        assert {d.full_path for d in sdk.directories.list("target")} == {"/h", "/h/empty", "/h/sub"}


def test_a_folder_that_nobody_looked_into_moves_whole(tmp_path: Path, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="large", folders=2, images=8)
    with Drive(tmp_path, sandbox, "--listing-limit", "0") as drive:
        before = drive.images("large")
        folder = next(path for path in before).split("/")[1]
        shell(drive, f"mkdir large/new && mv large/{folder} large/new/")
        settle(drive)
        assert {path: image.id for path, image in drive.images("large").items()} == {
            path.replace(f"/{folder}/", f"/new/{folder}/"): image.id for path, image in before.items()
        }
        assert not (drive.mnt / "large" / folder).exists()


def test_a_folder_that_is_being_copied_in_can_be_renamed(drive: Drive) -> None:
    photos = drive.mnt / "photos"
    (photos / "in").mkdir()
    for number in range(30):
        (photos / "in" / f"{number}.jpg").write_bytes(picture(number))
        if number == 15:
            (photos / "in").rename(photos / "out")
            (photos / "in").mkdir()
    (photos / "in").rename(photos / "out" / "in")
    expected = {f"/out/{number}.jpg" for number in range(16)}
    expected |= {f"/out/in/{number}.jpg" for number in range(16, 30)}
    shown = ["out", "out/in", *(path.lstrip("/") for path in expected)]
    assert look(drive, "photos") == sorted(shown)
    settle(drive)
    assert set(drive.images("photos")) == expected
    assert look(drive, "photos") == sorted(shown)
    with drive.sdk() as sdk:
        assert {d.full_path for d in sdk.directories.list("photos")} == {"/out", "/out/in"}


def test_changes_survive_kill_9(drive: Drive, sandbox: SandboxProcess) -> None:
    fill(drive, "tree", folders=2, images=10)
    before = look(drive, "tree")
    folders = [name for name in before if "/" not in name and (drive.mnt / "tree" / name).is_dir()]
    sandbox.faults(next=[{"match": "POST /batch/images/delete", "action": "reset_after"}])
    shell(drive, f"cd tree && rm -r {folders[0]} && mkdir new && mv {folders[1]}/* new/ && mkdir empty")
    expected = look(drive, "tree")
    drive.kill()
    drive.mount()
    assert look(drive, "tree") == expected
    settle(drive)
    assert look(drive, "tree") == expected
    shown = sorted(path.lstrip("/") for path in drive.images("tree"))
    assert shown == [name for name in expected if not (drive.mnt / "tree" / name).is_dir()]
    with drive.sdk() as sdk:
        made = {directory.full_path for directory in sdk.directories.list("tree")}
    assert made == {f"/{folders[1]}", "/new", "/empty"}


def test_an_offline_spell(drive: Drive, sandbox: SandboxProcess) -> None:
    fill(drive, "trip", folders=1, images=4)
    names = look(drive, "trip")
    first, second, third, _ = [name for name in names if name.endswith(".jpg")]
    sandbox.kill()
    shell(drive, f"cd trip && rm {first} && mv {second} . && mkdir -p new/deep && mv {third} new/deep/")
    shown = look(drive, "trip")
    assert len(shown) == 6
    assert not drive.status()["safe"]
    mounts.wait_until(lambda: drive.status()["uploads"]["waiting"] is not None, "it says why nothing moves")
    sandbox.restart()
    settle(drive)
    assert look(drive, "trip") == shown
    assert len(drive.images("trip")) == 3
    assert {f"/{Path(second).name}", f"/new/deep/{Path(third).name}"} < set(drive.images("trip"))


def test_a_folder_that_another_client_fills_is_shown_again(drive: Drive, tmp_path: Path) -> None:
    (tmp_path / "theirs.jpg").write_bytes(picture(9))
    (drive.mnt / "photos" / "a").mkdir()
    (drive.mnt / "photos" / "a" / "x.jpg").write_bytes(picture(1))
    settle(drive)
    with drive.sdk() as sdk:
        sdk.images.upload("photos", tmp_path / "theirs.jpg", directory_path="/a")
    shutil.rmtree(drive.mnt / "photos" / "a")
    assert drive.wait().returncode == 0
    (refused,) = drive.status()["refused"]
    assert (refused["path"], refused["kind"]) == ("/photos/a", "rmdir")
    mounts.wait_until(lambda: look(drive, "photos") == ["a", "a/theirs.jpg"], "it is shown again")
    assert "refused: rmdir /photos/a" in drive.run("status", str(drive.mnt), check=True).stdout


def test_sync_waits_for_each_answer(tmp_path: Path, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="sync", folders=0, images=2)
    with Drive(tmp_path, sandbox, "-o", "sync") as drive:
        one, two = look(drive, "sync")
        root = drive.mnt / "sync"
        (root / "a").mkdir()
        (root / one).rename(root / "a" / one)
        assert set(drive.images("sync")) == {f"/a/{one}", f"/{two}"}
        (root / two).unlink()
        assert set(drive.images("sync")) == {f"/a/{one}"}
        with drive.sdk() as sdk:
            (image,) = drive.images("sync").values()
            sdk.batch.delete(dataset_name="sync", image_ids=[image.id], permanent=True)
        with pytest.raises(FileNotFoundError):
            (root / "a" / one).rename(root / one)
