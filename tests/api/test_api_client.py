"""What the client makes of the routes: paging, downloads, uploads, deletes, against a scripted server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stub_server import Answer, Seen, StubServer, dataset_row, image_row

import pictofs
from pictofs import Client
from pictofs.api import resources, uploads
from pictofs.api.errors import (
    ApiError,
    ConflictError,
    IncompleteTransferError,
    NetworkError,
    NotFoundError,
    ServerError,
    StorageError,
    ValidationError,
)
from pictofs.api.models import Image

API = "/api/v1/developer"


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _page(*rows: dict[str, Any], has_more: bool | None) -> Answer:
    pagination = {} if has_more is None else {"pagination": {"has_more": has_more}}
    return Answer(json={"data": rows, **pagination})


# --- the package ---------------------------------------------------------------------------------


def test_importing_the_package_is_light() -> None:
    code = """
import sys, pictofs
heavy = {"requests", "urllib3", "PIL", "fuse", "mfusepy", "sqlite3", "rich"} & set(sys.modules)
assert not heavy, heavy
pictofs.Client, pictofs.workflows.upload_dataset_from_folder
assert not {"PIL", "fuse", "mfusepy", "sqlite3", "rich"} & set(sys.modules)
assert all(getattr(pictofs, name) for name in pictofs.__all__)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="nothing_like_it"):
        pictofs.nothing_like_it  # noqa: B018


# --- listing -------------------------------------------------------------------------------------


def test_has_more_decides_not_the_length_of_a_page(stub: StubServer, client: Client) -> None:
    stub.answers += [
        _page(dataset_row("d1"), dataset_row("d2"), has_more=True),
        _page(dataset_row("d2"), dataset_row("d3"), has_more=True),  # one moved while we read
        _page(dataset_row("d4"), has_more=False),
    ]
    assert [d.id for d in client.projects.list()] == ["d1", "d2", "d3", "d4"]
    assert [seen.parameters["offset"] for seen in stub.seen] == ["0", "2", "4"]


def test_a_page_that_says_nothing_about_more(stub: StubServer, client: Client) -> None:
    stub.answers += [_page(image_row("1"), image_row("2"), has_more=None), _page(has_more=None)]
    assert [i.id for i in client.images.iter("d", page_size=2)] == ["1", "2"]
    stub.answers += [_page(image_row("1"), has_more=None)]
    assert [i.id for i in client.images.iter("d", page_size=2)] == ["1"]
    assert len(stub.seen) == 3


def test_a_server_that_never_ends_its_empty_pages(stub: StubServer, client: Client) -> None:
    stub.default = lambda _seen: _page(has_more=True)
    assert client.datasets.list(archived=True) == []
    assert [seen.parameters["archived"] for seen in stub.seen] == ["true"]


def _contents(stub: StubServer, total: int, cap: int, count: int) -> None:
    def answer(seen: Seen) -> Answer:
        offset, limit = int(seen.parameters["images_offset"]), int(seen.parameters["images_limit"])
        rows = [image_row(str(n)) for n in range(offset, min(offset + min(limit, cap), total))]
        return Answer(json={"data": dataset_row(image_count=count, images=rows)})

    stub.default = answer


@pytest.mark.parametrize(
    ("total", "cap", "count", "requests"),
    [
        (0, 10, 0, 1),
        (7, 10, 7, 1),
        (10, 10, 10, 1),  # a full page that is all
        (25, 10, 25, 3),
        (25, 4, 25, 7),  # a server that cuts pages below what was asked
        (25, 10, 3, 3),  # a count that lags behind
        (7, 10, 9, 2),  # one that runs ahead
    ],
)
def test_contents_of_a_dataset(
    stub: StubServer,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    total: int,
    cap: int,
    count: int,
    requests: int,
) -> None:
    monkeypatch.setattr(resources, "IMAGES_PER_LISTING", 10)
    _contents(stub, total, cap, count)
    dataset, images = client.datasets.contents("signs")
    assert dataset.id == "d1"
    assert [image.id for image in images] == [str(n) for n in range(total)]
    assert len(stub.seen) == requests


