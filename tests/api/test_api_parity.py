"""The official SDK as the witness: for the same operation our client sends the same requests.

Both talk to one scripted server, and the recordings are compared whole: method, path as encoded, query with
its values, body, and the headers that carry meaning. Deliberate differences, all of them:

- listings: we ask for full pages (`limit=1000`, the SDK's default is 100), so the SDK is told that limit;
- `images.get` and `images.delete` take an id alone. The SDK wants the dataset as well, and spends one more
  request on checking that the image is in it when the dataset is given by name; it is given the id here;
- `images.delete` of a name that no path can tell apart goes through the batch route, where the SDK would
  address another image;
- downloads go by id, and ask for `Accept-Encoding: identity`, so that the length announced is the image's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pictograph
import pytest
from PIL import Image as PillowImage
from stub_server import KEY, Answer, Seen, StubServer, dataset_row, directory_row, image_row

from pictofs import Client
from pictofs.api.models import Image

DATASET_ID = str(UUID(int=1))
IMAGE_ID = str(UUID(int=2))
IDS = [IMAGE_ID, str(UUID(int=3))]
NAME = "road signs/ü #1?"
FOLDER = "/tränen/a b/50%"
ROW = image_row(IMAGE_ID, dataset_id=DATASET_ID, directory_path=FOLDER, filename="a &+ü.jpg")


def _service(url: str) -> Callable[[Seen], Answer]:
    """Enough of an answer for both clients to be satisfied."""

    def answer(seen: Seen) -> Answer:
        path = seen.path.removeprefix("/api/v1/developer")
        if path.startswith("/storage"):
            return Answer(200)
        if path.startswith("/datasets/"):
            if path.endswith("/download"):
                return Answer(json={"data": {"id": DATASET_ID, "items": [], "total_items": 0}})
            row = dataset_row(DATASET_ID, images=[ROW], image_count=1)
            return Answer(json={"data": [row] if path == "/datasets/" and seen.method == "GET" else row})
        if path.startswith("/directories/"):
            listing = seen.method == "GET"
            return Answer(json=[directory_row()] if listing else {"data": directory_row()})
        if path.startswith("/batch/"):
            return Answer(
                json={"success": True, "processed": 2, "target_dataset": "x", "target_dataset_name": "x"}
            )
        return _images(path, seen, url)

    return answer


def _images(path: str, seen: Seen, url: str) -> Answer:
    if path == "/images/":
        return Answer(json={"data": [ROW], "pagination": {"has_more": False}})
    if path == "/images/upload-url":
        return Answer(json={"data": {"upload_url": f"{url}/storage/x?signature=1"}})
    if path == "/images/bulk-upload-url":
        rows = [{"upload_url": f"{url}/storage/{i['filename']}?signature=1"} for i in seen.json["images"]]
        return Answer(json={"data": {"upload_urls": rows}})
    if path == "/images/bulk-register":
        rows = [image_row(i["filename"], **i) for i in seen.json["images"]]
        return Answer(json={"data": {"succeeded": rows, "failed": [], "count": len(rows)}})
    if path == "/images/bulk-tag":
        return Answer(json={"data": {"processed": 2}})
    if seen.method == "GET" and not path.endswith("/metadata"):
        return Answer(body=b"bytes")
    return Answer(json={"data": ROW})


@pytest.fixture
def service(stub: StubServer) -> StubServer:
    stub.default = _service(stub.url)
    return stub


@pytest.fixture
def sdk(service: StubServer) -> Iterator[pictograph.Client]:
    with pictograph.Client(api_key=KEY, base_url=service.url) as client:
        yield client


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "one.jpg", tmp_path / "zwei ü.PNG", tmp_path / "broken.webp"]
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    PillowImage.new("RGB", (8, 4)).save(paths[0], exif=exif)
    PillowImage.new("RGB", (5, 6)).save(paths[1])
    paths[2].write_bytes(b"no picture")
    return paths


def _told(seen: Seen) -> dict[str, Any]:
    names = {name.lower() for name in seen.headers}
    return {
        "request": f"{seen.method} {seen.path}",
        "query": seen.parameters,
        "body": seen.body if seen.method == "PUT" else seen.json,
        "key": seen.headers.get("X-API-Key"),
        "idempotent": "idempotency-key" in names,
        "type": seen.headers.get("Content-Type"),
        "length": seen.headers.get("Content-Length") if seen.body else None,
        "chunked": "transfer-encoding" in names,
    }


def _recorded(stub: StubServer, act: Callable[[], object]) -> list[dict[str, Any]]:
    stub.seen.clear()
    act()
    # The files of a bulk upload are PUT side by side.
    return sorted(map(_told, stub.seen), key=lambda told: (told["request"].startswith("PUT"), str(told)))


Operation = tuple[Callable[[Client, list[Path]], object], Callable[[pictograph.Client, list[Path]], object]]
OPERATIONS: dict[str, Operation] = {
    "datasets list": (lambda c, _: c.datasets.list(), lambda s, _: s.datasets.list(limit=1000)),
    "datasets list archived": (
        lambda c, _: c.datasets.list(archived=True),
        lambda s, _: s.datasets.list(limit=1000, archived=True),
    ),
    "dataset get": (lambda c, _: c.projects.get(NAME), lambda s, _: s.datasets.get(NAME)),
    "dataset get by id": (
        lambda c, _: c.datasets.get(DATASET_ID),
        lambda s, _: s.datasets.get(dataset_id=DATASET_ID),
    ),
    "dataset with images": (
        lambda c, _: c.datasets.contents(NAME),
        lambda s, _: s.datasets.get(NAME, include_images=True, images_limit=10_000),
    ),
    "dataset create": (lambda c, _: c.datasets.create(NAME), lambda s, _: s.datasets.create(NAME)),
    "dataset rename": (
        lambda c, _: c.datasets.rename(NAME, "neu ü"),
        lambda s, _: s.datasets.update(NAME, new_name="neu ü"),
    ),
    "dataset archive": (lambda c, _: c.datasets.archive(NAME), lambda s, _: s.datasets.archive(NAME)),
    "dataset unarchive": (lambda c, _: c.datasets.unarchive(NAME), lambda s, _: s.datasets.unarchive(NAME)),
    "dataset delete": (lambda c, _: c.datasets.delete(NAME), lambda s, _: s.datasets.delete(NAME)),
    "dataset download": (
        lambda c, _: c.datasets.download_urls(NAME),
        lambda s, files: s.datasets.download(NAME, files[0].parent / "out", mode="images_only"),
    ),
    "directories list": (lambda c, _: c.directories.list(NAME), lambda s, _: s.directories.list(NAME)),
    "directories list of root": (
        lambda c, _: c.directories.list(NAME, ""),
        lambda s, _: s.directories.list(NAME, parent_path=""),
    ),
    "directories list of folder": (
        lambda c, _: c.directories.list(NAME, FOLDER),
        lambda s, _: s.directories.list(NAME, parent_path=FOLDER),
    ),
    "directory create": (
        lambda c, _: c.directories.create(NAME, FOLDER),
        lambda s, _: s.directories.create(NAME, FOLDER),
    ),
    "directory rename": (
        lambda c, _: c.directories.rename(NAME, FOLDER, "neu ü"),
        lambda s, _: s.directories.rename(NAME, FOLDER, "neu ü"),
    ),
    "directory delete": (
        lambda c, _: c.directories.delete(NAME, FOLDER),
        lambda s, _: s.directories.delete(NAME, FOLDER),
    ),
    "directory delete cascade": (
        lambda c, _: c.directories.delete(NAME, FOLDER, cascade=True),
        lambda s, _: s.directories.delete(NAME, FOLDER, cascade=True),
    ),
    "images list": (lambda c, _: c.images.list(NAME), lambda s, _: s.images.list(NAME, limit=1000)),
    "images list filtered": (
        lambda c, _: c.images.list(NAME, FOLDER, "ü.jpg", "new", "train", True, limit=7, offset=3),
        lambda s, _: s.images.list(NAME, FOLDER, "ü.jpg", "new", "train", True, limit=7, offset=3),
    ),
    "images iter": (
        lambda c, _: [*c.images.iter(NAME, FOLDER)],
        lambda s, _: [*s.images.iter(NAME, FOLDER, page_size=1000)],
    ),
    "image metadata": (
        lambda c, _: c.images.get(IMAGE_ID),
        lambda s, _: s.images.get(DATASET_ID, IMAGE_ID),
    ),
    "image upload": (
        lambda c, files: c.images.upload(NAME, files[0], FOLDER),
        lambda s, files: s.images.upload(NAME, files[0], directory_path=FOLDER),
    ),
    "image upload undecodable": (
        lambda c, files: c.images.upload(NAME, files[2]),
        lambda s, files: s.images.upload(NAME, files[2]),
    ),
    "bulk upload": (
        lambda c, files: c.images.bulk_upload(NAME, files, FOLDER),
        lambda s, files: s.images.bulk_upload(NAME, files, directory_path=FOLDER),
    ),
    "image delete": (
        lambda c, _: c.images.delete(IMAGE_ID),
        lambda s, _: s.images.delete(DATASET_ID, IMAGE_ID),
    ),
    "image delete permanent": (
        lambda c, _: c.images.delete(IMAGE_ID, permanent=True),
        lambda s, _: s.images.delete(DATASET_ID, IMAGE_ID, permanent=True),
    ),
    "image split": (
        lambda c, _: c.images.set_split(c.images.get(IMAGE_ID), "val"),
        lambda s, _: s.images.set_split(DATASET_ID, IMAGE_ID, "val"),
    ),
    "image split cleared": (
        lambda c, _: c.images.set_split(c.images.get(IMAGE_ID), None),
        lambda s, _: s.images.set_split(DATASET_ID, IMAGE_ID, None),
    ),
    "bulk tag": (
        lambda c, _: c.images.bulk_tag(NAME, IDS, ["ü", "b"]),
        lambda s, _: s.images.bulk_tag(NAME, IDS, ["ü", "b"]),
    ),
    "bulk untag": (
        lambda c, _: c.images.bulk_tag(NAME, IDS, ["a"], add=False),
        lambda s, _: s.images.bulk_tag(NAME, IDS, ["a"], add=False),
    ),
    "batch move": (
        lambda c, _: c.batch.move(NAME, IDS, FOLDER),
        lambda s, _: s.batch.move(NAME, IDS, target_directory_path=FOLDER),
    ),
    "batch copy": (
        lambda c, _: c.batch.copy(NAME, IDS, FOLDER),
        lambda s, _: s.batch.copy(NAME, IDS, target_directory_path=FOLDER),
    ),
    "batch copy with labels": (
        lambda c, _: c.batch.copy(NAME, IDS, FOLDER, duplicate_handling="skip", copy_annotations=True),
        lambda s, _: s.batch.copy(
            NAME, IDS, target_directory_path=FOLDER, duplicate_handling="skip", copy_annotations=True
        ),
    ),
    "batch copy to dataset": (
        lambda c, _: c.batch.copy_to_dataset(NAME, IDS, "other", FOLDER),
        lambda s, _: s.batch.copy_to_dataset(NAME, IDS, "other", target_directory_path=FOLDER),
    ),
    "batch delete": (lambda c, _: c.batch.delete(NAME, IDS), lambda s, _: s.batch.delete(NAME, IDS)),
    "batch delete permanent": (
        lambda c, _: c.batch.delete(NAME, IDS, permanent=True),
        lambda s, _: s.batch.delete(NAME, IDS, permanent=True),
    ),
    "batch restore": (
        lambda c, _: c.batch.update(NAME, IDS, is_archived=False),
        lambda s, _: s.batch.update(NAME, IDS, is_archived=False),
    ),
    "batch update": (
        lambda c, _: c.batch.update(NAME, IDS, status="review", display_name="ü", is_archived=True),
        lambda s, _: s.batch.update(NAME, IDS, status="review", display_name="ü", is_archived=True),
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_same_requests(
    service: StubServer, client: Client, sdk: pictograph.Client, photos: list[Path], name: str
) -> None:
    ours, theirs = OPERATIONS[name]
    expected = _recorded(service, lambda: theirs(sdk, photos))
    assert _recorded(service, lambda: ours(client, photos)) == expected
    assert all(told["key"] == (None if told["request"].startswith("PUT") else KEY) for told in expected)
    assert expected


def test_the_organization_is_asked_for_alike(
    service: StubServer, client: Client, sdk: pictograph.Client
) -> None:
    row = {
        "id": DATASET_ID,
        "name": "Org",
        "slug": "org",
        "subscription_tier": "free",
        "credits_remaining": 0,
        "credits_monthly_allowance": 0,
        "max_users": 1,
        "max_images": 1,
        "max_storage_bytes": 1,
        "member_count": 1,
        "pending_invite_count": 0,
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
    }
    service.default = lambda _seen: Answer(json={"organization": row})
    expected = _recorded(service, sdk.organizations.me)
    assert _recorded(service, client.organization) == expected


def test_a_download_sends_the_same_request_but_by_id(
    service: StubServer, client: Client, tmp_path: Path
) -> None:
    """The SDK names the image by dataset and path; the by-id route is the one `image_url` points to."""
    client.images.download(IMAGE_ID, tmp_path / "x.jpg")
    assert service.paths == [f"GET /api/v1/developer/images/{IMAGE_ID}"]


def test_both_read_the_same_image(client: Client, sdk: pictograph.Client) -> None:
    ours = client.images.get(IMAGE_ID)
    theirs = sdk.images.get(DATASET_ID, IMAGE_ID)
    for name in Image.__dataclass_fields__:
        value = getattr(ours, name)
        assert (list(value) if name == "tags" else value) == getattr(theirs, name), name
