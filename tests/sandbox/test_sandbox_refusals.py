"""What the API refuses, with which status and words, and in which order it looks."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
import requests
from sandbox_http import Http
from sandbox_process import SandboxProcess

MISSING = "00000000-0000-0000-0000-000000000000"
UPLOAD = {"filename": "a.jpg", "directory_path": "/", "content_type": "image/jpeg"}


def refused(answer: requests.Response, status: int, words: str = "") -> dict[str, Any]:
    """The error of a refusal, in the service's shape."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "detail"}
    assert set(body["error"]) == {"code", "message", "details"}
    assert words in body["error"]["message"]
    assert answer.headers["X-Request-Id"]
    assert answer.headers["X-RateLimit-Limit"]
    error: dict[str, Any] = body["error"]
    return error


def test_the_key_comes_before_everything(http: Http) -> None:
    for headers in ({"X-API-Key": ""}, {"X-API-Key": "pk_live_other"}):
        for method, path in (("GET", "/datasets/"), ("GET", "/no/such/route"), ("POST", "/datasets/")):
            assert refused(http(method, path, headers=headers), 401)["code"] == "unauthorized"


def test_unknown_routes_and_methods(http: Http, dataset: str) -> None:
    refused(http("GET", "/no/such/route"), 404)
    refused(http("GET", "/datasets"), 404)  # without its slash
    refused(http("PUT", "/datasets/"), 405)
    refused(http("GET", f"/datasets/{dataset}-not"), 404)
    refused(http("GET", f"/datasets/{MISSING}"), 404)
    refused(http("GET", f"/images/{MISSING}"), 404)
    refused(http("GET", f"/images/{MISSING}/metadata"), 404)
    refused(http("GET", f"/images/{dataset}/in/nothing.jpg"), 404)
    refused(http("GET", "/images/", params={"dataset": "not there"}), 404)


@pytest.mark.parametrize(
    ("path", "query", "status"),
    [
        ("/datasets/", {"page": 1}, 400),
        ("/datasets/", {"limit": "many"}, 422),
        ("/datasets/", {"limit": 0}, 422),
        ("/datasets/", {"offset": -1}, 422),
        ("/datasets/", {"archived": "perhaps"}, 422),
        ("/datasets/{d}", {"images": "true"}, 400),
        ("/datasets/{d}/download", {"offset": 1}, 400),
        ("/datasets/{d}/download", {"mode": "all"}, 422),
        ("/images/", {}, 422),
        ("/images/", {"dataset": "{d}", "status": "done"}, 422),
        ("/images/", {"dataset": "{d}", "split": "holdout"}, 422),
        ("/images/", {"dataset": "{d}", "name": "a.jpg"}, 400),
        ("/directories/{d}", {"parent": "/"}, 400),
        ("/organizations/me", {"x": "1"}, 400),
    ],
)
def test_queries(http: Http, dataset: str, path: str, query: dict[str, Any], status: int) -> None:
    filled = {name: dataset if value == "{d}" else value for name, value in query.items()}
    error = refused(http("GET", path.format(d=dataset), params=filled), status)
    assert error["code"] == ("unknown_parameter" if status == 400 else "validation_error")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/datasets/", {}, 422),
        ("POST", "/datasets/", {"name": 3}, 422),
        ("POST", "/datasets/", {"name": "  "}, 422),
        ("POST", "/datasets/", {"name": "a/b"}, 422),
        ("POST", "/datasets/", {"name": "ok", "colour": "red"}, 400),
        ("PATCH", "/datasets/{d}", {}, 422),
        ("PATCH", "/datasets/{d}", {"name": "other"}, 400),
        ("POST", "/directories/", {"dataset": "{d}", "directory_path": "/a/../b"}, 422),
        ("POST", "/directories/", {"dataset": "{d}", "directory_path": "/"}, 422),
        ("PATCH", "/directories/{d}/none/rename", {"new_name": "x"}, 404),
        ("POST", "/images/upload-url", {"dataset": "{d}", **UPLOAD, "width": 1}, 400),
        ("POST", "/images/upload-url", {"dataset": "{d}", **UPLOAD, "filename": ""}, 422),
        ("POST", "/images/upload-url", {"dataset": "{d}", **UPLOAD, "filename": "a.txt"}, 415),
        ("POST", "/images/upload-url", {"dataset": "{d}", **UPLOAD, "filename": "jpg"}, 415),
        ("POST", "/images/upload-url", {"dataset": "{d}", **UPLOAD, "content_type": "text/plain"}, 415),
        ("POST", "/images/upload-url", {"dataset": "{d}", **UPLOAD, "directory_path": "/../x"}, 422),
        ("POST", "/images/bulk-upload-url", {"dataset": "{d}", "images": []}, 422),
        ("POST", "/images/bulk-upload-url", {"dataset": "{d}", "images": [UPLOAD] * 501}, 422),
        ("POST", "/images/bulk-upload-url", {"dataset": "{d}", "images": [{**UPLOAD, "size": 1}]}, 400),
        ("POST", "/images/bulk-register", {"dataset": "{d}", "images": [UPLOAD]}, 422),
        ("POST", "/images/bulk-tag", {"dataset": "{d}", "image_ids": [MISSING], "tags": []}, 422),
        ("POST", "/batch/images/move", {"dataset_name": "{d}", "image_ids": []}, 422),
        ("POST", "/batch/images/move", {"dataset": "{d}", "image_ids": [MISSING]}, 400),
        ("POST", "/batch/images/delete", {"dataset_name": "{d}", "image_ids": [MISSING] * 10_001}, 422),
        ("POST", "/batch/images/delete", {"dataset_name": "{d}", "image_ids": [MISSING]}, 404),
        (
            "PATCH",
            "/batch/images/update",
            {"dataset_name": "{d}", "image_ids": [MISSING], "updates": {}},
            422,
        ),
    ],
)
def test_bodies(http: Http, dataset: str, method: str, path: str, body: dict[str, Any], status: int) -> None:
    filled = {name: dataset if value == "{d}" else value for name, value in body.items()}
    refused(http(method, path.format(d=dataset), json=filled), status)


