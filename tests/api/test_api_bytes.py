"""Bytes in and out: ranges, bodies that break, uploads, against a scripted server."""

from __future__ import annotations

import io
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from stub_server import KEY, Answer, StubServer, dataset_row

from pictofs import Client
from pictofs.api.errors import (
    IncompleteTransferError,
    NetworkError,
    NotFoundError,
    RequestTimeoutError,
    StorageError,
)
from pictofs.api.transport.bodies import UploadBody

DATASET = Answer(json={"data": dataset_row()})
API = "/api/v1/developer"


# --- bytes in ------------------------------------------------------------------------------------

BODY = bytes(range(256)) * 800  # over three chunks


def _ranged(seen: Any) -> Answer:
    """A storage that knows ranges."""
    wanted = seen.headers.get("Range")
    if wanted is None:
        return Answer(body=BODY)
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last) + 1 if last else len(BODY), len(BODY))
    if start >= len(BODY):
        return Answer(416, headers={"Content-Range": f"bytes */{len(BODY)}"})
    return Answer(
        206, body=BODY[start:end], headers={"Content-Range": f"bytes {start}-{end - 1}/{len(BODY)}"}
    )


@pytest.mark.parametrize(
    ("offset", "length", "served"),
    [(0, None, BODY), (5, None, BODY[5:]), (70_000, 100, BODY[70_000:70_100]), (0, 1, BODY[:1])],
)
def test_ranges(stub: StubServer, client: Client, offset: int, length: int | None, served: bytes) -> None:
    stub.default = _ranged
    for opened in (
        client.images.open_original("i1", offset, length),
        client.images.storage_get(f"{stub.url}/o/x", offset, length),
    ):
        with opened as stream:
            assert (stream.offset_bytes, stream.total_bytes) == (offset, len(BODY))
            assert b"".join(stream) == served


def test_a_server_that_ignores_ranges_says_so(stub: StubServer, client: Client) -> None:
    stub.answers.append(Answer(body=BODY))
    with client.images.open_original("i1", 5) as stream:
        assert (stream.offset_bytes, stream.total_bytes) == (0, len(BODY))
        assert b"".join(stream) == BODY


@pytest.mark.parametrize("content_range", [None, "bytes */5", "nonsense", "bytes 9-5/10"])
def test_a_part_that_does_not_say_which(stub: StubServer, client: Client, content_range: str | None) -> None:
    headers = {"Content-Range": content_range} if content_range else {}
    stub.answers.append(Answer(206, body=b"x", headers=headers))
    with pytest.raises(NetworkError, match="Content-Range"):
        client.images.open_original("i1", 5)


def test_a_body_that_ends_early_is_incomplete(stub: StubServer, client: Client) -> None:
    stub.answers += [
        Answer(body=BODY, cut_after=1000),
        Answer(206, body=BODY[:50], headers={"Content-Range": f"bytes 0-99/{len(BODY)}"}),
    ]
    for received, expected in ((1000, len(BODY)), (50, 100)):
        with client.images.open_original("i1") as stream, pytest.raises(IncompleteTransferError) as caught:
            list(stream)
        assert (caught.value.received, caught.value.expected) == (received, expected)


def test_a_body_of_unannounced_length(stub: StubServer, client: Client) -> None:
    stub.answers.append(Answer(body=BODY, announce=-1, cut_after=len(BODY)))
    with client.images.open_original("i1") as stream:
        assert stream.total_bytes is None
        assert b"".join(stream) == BODY


def test_a_body_that_is_reset(stub: StubServer, client: Client) -> None:
    stub.answers.append(Answer(body=BODY, cut_after=1000, reset=True))
    with client.images.open_original("i1") as stream, pytest.raises(NetworkError):
        list(stream)


def test_a_body_that_stalls(stub: StubServer) -> None:
    hold = threading.Event()
    stub.answers.append(Answer(body=BODY, cut_after=1000, hold=hold))
    with (
        Client(KEY, base_url=stub.url, timeout_s=0.1) as client,
        client.images.open_original("i1") as stream,
        pytest.raises(RequestTimeoutError),
    ):
        list(stream)
    hold.set()


def test_a_read_under_way_can_be_cancelled(stub: StubServer, client: Client) -> None:
    hold = threading.Event()
    stub.answers.append(Answer(body=BODY, cut_after=70_000, hold=hold))
    first = threading.Event()
    ended: list[BaseException] = []

    def read(stream: Any) -> None:
        try:
            for _chunk in stream:
                first.set()
        except (IncompleteTransferError, NetworkError) as error:
            ended.append(error)

    with client.images.open_original("i1") as stream:
        thread = threading.Thread(target=read, args=(stream,))
        thread.start()
        assert first.wait(5)
        stream.cancel()
        thread.join(5)
        assert not thread.is_alive()
    stream.cancel()  # too late, and harmless
    hold.set()
    assert len(ended) == 1