def test_signed_urls_of_a_dataset(stub: StubServer, client: Client) -> None:
    row = {"id": "1", "filename": "a.jpg", "file_size": 5, "annotation_url": None}
    items = [{**row, "image_url": "https://s.example/1"}, {**row, "image_url": None}]
    stub.answers.append(Answer(json={"data": {"id": "d1", "items": items, "total_items": 2}}))
    (item,) = client.datasets.download_urls("signs")
    assert (item.id, item.file_size, item.image_url) == ("1", 5, "https://s.example/1")
    assert stub.seen[0].parameters == {"mode": "images_only", "limit": "10000"}


def test_the_organization(stub: StubServer, client: Client) -> None:
    stub.answers.append(Answer(json={"organization": {"id": "o1", "name": "Org", "max_storage_bytes": 7}}))
    assert client.organization().max_storage_bytes == 7
    assert stub.paths == [f"GET {API}/organizations/me"]


# --- downloading ---------------------------------------------------------------------------------

BODY = bytes(range(256)) * 1000


def _image_server(stub: StubServer, body: bytes = BODY, **row: Any) -> None:
    def answer(seen: Seen) -> Answer:
        if seen.path.endswith("/metadata"):
            return Answer(json={"data": image_row(file_size=len(body), **row)})
        start = int(seen.headers.get("Range", "bytes=0-")[6:-1])
        headers = {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
        return Answer(206, body=body[start:], headers=headers) if start else Answer(body=body)

    stub.default = answer


def test_download_to_a_file(stub: StubServer, client: Client, tmp_path: Path) -> None:
    _image_server(stub)
    target = tmp_path / "new" / "folder" / "x.jpg"
    assert client.images.download("i1", output_path=target) == target
    assert target.read_bytes() == BODY
    assert _names(target.parent) == ["x.jpg"]
    assert stub.paths == [f"GET {API}/images/i1"]


@pytest.mark.parametrize(
    ("filename", "local"),
    [
        ("a.jpg", "a.jpg"),
        ("../../x.jpg", "..\uff0f..\uff0fx.jpg"),
        ("/etc/passwd", "\uff0fetc\uff0fpasswd"),
        ("..", "\uff0e\uff0e"),
        ("a\0b.jpg", "a\u2400b.jpg"),
        ("\ud800.jpg", "\ufffd.jpg"),
    ],
)
def test_download_into_a_folder(
    stub: StubServer, client: Client, tmp_path: Path, filename: str, local: str
) -> None:
    _image_server(stub, filename=filename)
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    assert client.images.download("i1", output_path=str(folder)) == folder / local
    assert _names(folder) == [local]


def test_download_of_a_very_long_name(stub: StubServer, client: Client, tmp_path: Path) -> None:
    for filename in ("ü" * 300 + ".jpg", "x" * 251 + ".jpg"):
        _image_server(stub, filename=filename)
        assert client.images.download("abcdef0123", tmp_path).read_bytes() == BODY


def test_a_broken_download_goes_on_where_it_stopped(stub: StubServer, client: Client, tmp_path: Path) -> None:
    _image_server(stub)
    stub.answers += [Answer(body=BODY, cut_after=100_000), Answer(body=BODY[:0], reset=True)]
    target = client.images.download("i1", tmp_path / "x.jpg")
    assert target.read_bytes() == BODY
    assert stub.seen[-1].headers["Range"] == "bytes=100000-"


def test_a_broken_download_starts_again_where_ranges_are_ignored(
    stub: StubServer, client: Client, tmp_path: Path
) -> None:
    stub.answers += [Answer(body=BODY, cut_after=100_000), Answer(body=BODY)]
    assert client.images.download("i1", tmp_path / "x.jpg").read_bytes() == BODY


def test_a_download_of_unannounced_length_is_compared_with_the_row(
    stub: StubServer, client: Client, tmp_path: Path
) -> None:
    _image_server(stub)
    unannounced = Answer(body=BODY[:500], announce=-1, cut_after=500)
    stub.answers.append(unannounced)
    with pytest.raises(IncompleteTransferError):
        client.images.download("i1", tmp_path / "x.jpg")
    assert _names(tmp_path) == []


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (Answer(404, json={"detail": "gone"}), NotFoundError),
        (Answer(503), ServerError),
        (Answer(body=BODY, cut_after=0), IncompleteTransferError),
        (Answer(body=BODY, cut_after=70_000, reset=True), NetworkError),
    ],
)
def test_a_failed_download_leaves_what_was_there(
    stub: StubServer, client: Client, tmp_path: Path, answer: Answer, kind: type[Exception]
) -> None:
    target = tmp_path / "x.jpg"
    target.write_bytes(b"older")
    stub.default = lambda _seen: answer
    with pytest.raises(kind):
        client.images.download("i1", target)
    assert target.read_bytes() == b"older"
    assert _names(tmp_path) == ["x.jpg"]