def test_bodies_that_are_no_json_object(http: Http) -> None:
    refused(http("POST", "/datasets/", data=b"{"), 422)
    refused(http("POST", "/datasets/", data=b"[1]"), 422)
    refused(http("POST", "/datasets/", data=b""), 422)
    refused(http("POST", "/datasets/", data=b" " * (10 * 1024 * 1024 + 1)), 413)


def test_pages_are_capped_and_has_more_is_right(http: Http, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="paged", images=2500, folders=3)
    answer = http("GET", "/images/", params={"dataset": "paged", "limit": 5000}).json()
    assert len(answer["data"]) == 1000
    assert answer["pagination"] == {"limit": 1000, "offset": 0, "total": 2500, "has_more": True}
    names, offset, more = [], 0, True
    while more:
        answer = http("GET", "/images/", params={"dataset": "paged", "limit": 1000, "offset": offset}).json()
        names += [row["filename"] for row in answer["data"]]
        offset, more = len(names), answer["pagination"]["has_more"]
    assert names == [f"image-{number:05d}.jpg" for number in reversed(range(2500))]
    query = {"include_images": "true", "images_limit": 20_000, "images_offset": 2000}
    assert len(http("GET", "/datasets/paged", params=query).json()["data"]["images"]) == 500
    download = http("GET", "/datasets/paged/download", params={"mode": "images_only", "limit": 99_999}).json()
    assert download["data"]["total_items"] == len(download["data"]["items"]) == 2500


def test_register_needs_the_uploaded_bytes(http: Http, dataset: str) -> None:
    refused(http.register(dataset, "a.jpg", 100), 400, "PUT it")
    http.put(dataset, "a.jpg", b"x" * 10)
    refused(http.register(dataset, "a.jpg", 11), 400, "10 bytes were uploaded")
    assert http.listing(dataset) == []
    assert http.register(dataset, "a.jpg", 10).status_code == 200
    http.put(dataset, "a.jpg", b"x" * 10)
    refused(http.register(dataset, "a.jpg", 10), 409, "already exists")


def test_bulk_register_lists_each_failure(http: Http, dataset: str) -> None:
    http.upload(dataset, "taken.jpg")
    for name in ("good.jpg", "taken.jpg", "short.jpg", "twice.jpg"):
        http.put(dataset, name, b"12345")
    sizes = {
        "good.jpg": 5,
        "taken.jpg": 5,
        "short.jpg": 4,
        "never put.jpg": 5,
        "wrong.txt": 5,
        "twice.jpg": 5,
    }
    images = [{**UPLOAD, "filename": name, "file_size": size} for name, size in sizes.items()]
    images += [images[-1], {**UPLOAD, "filename": "huge.jpg", "file_size": 50 * 1024 * 1024 + 1}]
    answer = http("POST", "/images/bulk-register", json={"dataset": dataset, "images": images}).json()["data"]
    assert [i["filename"] for i in answer["succeeded"]] == ["good.jpg", "twice.jpg"]
    assert answer["count"] == 2
    words = {
        "taken.jpg": "already exists",
        "short.jpg": "5 bytes were uploaded",
        "never put.jpg": "PUT it",
        "wrong.txt": "Unsupported file extension",
        "twice.jpg": "already exists",
        "huge.jpg": "at most 52428800",
    }
    assert [f["filename"] for f in answer["failed"]] == list(words)
    for failure in answer["failed"]:
        assert set(failure) == {"filename", "directory_path", "error"}
        assert words[failure["filename"]] in failure["error"]