def test_refusals_of_bytes(stub: StubServer, client: Client) -> None:
    stub.answers += [Answer(404, json={"detail": "gone"}), Answer(403, body=b"<Error/>")]
    with pytest.raises(NotFoundError, match="gone"):
        client.images.open_original("i1")
    with pytest.raises(StorageError) as caught:
        client.images.storage_get(f"{stub.url}/o/x?signature=abc")
    assert caught.value.status == 403
    assert "signature" not in str(caught.value)


def test_the_size_behind_a_url(stub: StubServer, client: Client) -> None:
    url = f"{stub.url}/o/x"
    stub.answers.append(Answer(body=BODY))
    assert client.images.storage_size(url) == len(BODY)
    assert stub.paths == ["HEAD /o/x"]
    # The signature is good for GET only.
    stub.default = lambda seen: Answer(403) if seen.method == "HEAD" else _ranged(seen)
    assert client.images.storage_size(url) == len(BODY)
    stub.default = lambda seen: Answer(403)
    with pytest.raises(StorageError):
        client.images.storage_size(url)


# --- bytes out -----------------------------------------------------------------------------------


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(BODY)
    return path


@pytest.mark.parametrize("status", [200, 201])
def test_put_streams_a_file_without_the_key(
    stub: StubServer, client: Client, photo: Path, status: int
) -> None:
    stub.answers.append(Answer(status))
    client.images.put_file(f"{stub.url}/put?sig=1", photo, "image/jpeg", timeout_s=10)
    (seen,) = stub.seen
    assert (seen.method, seen.body) == ("PUT", BODY)
    assert seen.headers["Content-Length"] == str(len(BODY))
    assert seen.headers["Content-Type"] == "image/jpeg"
    names = {name.lower() for name in seen.headers}
    assert names.isdisjoint({"x-api-key", "idempotency-key", "transfer-encoding", "expect"})
    assert client.budget.used == 0


def test_put_of_an_empty_file(stub: StubServer, client: Client, tmp_path: Path) -> None:
    empty = tmp_path / "empty.jpg"
    empty.touch()
    stub.answers.append(Answer(200))
    client.images.put_file(f"{stub.url}/put", empty, "image/jpeg", timeout_s=10)
    assert stub.seen[0].headers["Content-Length"] == "0"


def test_put_is_sent_again_whole(stub: StubServer, client: Client, photo: Path) -> None:
    stub.answers += [Answer(503), Answer(reset=True), Answer(200)]
    client.images.put_file(f"{stub.url}/put", photo, "image/jpeg", timeout_s=10)
    assert [seen.body for seen in stub.seen] == [BODY] * 3


@pytest.mark.parametrize("status", [204, 302, 400, 403, 404])
def test_put_refused(stub: StubServer, client: Client, photo: Path, status: int) -> None:
    stub.answers.append(Answer(status, headers={"Location": "/elsewhere"}))
    with pytest.raises(StorageError) as caught:
        client.images.put_file(f"{stub.url}/put", photo, "image/jpeg", timeout_s=10)
    assert caught.value.status == status
    assert len(stub.seen) == 1


def test_put_has_a_deadline(stub: StubServer, client: Client, photo: Path) -> None:
    hold = threading.Event()
    stub.default = lambda _seen: Answer(200, hold=hold)
    with pytest.raises(RequestTimeoutError):
        client.images.put_file(f"{stub.url}/put", photo, "image/jpeg", timeout_s=0.5)
    hold.set()
    # The attempts after the first met the deadline before they had sent anything.
    assert len(stub.seen) == 1


def test_put_of_a_file_that_shrinks(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    with path.open("r+b", buffering=0) as file:
        body = UploadBody(file, time.monotonic() + 60)
        assert body.read(3) == b"123"
        file.truncate(3)
        with pytest.raises(IncompleteTransferError):
            body.read(3)


def test_put_of_a_file_that_grows(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(b"12345")
    with path.open("rb", buffering=0) as file:
        body = UploadBody(file, time.monotonic() + 60)
        with path.open("ab") as more:
            more.write(b"678")
        assert body.read(100) == b"12345"
        assert body.read(100) == b""


def test_put_of_a_file_that_cannot_be_read(stub: StubServer, client: Client, photo: Path) -> None:
    class Broken(io.FileIO):
        def read(self, _size: int | None = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with Broken(str(photo)) as file, pytest.raises(OSError, match="Input/output error"):
        client._transport.put_file(f"{stub.url}/put", file, "image/jpeg", timeout_s=5)  # type: ignore[arg-type]


def test_connections_are_kept(stub: StubServer, client: Client) -> None:
    stub.default = _ranged
    for offset in (0, 5, 0):
        with client.images.open_original("i1", offset) as stream:
            list(stream)
    stub.default = lambda _seen: Answer(404, json={"detail": "x"})
    for call in (client.datasets.get, client.images.open_original, client.datasets.get):
        with pytest.raises(NotFoundError):
            call("x")
    assert len({seen.port for seen in stub.seen}) == 1
