"""The storage port: signed URLs, ranges, and that a registered object never changes."""

from __future__ import annotations

import http.client
import io
import socket
from urllib.parse import urlsplit

import pytest
from PIL import Image
from sandbox_http import Http, jpeg
from sandbox_process import SandboxProcess

DATA = bytes(range(256)) * 8


@pytest.fixture
def url(http: Http, dataset: str) -> str:
    """A signed URL of an image with the bytes DATA."""
    http.upload(dataset, "a.jpg", DATA)
    signed: str = http("GET", f"/datasets/{dataset}/download").json()["data"]["items"][0]["image_url"]
    return signed


@pytest.mark.parametrize(
    ("asked", "status", "part", "content_range"),
    [
        (None, 200, DATA, None),
        ("bytes=0-0", 206, DATA[:1], "bytes 0-0/2048"),
        ("bytes=100-199", 206, DATA[100:200], "bytes 100-199/2048"),
        ("bytes=2000-", 206, DATA[2000:], "bytes 2000-2047/2048"),
        ("bytes=-48", 206, DATA[-48:], "bytes 2000-2047/2048"),
        ("bytes=-9999", 206, DATA, "bytes 0-2047/2048"),
        ("bytes=2040-9999", 206, DATA[2040:], "bytes 2040-2047/2048"),
        ("bytes=2048-", 416, b"", "bytes */2048"),
        ("bytes=-0", 416, b"", "bytes */2048"),
        ("bytes=9-3", 200, DATA, None),
        ("bytes=0-1,4-5", 200, DATA, None),
        ("lines=1-2", 200, DATA, None),
    ],
)
def test_ranges(
    http: Http, dataset: str, url: str, asked: str | None, status: int, part: bytes, content_range: str | None
) -> None:
    headers = {"Range": asked} if asked else {}
    image_id = http.listing(dataset)[0]["id"]
    answers = [http.storage("GET", url, headers=headers), http("GET", f"/images/{image_id}", headers=headers)]
    for answer in answers:
        assert (answer.status_code, answer.content) == (status, part)
        assert answer.headers.get("Content-Range") == content_range
        assert answer.headers["Accept-Ranges"] == "bytes"
        assert answer.headers["Content-Length"] == str(len(part))
    assert answers[0].headers["ETag"] == answers[1].headers["ETag"]


def test_head_tells_the_size(http: Http, url: str, sandbox: SandboxProcess) -> None:
    answer = http.storage("HEAD", url)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Length"] == "2048"
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert sandbox.stats()["storage"]["heads"] == 1


def test_a_server_that_ignores_ranges(http: Http, url: str, sandbox: SandboxProcess) -> None:
    sandbox.faults(ignore_range=True)
    answer = http.storage("GET", url, headers={"Range": "bytes=5-9"})
    assert (answer.status_code, answer.content) == (200, DATA)


def test_urls_expire(http: Http, dataset: str, url: str, sandbox: SandboxProcess) -> None:
    sandbox.faults(expire_urls=True)
    assert http.storage("GET", url).status_code == 403
    assert http.storage("HEAD", url).status_code == 403
    fresh = http("GET", f"/datasets/{dataset}/download").json()["data"]["items"][0]["image_url"]
    assert http.storage("GET", fresh).content == DATA
    sandbox.faults(url_ttl_s=0)
    old = http.upload_url(dataset, "b.jpg")
    answer = http.storage("PUT", old, data=b"1", headers={"Content-Type": "image/jpeg"})
    assert (answer.status_code, "ExpiredToken" in answer.text) == (403, True)