def test_quota(http: Http, sandbox: SandboxProcess, dataset: str) -> None:
    used = _used_images(http, sandbox)
    sandbox.faults(limits={"max_images": used + 2, "subscription_tier": "free"})
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        http.put(dataset, name, b"12345")
    images = [{**UPLOAD, "filename": name, "file_size": 5} for name in ("a.jpg", "b.jpg", "c.jpg")]
    answer = http("POST", "/images/bulk-register", json={"dataset": dataset, "images": images}).json()["data"]
    assert [i["filename"] for i in answer["succeeded"]] == ["a.jpg", "b.jpg"]
    assert "Image limit reached" in answer["failed"][0]["error"]
    assert refused(http.register(dataset, "c.jpg", 5), 402)["code"] == "image_limit_exceeded"
    refused(http("POST", "/images/upload-url", json={"dataset": dataset, **UPLOAD}), 402)
    refused(http("POST", "/images/bulk-upload-url", json={"dataset": dataset, "images": [UPLOAD]}), 402)
    sandbox.faults(limits={"max_storage_bytes": 1})
    assert refused(http.register(dataset, "c.jpg", 5), 402)["code"] == "storage_limit_exceeded"
    sandbox.faults(limits={})
    assert http.register(dataset, "c.jpg", 5).status_code == 200


def _used_images(http: Http, sandbox: SandboxProcess) -> int:
    """Found from outside: the smallest limit that still takes one."""
    low, high = 0, 1_000_000
    while low < high:
        middle = (low + high) // 2
        sandbox.faults(limits={"max_images": middle})
        body = {"dataset": "quota probe", **UPLOAD}
        sandbox.populate(dataset="quota probe")
        is_full = http("POST", "/images/upload-url", json=body).status_code == 402
        low, high = (middle + 1, high) if is_full else (low, middle)
    return low - 1


def test_names_are_sanitised(http: Http, dataset: str) -> None:
    image = http.upload(dataset, " a\\b\x01c/d.JPG ")
    assert image["filename"] == "a_b_c_d.JPG"
    assert http.listing(dataset, filename="a_b_c_d.JPG")[0]["id"] == image["id"]
    refused(
        http(
            "POST", "/images/upload-url", json={"dataset": dataset, **UPLOAD, "filename": "x" * 300 + ".jpg"}
        ),
        422,
    )


@pytest.mark.parametrize("role", ["viewer", "annotator", "member", "admin", "owner"])
def test_roles(http: Http, sandbox: SandboxProcess, dataset: str, role: str) -> None:
    strength = ["viewer", "annotator", "member", "admin", "owner"].index(role)
    ids = [http.upload(dataset, f"{number}.jpg")["id"] for number in range(4)]
    sandbox.faults(role=role)
    unused = f"new-{uuid.uuid4()}"
    batch: dict[str, Any] = {"dataset_name": dataset, "image_ids": ids[:2]}
    calls: list[tuple[int, str, str, dict[str, Any] | None]] = [
        (0, "GET", f"/images/{ids[0]}", None),
        (0, "GET", f"/datasets/{dataset}/download", None),
        (1, "DELETE", f"/images/{dataset}/0.jpg", None),
        (1, "POST", "/batch/images/delete", batch | {"image_ids": ids[1:2]}),
        (1, "PATCH", "/batch/images/update", batch | {"updates": {"is_archived": False}}),
        (2, "POST", "/images/upload-url", {"dataset": dataset, **UPLOAD}),
        (2, "POST", "/directories/", {"dataset": dataset, "directory_path": "/x"}),
        (2, "POST", "/batch/images/move", batch | {"target_directory_path": "/x"}),
        (2, "POST", "/datasets/", {"name": unused}),
        (3, "POST", f"/datasets/{dataset}/archive", None),
        (3, "POST", f"/datasets/{dataset}/unarchive", None),
        (3, "DELETE", f"/images/{dataset}/2.jpg?permanent=true", None),
        (3, "POST", "/batch/images/delete", batch | {"image_ids": ids[3:], "permanent": True}),
        (3, "DELETE", f"/datasets/{dataset}", None),
    ]
    for needed, method, path, body in calls:
        answer = http(method, path, json=body)
        if strength >= needed:
            assert answer.status_code == 200, (path, answer.text)
        else:
            refused(answer, 403, role)
