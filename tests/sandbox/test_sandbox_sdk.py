"""The official SDK as the witness: every call the drive needs works, and every answer parses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pictograph
import pytest
from pictograph.exceptions import ConflictError, NotFoundError, ValidationError
from pictograph.models.annotation import BBoxAnnotation
from pictograph.models.common import BoundingBox
from PIL import Image
from sandbox_process import SandboxProcess

Picture = Callable[..., Path]


def test_organization(sdk: pictograph.Client, sandbox: SandboxProcess) -> None:
    assert sdk.organizations.me().max_storage_bytes > 0
    sandbox.faults(limits={"max_images": 7, "max_storage_bytes": 9, "subscription_tier": "free"})
    me = sdk.organizations.me()
    assert (me.max_images, me.max_storage_bytes, me.subscription_tier) == (7, 9, "free")


def test_datasets_live_their_life(sdk: pictograph.Client) -> None:
    made = sdk.datasets.create("life", description="words", classes=[{"name": "car", "type": "bbox"}])
    assert made.classes[0].color
    assert sdk.datasets.get("life").id == made.id == sdk.datasets.get(dataset_id=made.id).id
    assert "life" in [d.name for d in sdk.datasets.list()]
    assert sdk.datasets.iter(page_size=1).first() is not None
    with pytest.raises(ConflictError):
        sdk.datasets.create("life")
    assert sdk.datasets.update("life", new_name="second life").id == made.id
    with pytest.raises(NotFoundError):
        sdk.datasets.get("life")
    assert sdk.datasets.archive("second life").is_archived
    assert sdk.datasets.archive("second life").is_archived
    assert "second life" not in [d.name for d in sdk.datasets.iter()]
    assert [d.name for d in sdk.datasets.list(archived=True)] == ["second life"]
    assert not sdk.datasets.unarchive("second life").is_archived
    assert sdk.datasets.delete("second life")["deleted"]
    with pytest.raises(NotFoundError):
        sdk.datasets.get("second life")


def test_classes_merge_onto_what_is_stored(sdk: pictograph.Client, dataset: str) -> None:
    base = sdk.datasets.update(dataset, classes=[{"name": "car", "type": "bbox"}]).classes
    sdk.datasets.update(dataset, classes=[*base, {"name": "bus", "type": "bbox"}])  # another writer
    merged = sdk.datasets.update(dataset, classes=[{"name": "van", "type": "bbox"}], classes_base=base)
    assert [c.name for c in merged.classes] == ["bus", "van"]


def test_a_coldline_dataset_takes_no_uploads(sdk: pictograph.Client, dataset: str, picture: Picture) -> None:
    sdk.datasets.freeze(dataset)
    assert sdk.datasets.get(dataset).storage_class == "coldline"
    with pytest.raises(ConflictError):
        sdk.images.upload(dataset, picture("a.jpg"))
    with pytest.raises(ConflictError):
        sdk.images.bulk_upload(dataset, [picture("a.jpg")])
    sdk.datasets.restore(dataset)
    assert sdk.datasets.storage_status(dataset).storage_class == "standard"
    sdk.images.upload(dataset, picture("a.jpg"))


def test_directories(sdk: pictograph.Client, dataset: str, picture: Picture) -> None:
    made = sdk.directories.create(dataset, "/a/b")
    assert made.full_path == "/a/b"
    assert sdk.directories.create(dataset, "a/b/").id == made.id
    sdk.images.upload(dataset, picture("x.jpg"), directory_path="/a/b/c")
    assert [d.full_path for d in sdk.directories.list(dataset)] == ["/a", "/a/b", "/a/b/c"]
    assert [d.full_path for d in sdk.directories.list(dataset, parent_path="")] == ["/a"]
    assert [d.full_path for d in sdk.directories.list(dataset, parent_path="/a")] == ["/a/b"]
    (top,) = sdk.directories.tree(dataset)
    assert (top.image_count, top.nested_image_count) == (0, 1)
    assert top.children[0].children[0].image_count == 1
    stats = sdk.directories.stats(dataset, "/a")
    assert (stats.total_directories, stats.total_images) == (2, 1)
    assert sdk.directories.stats(dataset, "/a", include_subdirectories=False).total_images == 0

    sdk.directories.create(dataset, "/taken")
    with pytest.raises(ConflictError):
        sdk.directories.rename(dataset, "/a", "taken")
    assert sdk.directories.rename(dataset, "/a/b", "z").full_path == "/a/z"
    assert [d.full_path for d in sdk.directories.list(dataset)] == ["/a", "/a/z", "/a/z/c", "/taken"]
    assert sdk.images.get(dataset, "x.jpg").directory_path == "/a/z/c"

    with pytest.raises(ValidationError):
        sdk.directories.delete(dataset, "/a/z")  # has a folder
    with pytest.raises(ValidationError):
        sdk.directories.delete(dataset, "/a/z/c")  # has an image
    sdk.directories.delete(dataset, "/a/z/c", cascade=True)
    assert sdk.images.get(dataset, "x.jpg").directory_path == "/a/z"
    sdk.directories.delete(dataset, "/taken")
    with pytest.raises(NotFoundError):
        sdk.directories.delete(dataset, "/taken")


def test_upload_get_and_download(
    sdk: pictograph.Client, dataset: str, picture: Picture, tmp_path: Path
) -> None:
    path = picture("photo one.jpg", size=(50, 20))
    image = sdk.images.upload(dataset, path, directory_path="/größe/b")
    assert (image.width, image.height, image.directory_path) == (50, 20, "/größe/b")
    assert image.file_size == path.stat().st_size
    assert sdk.images.get(dataset, image.id) == image == sdk.images.get(dataset, "photo one.jpg")
    for address in (image.id, "größe/b/photo one.jpg"):
        saved = sdk.images.download(dataset, address, tmp_path / "out" / "x.jpg")
        assert saved.read_bytes() == path.read_bytes()
    with pytest.raises(ConflictError, match="already exists"):
        sdk.images.upload(dataset, path, directory_path="/größe/b")
    with pytest.raises(NotFoundError):
        sdk.images.download(dataset, "nope.jpg", tmp_path / "nope.jpg")


def test_every_format_comes_back_as_it_went_in(
    sdk: pictograph.Client, dataset: str, picture: Picture, tmp_path: Path
) -> None:
    for suffix in (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"):
        path = picture(f"x{suffix}")
        image = sdk.images.upload(dataset, path)
        assert (image.filename, image.width, image.height) == (path.name, 40, 30)
        assert sdk.images.download(dataset, image.id, tmp_path / "back").read_bytes() == path.read_bytes()


def test_heic_becomes_png(sdk: pictograph.Client, dataset: str, picture: Picture, tmp_path: Path) -> None:
    path = picture("photo.HEIC".lower(), colour="blue", size=(64, 48))
    image = sdk.images.upload(dataset, path)
    assert (image.filename, image.content_type) == ("photo.png", "image/png")
    assert (image.width, image.height) == (64, 48)
    saved = sdk.images.download(dataset, image.id, tmp_path / "back.png")
    assert image.file_size == saved.stat().st_size
    with Image.open(saved) as back:
        assert (back.format, back.size) == ("PNG", (64, 48))
    result = sdk.images.bulk_upload(dataset, [path, picture("other.heic", colour="red")])
    assert [i.filename for i in result.succeeded] == ["other.png"]
    assert "already exists" in result.failed[0].error


def test_listing_filters_and_pages(sdk: pictograph.Client, dataset: str, picture: Picture) -> None:
    for number in range(5):
        sdk.images.upload(dataset, picture(f"{number}.jpg"), directory_path="/odd" if number % 2 else "/")
    assert [i.filename for i in sdk.images.list(dataset)] == ["4.jpg", "3.jpg", "2.jpg", "1.jpg", "0.jpg"]
    assert [i.filename for i in sdk.images.iter(dataset, page_size=2)] == [
        f"{n}.jpg" for n in (4, 3, 2, 1, 0)
    ]
    assert [i.filename for i in sdk.images.list(dataset, directory_path="/odd")] == ["3.jpg", "1.jpg"]
    assert [i.filename for i in sdk.images.list(dataset, filename="2.jpg")] == ["2.jpg"]
    assert sdk.images.set_split(dataset, "odd/1.jpg", "val") == "val"
    assert [i.filename for i in sdk.images.list(dataset, split="val")] == ["1.jpg"]
    assert sdk.images.set_split(dataset, "odd/1.jpg", None) is None
    assert sdk.images.review(dataset, "0.jpg", "approve") == "complete"
    assert [i.filename for i in sdk.images.list(dataset, status="complete")] == ["0.jpg"]
    counted = sdk.datasets.get(dataset, include_images=True, images_limit=3, images_offset=1)
    assert (counted.image_count, counted.completed_image_count) == (5, 1)
    assert [i.filename for i in counted.images or ()] == ["3.jpg", "2.jpg", "1.jpg"]


def test_bulk_upload_and_tags(sdk: pictograph.Client, dataset: str, picture: Picture) -> None:
    paths = [picture(f"{number}.jpg", colour=f"#0000{number:02x}") for number in range(12)]
    sdk.images.upload(dataset, paths[3], directory_path="/in")
    result = sdk.images.bulk_upload(dataset, paths, directory_path="/in")
    assert result.count == 11
    assert [(f.filename, f.directory_path) for f in result.failed] == [("3.jpg", "/in")]
    ids = [image.id for image in result.succeeded]
    assert sdk.images.bulk_tag(dataset, ids, ["x", "y"]) == 11
    assert sdk.images.bulk_tag(dataset, ids[:1], ["x"], add=False) == 1
    assert sdk.images.get(dataset, ids[0]).tags == ["y"]
    assert sdk.images.get(dataset, ids[1]).tags == ["x", "y"]


def test_upload_from_directory(sdk: pictograph.Client, picture: Picture, tmp_path: Path) -> None:
    for name in ("cars/a.jpg", "cars/red/b.png", "c.gif"):
        picture(f"tree/{name}")
    report = sdk.images.upload_from_directory("from directory", tmp_path / "tree", max_workers=4)
    assert (report.success, report.images_uploaded) == (True, 3)
    again = sdk.images.upload_from_directory("from directory", tmp_path / "tree")
    assert (again.images_skipped, again.failures) == (3, [])
    places = {(i.directory_path, i.filename) for i in sdk.images.iter("from directory")}
    assert places == {("/cars", "a.jpg"), ("/cars", "b.png"), ("/", "c.gif")}


def test_download_of_a_dataset(
    sdk: pictograph.Client, dataset: str, picture: Picture, tmp_path: Path, sandbox: SandboxProcess
) -> None:
    paths = [picture(f"{number}.jpg", colour=f"#00{number:02x}00") for number in range(6)]
    sdk.images.bulk_upload(dataset, paths)
    sdk.images.delete(dataset, "0.jpg")
    for mode, images, labels in (("images_only", 5, 0), ("annotations_only", 0, 5), ("full", 5, 5)):
        report = sdk.datasets.download(dataset, tmp_path / mode, mode=mode)  # type: ignore[arg-type]
        assert (report.success, report.images_downloaded) == (True, images)
        assert report.annotations_downloaded == labels
    for path in paths[1:]:
        assert (tmp_path / "full" / path.name).read_bytes() == path.read_bytes()
    assert sandbox.stats()["key_leaks"] == 0
    assert sdk.datasets.download(dataset, tmp_path / "none", status_filter="complete").total_attempted == 0


def test_archive_and_restore(sdk: pictograph.Client, dataset: str, picture: Picture) -> None:
    image = sdk.images.upload(dataset, picture("a.jpg"), directory_path="/in")
    sdk.images.delete(dataset, image.id)
    assert sdk.images.list(dataset) == []
    assert [i.is_archived for i in sdk.images.list(dataset, include_archived=True)] == [True]
    counted = sdk.datasets.get(dataset, include_images=True)
    assert (counted.image_count, counted.archived_image_count, counted.total_size) == (0, 1, 0)
    assert counted.images == []
    assert sdk.directories.tree(dataset)[0].image_count == 0
    assert sdk.images.get(dataset, image.id).is_archived

    newer = sdk.images.upload(dataset, picture("a.jpg", colour="red"), directory_path="/in")
    refused = sdk.batch.update(dataset, [image.id], is_archived=False)
    assert (refused.processed, refused.failed[0].id) == (0, image.id)
    assert "already exists" in refused.failed[0].reason
    sdk.images.delete(dataset, newer.id, permanent=True)
    sdk.directories.delete(dataset, "/in")
    assert sdk.batch.update(dataset, [image.id], is_archived=False).processed == 1
    assert [i.id for i in sdk.images.list(dataset, directory_path="/in")] == [image.id]
    assert [d.full_path for d in sdk.directories.list(dataset)] == ["/in"]


def test_batch_move_renames_what_collides(sdk: pictograph.Client, dataset: str, picture: Picture) -> None:
    moved = sdk.images.upload(dataset, picture("a.jpg"))
    sdk.images.upload(dataset, picture("a.jpg", colour="red"), directory_path="/t")
    sdk.images.upload(dataset, picture("a-1.jpg"), directory_path="/t")
    result = sdk.batch.move(
        dataset, [moved.id, "00000000-0000-0000-0000-000000000000"], target_directory_path="/t"
    )
    assert (result.success, result.processed, result.renamed) == (True, 1, 1)
    assert [f.id for f in result.failed] == ["00000000-0000-0000-0000-000000000000"]
    assert result.affected_directories == ["/", "/t"]
    assert sdk.images.get(dataset, moved.id).filename == "a-2.jpg"
    assert sdk.batch.move(dataset, [moved.id], target_directory_path="/t").renamed == 0
    with pytest.raises(NotFoundError):
        sdk.batch.move(dataset, ["00000000-0000-0000-0000-000000000000"])


def test_batch_copy(sdk: pictograph.Client, dataset: str, picture: Picture, tmp_path: Path) -> None:
    path = picture("a.jpg")
    image = sdk.images.upload(dataset, path)
    _label(sdk, dataset, "a.jpg")
    sdk.batch.update(dataset, [image.id], status="review")
    assert sdk.batch.copy(dataset, [image.id], target_directory_path="/c").processed == 1
    assert (
        sdk.batch.copy(dataset, [image.id], target_directory_path="/c", copy_annotations=True).processed == 1
    )
    skipped = sdk.batch.copy(dataset, [image.id], target_directory_path="/c", duplicate_handling="skip")
    assert (skipped.processed, len(skipped.failed)) == (0, 1)
    copies = {i.filename: i for i in sdk.images.list(dataset, directory_path="/c")}
    assert {name: (i.annotation_count, i.status) for name, i in copies.items()} == {
        "a.jpg": (0, "new"),
        "a-2.jpg": (1, "review"),
    }
    assert (
        sdk.batch.copy(
            dataset, [image.id], target_directory_path="/c", duplicate_handling="overwrite"
        ).processed
        == 1
    )
    with pytest.raises(NotFoundError):
        sdk.images.get(dataset, copies["a.jpg"].id)
    sdk.images.delete(dataset, "a.jpg", permanent=True)
    back = sdk.images.download(dataset, copies["a-2.jpg"].id, tmp_path / "back.jpg")
    assert back.read_bytes() == path.read_bytes()


def test_copy_to_another_dataset(
    sdk: pictograph.Client, dataset: str, picture: Picture, tmp_path: Path, sandbox: SandboxProcess
) -> None:
    sdk.datasets.update(dataset, classes=[{"name": "car", "type": "bbox"}, {"name": "bus", "type": "bbox"}])
    path = picture("a.jpg")
    image = sdk.images.upload(dataset, path)
    _label(sdk, dataset, "a.jpg")
    sdk.images.bulk_tag(dataset, [image.id], ["t"])
    sdk.images.set_split(dataset, "a.jpg", "train")
    target = dataset + " copies"
    sdk.datasets.create(target)
    sandbox.faults(limits={"max_images": 1})  # shared bytes do not count
    for renamed in (0, 1):
        result = sdk.batch.copy_to_dataset(dataset, [image.id], target, target_directory_path="/in")
        assert (result.processed, result.renamed, result.target_dataset) == (1, renamed, target)
        assert result.classes_added == ([] if renamed else ["car"])
    second, first = sdk.images.list(target)
    assert (first.filename, second.filename) == ("a.jpg", "a-1.jpg")
    assert (first.annotation_count, first.tags, first.split) == (1, ["t"], "train")
    sdk.images.delete(dataset, "a.jpg", permanent=True)
    back = sdk.images.download(target, first.id, tmp_path / "back.jpg")
    assert back.read_bytes() == path.read_bytes()


def test_batch_delete_and_update(sdk: pictograph.Client, dataset: str, picture: Picture) -> None:
    paths = [picture(f"{number}.jpg") for number in range(4)]
    ids = [image.id for image in sdk.images.bulk_upload(dataset, paths).succeeded]
    assert sdk.batch.update(dataset, ids, status="complete", display_name="x").operation == "updated"
    assert sdk.datasets.get(dataset).completed_image_count == 4
    archived = sdk.batch.delete(dataset, ids[:2])
    assert (archived.operation, archived.processed) == ("archived", 2)
    assert sdk.batch.delete(dataset, ids[:2]).processed == 2  # again: nothing to do, no failure
    deleted = sdk.batch.delete(dataset, ids[1:3], permanent=True)
    assert (deleted.operation, deleted.processed) == ("deleted", 2)
    left = sdk.images.list(dataset, include_archived=True)
    assert {i.id: i.is_archived for i in left} == {ids[0]: True, ids[3]: False}
    with pytest.raises(ValidationError):
        sdk.batch.update(dataset, ids[3:], status="finished")


def test_labels(sdk: pictograph.Client, dataset: str, picture: Picture) -> None:
    image = sdk.images.upload(dataset, picture("a.jpg"), directory_path="/in")
    assert sdk.annotations.get(dataset, image.id) == []
    saved = _label(sdk, dataset, "in/a.jpg")
    assert (saved.previous_count, saved.new_count) == (0, 1)
    seen = sdk.images.get(dataset, image.id)
    assert (seen.annotation_count, seen.min_confidence) == (1, 0.5)
    assert [a.name for a in sdk.annotations.get(dataset, "in/a.jpg")] == ["car"]
    assert [i.id for i in sdk.images.list(dataset, min_confidence_lt=0.6)] == [image.id]
    assert sdk.images.list(dataset, min_confidence_lt=0.5) == []
    bulk = sdk.annotations.bulk_save({image.id: [], "00000000-0000-0000-0000-000000000000": []})
    assert (bulk.saved_count, len(bulk.failed)) == (1, 1)
    _label(sdk, dataset, "in/a.jpg")
    assert sdk.annotations.delete(dataset, "in/a.jpg").deleted_count == 1
    sdk.datasets.update(dataset, classes=[{"name": "bus", "type": "bbox"}])
    with pytest.raises(ValidationError, match="no class car"):
        _label(sdk, dataset, "in/a.jpg")


def _label(sdk: pictograph.Client, dataset: str, image: str) -> pictograph.resources.annotations.SaveResult:
    box = BoundingBox(x=1, y=2, w=10, h=10)
    return sdk.annotations.save(
        dataset, image, [BBoxAnnotation(name="car", bounding_box=box, confidence=0.5)]
    )