def test_a_url_opens_one_thing_in_one_way(http: Http, dataset: str, url: str) -> None:
    upload = http.upload_url(dataset, "b.jpg")
    jpeg_type = {"Content-Type": "image/jpeg"}
    assert http.storage("GET", url[:-1] + ("0" if url[-1] != "0" else "1")).status_code == 403
    assert http.storage("GET", url.partition("?")[0]).status_code == 403
    assert http.storage("GET", url.replace("a.jpg", "b.jpg")).status_code == 403
    assert http.storage("PUT", url, data=b"1", headers=jpeg_type).status_code == 405
    assert http.storage("GET", upload).status_code == 405
    assert http.storage("PUT", upload, data=b"1", headers={"Content-Type": "image/png"}).status_code == 403
    assert (
        http.storage("PUT", upload.replace("b.jpg", "c.jpg"), data=b"1", headers=jpeg_type).status_code == 403
    )
    assert http.storage("GET", http.sandbox.storage_url + "/etc/passwd").status_code == 404
    assert http.storage("GET", http.sandbox.storage_url + "/object/../sandbox.db").status_code in (403, 404)
    assert http.storage("PUT", upload, data=b"1", headers=jpeg_type).status_code == 200


def test_a_leaked_key_is_caught(http: Http, url: str, sandbox: SandboxProcess) -> None:
    assert http.storage("GET", url, headers={"X-API-Key": sandbox.api_key}).status_code == 400
    assert sandbox.stats()["key_leaks"] == 1


def test_put_needs_a_length_within_the_bound(http: Http, dataset: str) -> None:
    url = http.upload_url(dataset, "a.jpg")
    chunked = http.storage("PUT", url, data=iter([b"12", b"345"]), headers={"Content-Type": "image/jpeg"})
    assert chunked.status_code == 411
    parts = urlsplit(url)
    connection = http_client(parts.netloc)
    connection.putrequest("PUT", f"{parts.path}?{parts.query}")
    connection.putheader("Content-Type", "image/jpeg")
    connection.putheader("Content-Length", str(50 * 1024 * 1024 + 1))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    connection.close()


def test_an_unfinished_put_stages_nothing(http: Http, dataset: str) -> None:
    parts = urlsplit(http.upload_url(dataset, "a.jpg"))
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        head = (
            f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
            "Content-Type: image/jpeg\r\nContent-Length: 100\r\n\r\n"
        )
        connection.sendall(head.encode() + b"x" * 60)
    assert http.register(dataset, "a.jpg", 60).status_code == 400
    assert http.register(dataset, "a.jpg", 100).status_code == 400


def test_a_registered_object_never_changes(http: Http, dataset: str) -> None:
    url = http.upload_url(dataset, "a.jpg")
    jpeg_type = {"Content-Type": "image/jpeg"}
    assert http.storage("PUT", url, data=b"first", headers=jpeg_type).status_code == 200
    assert (
        http.storage("PUT", url, data=b"second", headers=jpeg_type).status_code == 200
    )  # the last one counts
    image = http.register(dataset, "a.jpg", 6).json()["data"]
    assert http.storage("PUT", url, data=b"thirdx", headers=jpeg_type).status_code == 200
    assert http.original(image["id"]) == b"second"
    assert http.register(dataset, "a.jpg", 6).status_code == 409
    # What is staged then serves whoever may have the name later.
    http("DELETE", f"/images/{dataset}/a.jpg")
    newer = http.register(dataset, "a.jpg", 6).json()["data"]
    assert (http.original(newer["id"]), http.original(image["id"])) == (b"thirdx", b"second")


def test_a_large_file_in_pieces(http: Http, dataset: str) -> None:
    data = b"0123456789abcdef" * (3 * 65536 + 1)
    image = http.upload(dataset, "big.jpg", data)
    assert http.original(image["id"]) == data


def test_thumbnails(http: Http, dataset: str) -> None:
    image = http.upload(dataset, "wide.jpg", jpeg(size=(800, 200)))
    for answer in (
        http.storage("GET", image["thumbnail_url"]),
        http("GET", f"/images/{image['id']}/thumbnail"),
    ):
        with Image.open(io.BytesIO(answer.content)) as thumbnail:
            assert (thumbnail.format, thumbnail.size) == ("JPEG", (200, 50))
    broken = http.upload(dataset, "broken.jpg", b"no picture")
    assert http.storage("GET", broken["thumbnail_url"]).status_code == 404
    assert http("GET", f"/images/{broken['id']}/thumbnail").status_code == 404


def http_client(netloc: str) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(netloc, timeout=30)