def test_an_interrupted_download_leaves_nothing(
    stub: StubServer, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _image_server(stub)

    def interrupted(*_arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pictofs.api.images.Images._receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.images.download("i1", tmp_path / "x.jpg")
    assert _names(tmp_path) == []


def test_a_link_beside_the_target_is_not_followed(stub: StubServer, client: Client, tmp_path: Path) -> None:
    _image_server(stub)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "x.jpg.part").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        client.images.download("i1", tmp_path / "x.jpg")
    assert victim.read_bytes() == b"precious"


# --- deleting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("permanent", [False, True])
def test_delete_by_path(stub: StubServer, client: Client, permanent: bool) -> None:
    stub.answers += [
        Answer(json={"data": image_row(directory_path="/a b", filename="50%?.jpg")}),
        Answer(204),
    ]
    client.images.delete("i1", permanent=permanent)
    seen = stub.seen[-1]
    assert f"{seen.method} {seen.path}" == f"DELETE {API}/images/d1/a%20b/50%25%3F.jpg"
    assert seen.query == ("permanent=true" if permanent else "")


@pytest.mark.parametrize("filename", ["a/b.jpg", "..", "../x.jpg", "\0.jpg"])
def test_delete_by_id_where_a_path_is_ambiguous(stub: StubServer, client: Client, filename: str) -> None:
    stub.answers += [
        Answer(json={"data": image_row(filename=filename)}),
        Answer(json={"data": dataset_row()}),
        Answer(json={"success": True, "processed": 1}),
    ]
    client.images.delete("i1")
    assert stub.paths[-1] == f"POST {API}/batch/images/delete"
    assert stub.seen[-1].json == {"dataset_name": "signs", "image_ids": ["i1"], "permanent": False}


def test_a_delete_that_the_batch_left_out(stub: StubServer, client: Client) -> None:
    stub.answers += [
        Answer(json={"data": image_row(filename="a/b.jpg")}),
        Answer(json={"data": dataset_row()}),
        Answer(json={"success": False, "processed": 0, "failed": [{"id": "i1", "reason": "locked"}]}),
    ]
    with pytest.raises(ConflictError, match="locked"):
        client.images.delete("i1")


def test_a_split_that_no_route_can_name(stub: StubServer, client: Client) -> None:
    with pytest.raises(ConflictError):
        client.images.set_split(Image.from_json(image_row(filename="a/b.jpg")), "train")
    assert stub.seen == []


# --- uploading -----------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Not readable as pictures, which is the service's to judge."""
    paths = [tmp_path / f"p{number}.jpg" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 100)
    return paths


class Service:
    """A stub that takes uploads and remembers them; `refuse` decides about names."""

    def __init__(self, stub: StubServer) -> None:
        self.stub = stub
        self.stored: dict[str, bytes] = {}
        self.refuse_url: Callable[[str], Answer | None] = lambda _name: None
        self.refuse_put: Callable[[str], Answer | None] = lambda _name: None
        self.refuse_register: Callable[[str], Answer | None] = lambda _name: None
        self.failed: dict[str, str] = {}
        self.renamed: dict[str, str] = {}
        stub.default = self.answer

    def answer(self, seen: Seen) -> Answer:
        name = seen.path.removeprefix(f"{API}/images/")
        if seen.method == "PUT":
            name = seen.path.rpartition("/")[2]
            refusal = self.refuse_put(name)
            self.stored[name] = seen.body
            return refusal or Answer(200)
        wanted = seen.json.get("images", [seen.json])
        refuse = self.refuse_register if "register" in name else self.refuse_url
        refusal = next((r for image in wanted if (r := refuse(image["filename"]))), None)
        if refusal:
            return refusal
        if "url" in name:
            rows = [
                {"filename": i["filename"], "upload_url": f"{self.stub.url}/put/{i['filename']}"}
                for i in wanted
            ]
            return Answer(json={"data": {"upload_urls": rows} if "bulk" in name else rows[0]})
        landed = [
            image_row(
                f"id-{i['filename']}", **{**i, "filename": self.renamed.get(i["filename"], i["filename"])}
            )
            for i in wanted
            if i["filename"] not in self.failed
        ]
        if "bulk" not in name:
            return Answer(json={"data": landed[0]})
        failed = [
            {
                "filename": i["filename"],
                "directory_path": i["directory_path"],
                "error": self.failed[i["filename"]],
            }
            for i in wanted
            if i["filename"] in self.failed
        ]
        return Answer(json={"data": {"succeeded": landed[::-1], "failed": failed, "count": len(landed)}})


def test_upload_in_three_steps(stub: StubServer, client: Client, pictures: list[Path]) -> None:
    service = Service(stub)
    image = client.images.upload(
        dataset_id="d1", file_path=pictures[1], folder_path="a/b/", idempotency_key="mine"
    )
    assert image.id == "id-p1.jpg"
    assert service.stored == {"p1.jpg": b"\1" * 100}
    assert stub.seen[0].json == {
        "dataset": "d1",
        "filename": "p1.jpg",
        "directory_path": "/a/b",
        "content_type": "image/jpeg",
    }
    assert stub.seen[2].headers["Idempotency-Key"] == "mine"
    assert stub.seen[0].headers["Idempotency-Key"] != "mine"


def test_upload_again_under_the_same_key(stub: StubServer, client: Client, pictures: list[Path]) -> None:
    """The service refuses a URL for a name that the first call took, but repeats its answer to the second."""
    service = Service(stub)
    taken = Answer(409, json={"detail": "already exists"})
    service.refuse_url = lambda _name: taken
    assert client.images.upload("d1", pictures[0], idempotency_key="mine").id == "id-p0.jpg"
    assert service.stored == {}
    with pytest.raises(ConflictError):
        client.images.upload("d1", pictures[0])
    service.refuse_register = lambda _name: taken
    with pytest.raises(ConflictError):
        client.images.upload("d1", pictures[0], idempotency_key="another")


def test_upload_of_what_can_never_be_uploaded(stub: StubServer, client: Client, tmp_path: Path) -> None:
    huge = tmp_path / "huge.jpg"
    with huge.open("wb") as file:
        file.truncate(50 * 1024 * 1024 + 1)
    text = tmp_path / "notes.txt"
    text.touch()
    with pytest.raises(ApiError) as caught:
        client.images.upload("d1", huge)
    assert caught.value.status == 413
    with pytest.raises(ValidationError):
        client.images.upload("d1", text)
    with pytest.raises(FileNotFoundError):
        client.images.upload("d1", tmp_path / "none.jpg")
    folder = tmp_path / "folder.jpg"
    folder.mkdir()
    with pytest.raises(IsADirectoryError):
        client.images.upload("d1", folder)
    assert stub.seen == []


def test_bulk_upload(stub: StubServer, client: Client, pictures: list[Path]) -> None:
    service = Service(stub)
    service.failed = {"p3.jpg": "already exists in /x"}
    result = client.images.bulk_upload("signs", pictures, "/x")
    assert [image.id for image in result.succeeded] == [f"id-p{n}.jpg" for n in (0, 1, 2, 4)]
    assert [(f.filename, f.directory_path) for f in result.failed] == [("p3.jpg", "/x")]
    assert "already exists in /x" in result.failed[0].error
    assert len(service.stored) == 5
    assert client.budget.used == 2


def test_a_file_that_the_service_will_not_have_stands_alone(
    stub: StubServer, client: Client, pictures: list[Path]
) -> None:
    service = Service(stub)
    service.refuse_url = lambda name: Answer(415, json={"detail": "no"}) if name == "p1.jpg" else None
    service.refuse_register = lambda name: Answer(413, json={"detail": "big"}) if name == "p4.jpg" else None
    result = client.images.bulk_upload("signs", pictures)
    assert [image.id for image in result.succeeded] == ["id-p0.jpg", "id-p2.jpg", "id-p3.jpg"]
    assert [f.filename for f in result.failed] == ["p1.jpg", "p4.jpg"]
    assert "p1.jpg" not in service.stored


@pytest.mark.parametrize("status", [401, 402, 403, 404, 500])
def test_what_is_wrong_with_all_is_asked_once(
    stub: StubServer, client: Client, pictures: list[Path], status: int
) -> None:
    stub.default = lambda _seen: Answer(status, json={"detail": "no"})
    result = client.with_retries(0).images.bulk_upload("signs", pictures)
    assert len(result.failed) == 5
    assert len(stub.seen) == 1


def test_a_signed_url_that_expired_is_renewed(stub: StubServer, client: Client, pictures: list[Path]) -> None:
    service = Service(stub)
    expired = {"p2.jpg"}

    def refuse(name: str) -> Answer | None:
        if name in expired:
            expired.remove(name)
            return Answer(403, body=b"<Expired/>")
        return None

    service.refuse_put = refuse
    assert len(client.images.bulk_upload("signs", pictures).succeeded) == 5
    service.refuse_put = lambda name: Answer(403) if name == "p2.jpg" else None
    assert [f.filename for f in client.images.bulk_upload("signs", pictures).failed] == ["p2.jpg"]


def test_two_files_for_one_place_never_meet_in_storage(
    stub: StubServer, client: Client, pictures: list[Path], tmp_path: Path
) -> None:
    service = Service(stub)
    (tmp_path / "sub").mkdir()
    second = tmp_path / "sub" / "p0.jpg"
    second.write_bytes(b"other")
    result = client.images.bulk_upload("signs", [*pictures, second])
    assert [f.filename for f in result.failed] == ["p0.jpg"]
    assert service.stored["p0.jpg"] == b"\0" * 100


def test_a_name_that_the_service_changed(stub: StubServer, client: Client, pictures: list[Path]) -> None:
    service = Service(stub)
    service.renamed = {"p2.jpg": "p2-clean.jpg"}
    result = client.images.bulk_upload("signs", pictures)
    assert [image.filename for image in result.succeeded][2] == "p2-clean.jpg"
    assert result.failed == ()


def test_an_answer_that_forgets_files(stub: StubServer, client: Client, pictures: list[Path]) -> None:
    service = Service(stub)
    forget = {"/images/bulk-register"}

    def answer(seen: Seen) -> Answer:
        given = service.answer(seen)
        if seen.path.removeprefix(API) in forget:
            del given.json["data"]["succeeded"][1:3]
        return given

    stub.default = answer
    result = client.images.bulk_upload("signs", pictures)
    assert len(result.succeeded) == 3
    assert ["did not say" in f.error for f in result.failed] == [True, True]


def test_batches_are_bounded(
    stub: StubServer, client: Client, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    Service(stub)
    monkeypatch.setattr(uploads, "FILES_PER_BATCH", 2)
    assert len(client.images.bulk_upload("signs", pictures).succeeded) == 5
    assert client.budget.by_route == {"POST /images/bulk-upload-url": 3, "POST /images/bulk-register": 3}
    monkeypatch.setattr(uploads, "FILES_PER_BATCH", 100)
    monkeypatch.setattr(uploads, "BYTES_PER_BATCH", 350)
    client.images.bulk_upload("signs", pictures)
    assert client.budget.used == 6 + 4


def test_upload_urls_that_are_too_few(stub: StubServer, client: Client, pictures: list[Path]) -> None:
    stub.answers.append(Answer(json={"data": {"upload_urls": []}}))
    files = [uploads.describe(path, "/").image for path in pictures]
    with pytest.raises(ServerError, match="0 upload URLs for 5 images"):
        client.images.bulk_upload_urls("signs", files)


def test_an_insecure_upload_url_is_not_used(stub: StubServer, client: Client, pictures: list[Path]) -> None:
    with pytest.raises(NetworkError, match="address"):
        client.images.put_file("ftp://s.example/x", pictures[0], "image/jpeg", timeout_s=1)


def test_storage_errors_reach_the_caller(stub: StubServer, client: Client, pictures: list[Path]) -> None:
    service = Service(stub)
    service.refuse_put = lambda _name: Answer(403)
    with pytest.raises(StorageError):
        client.images.upload("d1", pictures[0])
