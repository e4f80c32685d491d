"""A folder into a dataset, through the sandbox, with the official SDK's mapping as the witness."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pictograph
import pytest
from pictograph.resources import images as official
from PIL import Image
from sandbox_process import SandboxProcess

from pictofs import Client, NotFoundError
from pictofs.imagefile import MAX_FILE_BYTES
from pictofs.workflows import upload_dataset_from_folder, virtual_directory_for


@pytest.fixture(scope="module")
def sandbox() -> Iterator[SandboxProcess]:
    with SandboxProcess() as process:
        yield process


@pytest.fixture
def client(sandbox: SandboxProcess) -> Iterator[Client]:
    sandbox.reset_stats()
    with Client(sandbox.api_key, base_url=sandbox.base_url, backoff_base_s=0.01) as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    for number, name in enumerate(
        ["top.jpg", "cars/a.png", "cars/red/b.jpg", "cars/red/deep/c.gif", "trees ü/d.webp", "trees ü/E.JPG"]
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 4 + number), (number * 20, 0, 0)).save(path)
    (root / "notes.txt").write_text("no picture")
    (root / "cars" / "loop").symlink_to(root)
    (root / "cars" / "linked.jpg").symlink_to(root / "top.jpg")
    (root / "dangling.jpg").symlink_to(root / "nowhere.jpg")
    (root / "folder.jpg").mkdir()
    return root


def _places(client: Client, name: str) -> set[str]:
    _, images = client.datasets.contents(name)
    return {f"{image.directory_path.rstrip('/')}/{image.filename}" for image in images}


def test_a_folder_by_class(sandbox: SandboxProcess, client: Client, folder: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    report = upload_dataset_from_folder(
        client, "by-class", folder=folder, progress=lambda *told: seen.append(told)
    )
    assert (report.dataset_name, report.success, report.failures) == ("by-class", True, [])
    assert (report.images_attempted, report.images_uploaded, report.images_skipped) == (7, 7, 0)
    assert _places(client, "by-class") == {
        "/top.jpg",
        "/cars/a.png",
        "/cars/b.jpg",
        "/cars/c.gif",
        "/cars/linked.jpg",
        "/trees ü/d.webp",
        "/trees ü/E.JPG",
    }
    assert [done for done, _, _ in seen] == list(range(1, 8))
    assert {total for _, total, _ in seen} == {7}
    assert [name for _, _, name in seen][:3] == ["a.png", "linked.jpg", "b.jpg"]  # in order of their paths
    # Is it there, make it, one batch: 2. And our own look at it.
    assert sandbox.requests() == 4 + 1


def test_again_sends_nothing(sandbox: SandboxProcess, client: Client, folder: Path) -> None:
    upload_dataset_from_folder(client, "again", folder)
    sandbox.reset_stats()
    report = upload_dataset_from_folder(client, "again", folder)
    assert (report.images_uploaded, report.images_skipped, report.success) == (0, 7, True)
    assert sandbox.requests() == 1
    report = upload_dataset_from_folder(client, "again", folder, skip_existing=False)
    assert (report.images_skipped, len(report.failures), report.success) == (0, 7, False)
    assert "already exists" in report.failures[0].reason
    assert sandbox.stats()["storage"].get("total", 0) == 0


def test_flat_and_one_after_another(client: Client, folder: Path) -> None:
    report = upload_dataset_from_folder(client, "flat", folder, organize_by_class=False, parallel=False)
    assert report.images_uploaded == 7
    assert all(place.count("/") == 1 for place in _places(client, "flat"))


def test_one_bad_file_stops_no_other(client: Client, folder: Path) -> None:
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    (folder / "locked").mkdir()
    undecodable = os.fsencode(folder) + b"/bad\xff.jpg"
    Path(os.fsdecode(undecodable)).write_bytes((folder / "top.jpg").read_bytes())
    # Both land in /cars: the second is skipped, and its bytes never reach the first one's object.
    (folder / "cars" / "red" / "a.png").write_bytes(b"second")
    report = upload_dataset_from_folder(client, "bad-files", folder)
    assert (report.images_attempted, report.images_uploaded, report.images_skipped) == (10, 7, 1)
    assert not report.success
    reasons = {os.fsencode(failure.path.name): failure.reason for failure in report.failures}
    assert set(reasons) == {b"huge.jpg", b"bad\xff.jpg"}
    assert "50 MB" in reasons[b"huge.jpg"]
    assert "not valid Unicode" in reasons[b"bad\xff.jpg"]
    image = client.images.list("bad-files", directory_path="/cars", filename="a.png")[0]
    with client.images.open_original(image.id) as stream:
        assert b"".join(stream) == (folder / "cars" / "a.png").read_bytes()


def test_through_trouble(sandbox: SandboxProcess, client: Client, folder: Path) -> None:
    sandbox.faults(fail_rate=0.2, reset_rate=0.1, truncate_rate=0.05)
    try:
        report = upload_dataset_from_folder(client.with_retries(12), "trouble", folder)
    finally:
        sandbox.clear_faults()
    assert report.failures == []
    assert len(_places(client, "trouble")) == 7


def test_without_the_dataset(client: Client, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        upload_dataset_from_folder(client, "missing", folder, create_if_missing=False)
    with pytest.raises(FileNotFoundError):
        upload_dataset_from_folder(client, "missing", tmp_path / "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    report = upload_dataset_from_folder(client, "empty", empty)
    assert (report.images_attempted, report.success) == (0, False)


def test_the_same_places_as_the_sdk(sandbox: SandboxProcess, client: Client, folder: Path) -> None:
    with pictograph.Client(api_key=sandbox.api_key, base_url=sandbox.base_url) as sdk:
        for by_class in (True, False):
            name = f"witness-{by_class}"
            sdk.images.upload_from_directory(f"{name}-sdk", folder, organize_by_class=by_class)
            upload_dataset_from_folder(client, f"{name}-ours", folder, organize_by_class=by_class)
            assert _places(client, f"{name}-ours") == _places(client, f"{name}-sdk")
            sizes = [
                sorted((i.filename, i.width, i.height, i.file_size) for i in client.datasets.contents(d)[1])
                for d in (f"{name}-ours", f"{name}-sdk")
            ]
            assert sizes[0] == sizes[1]


@pytest.mark.parametrize("path", ["x.jpg", "a/x.jpg", "a/b/x.jpg", "ü/../x.jpg"])
@pytest.mark.parametrize("by_class", [True, False])
def test_the_sdks_mapping(path: str, by_class: bool) -> None:
    theirs = official.virtual_directory_for(Path(path), organize_by_class=by_class, preserve_structure=False)
    assert virtual_directory_for(Path(path), by_class) == theirs


def test_what_was_uploaded_comes_back(client: Client, folder: Path, tmp_path: Path) -> None:
    dataset = client.projects.get("by-class")
    image = client.images.upload(dataset_id=dataset.id, file_path=folder / "top.jpg", folder_path="/x/y")
    assert (image.directory_path, image.width, image.height) == ("/x/y", 8, 4)
    again = client.images.download(image.id, output_path=tmp_path / "back.jpg")
    assert again.read_bytes() == (folder / "top.jpg").read_bytes()
    (item,) = [item for item in client.datasets.download_urls("by-class") if item.id == image.id]
    with client.images.storage_get(item.image_url, 10) as stream:
        assert stream.offset_bytes == 10
        assert b"".join(stream) == again.read_bytes()[10:]
    assert client.images.storage_size(item.image_url) == image.file_size
    client.images.delete(image.id)
    assert client.images.get(image.id).is_archived
