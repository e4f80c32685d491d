"""Where the key goes, and that nothing shows it, against a scripted server."""

from __future__ import annotations

import contextlib
import logging
import pickle
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stub_server import KEY, Answer, StubServer, dataset_row

import pictofs
from pictofs import Client
from pictofs.api import errors
from pictofs.api.credentials import Secret
from pictofs.api.errors import (
    NetworkError,
    ServerError,
)
from pictofs.api.transport.wire import checked_storage_url

DATASET = Answer(json={"data": dataset_row()})
API = "/api/v1/developer"


# --- the key -------------------------------------------------------------------------------------


def test_headers_of_an_api_request(stub: StubServer, client: Client) -> None:
    stub.answers += [DATASET, Answer(204), DATASET]
    client.datasets.get("signs")
    client.datasets.delete("signs")
    client.datasets.rename("signs", "x")
    for seen in stub.seen:
        assert seen.headers["X-API-Key"] == KEY
        assert seen.headers["User-Agent"] == f"pictofs/{pictofs.__version__}"
    assert ["Idempotency-Key" in seen.headers for seen in stub.seen] == [False, False, True]


def test_a_download_that_is_redirected_leaves_the_key_behind(
    stub: StubServer, storage: StubServer, client: Client
) -> None:
    stub.answers.append(Answer(302, headers={"Location": f"{storage.url}/cdn/x?sig=1"}))
    storage.answers.append(Answer(body=b"bytes"))
    with client.images.open_original("i1") as stream:
        assert b"".join(stream) == b"bytes"
    assert "X-API-Key" in stub.seen[0].headers
    assert {name.lower() for name in storage.seen[0].headers}.isdisjoint({"x-api-key", "authorization"})
    assert KEY not in str(storage.seen[0])


def test_a_redirect_within_the_api_keeps_the_key(stub: StubServer, client: Client) -> None:
    stub.answers += [Answer(307, headers={"Location": f"{API}/datasets/d1"}), DATASET]
    assert client.datasets.get("signs").id == "d1"
    assert stub.seen[1].headers["X-API-Key"] == KEY
    assert client.budget.used == 2


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_json_never_leaves_the_api(
    stub: StubServer, storage: StubServer, client: Client, method: str
) -> None:
    stub.answers.append(Answer(307, headers={"Location": f"{storage.url}{API}/datasets/signs"}))
    with pytest.raises(ServerError, match="redirected"):
        client.datasets.get("signs") if method == "GET" else client.datasets.create("signs")
    assert storage.seen == []


def test_redirects_end(stub: StubServer, client: Client) -> None:
    stub.default = lambda seen: Answer(302, headers={"Location": seen.path})
    with pytest.raises(NetworkError, match="redirected"):
        client.images.open_original("i1")
    assert len(stub.seen) == 6


def test_an_absolute_api_address_is_pinned_to_our_host(
    stub: StubServer, storage: StubServer, client: Client
) -> None:
    stub.default = lambda _seen: Answer(body=b"x")
    for prefix in (storage.url, "https://evil.example", f"https://{KEY}@evil.example/mounted"):
        with client.images.storage_get(f"{prefix}{API}/images/i1?size=full") as stream:
            list(stream)
    assert [(s.path, s.query) for s in stub.seen] == [(f"{API}/images/i1", "size=full")] * 3
    assert all(s.headers["X-API-Key"] == KEY for s in stub.seen)
    assert storage.seen == []


def test_storage_gets_neither_key_nor_cookies_nor_netrc(
    stub: StubServer, storage: StubServer, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    storage.default = lambda _seen: Answer(body=b"x", headers={"Set-Cookie": "a=b; Path=/"})
    stub.default = lambda _seen: Answer(json={"data": dataset_row()}, headers={"Set-Cookie": "c=d; Path=/"})
    for _ in range(2):
        with client.images.storage_get(f"{storage.url}/o/x?sig=abc%2Fd") as stream:
            list(stream)
        client.datasets.get("signs")
    for seen in storage.seen:
        names = {name.lower() for name in seen.headers}
        assert names.isdisjoint({"x-api-key", "cookie", "authorization", "idempotency-key"})
        assert seen.query == "sig=abc%2Fd"
    for seen in stub.seen:
        assert {name.lower() for name in seen.headers}.isdisjoint({"cookie", "authorization"})


def test_no_proxy_between_us_and_this_machine(
    stub: StubServer, storage: StubServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, storage.url)
    stub.answers.append(DATASET)
    client.datasets.get("signs")
    assert storage.seen == []


def test_other_hosts_go_through_the_proxy(
    storage: StubServer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", storage.url)
    storage.answers.append(Answer(body=b"x"))
    with client.images.storage_get("http://storage.example/x?sig=1") as stream:
        assert b"".join(stream) == b"x"
    assert KEY not in str(storage.seen)


@pytest.mark.parametrize(
    ("url", "base", "fine"),
    [
        ("https://s.example/x", "https://api.example", True),
        ("http://s.example/x", "https://api.example", False),
        ("http://s.example/x", "http://127.0.0.1:1", True),
        ("http://127.0.0.1/x", "https://api.example", True),
        ("ftp://s.example/x", "http://127.0.0.1:1", False),
        ("file:///etc/passwd", "http://127.0.0.1:1", False),
        ("/relative", "http://127.0.0.1:1", False),
        ("https:///x", "http://127.0.0.1:1", False),
        ("http://[::1", "http://127.0.0.1:1", False),
    ],
)
def test_which_storage_addresses_are_taken(url: str, base: str, fine: bool) -> None:
    with contextlib.nullcontext() if fine else pytest.raises(NetworkError, match="address"):
        assert checked_storage_url(url, base) == url


def _leaks(error: BaseException) -> list[str]:
    """Every line that shows the key in a traceback with local variables, this file's own frames left out."""
    told = ""
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is None:
            continue
        trace = link.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
            trace = trace.tb_next
        captured = traceback.TracebackException(type(link), link, trace, capture_locals=True)
        told += "".join(captured.format()) + repr(link) + str(link) + repr(vars(link)) + "\n"
        chain += [link.__cause__, link.__context__]
    return [line for line in told.splitlines() if KEY in line]


def _get(client: Client) -> object:
    return client.datasets.get("signs")


def _read(client: Client) -> object:
    with client.images.open_original("i1") as stream:
        return list(stream)


FAILURES: dict[str, tuple[Answer, Callable[[Client], object]]] = {
    "quoted in JSON": (Answer(401, json={"error": {"message": f"bad key {KEY}", "details": KEY}}), _get),
    "quoted in text": (Answer(500, body=f"key {KEY}".encode()), _get),
    "quoted to a download": (Answer(404, json={"detail": KEY}), _read),
    "garbage": (Answer(200, body=b"<html>"), _get),
    "reset": (Answer(reset=True), _get),
    "broken off": (Answer(json={"data": 1}, cut_after=3), _get),
    "silence": (Answer(hold=threading.Event()), _get),
    "not sent": (Answer(), lambda client: client.datasets.create("\ud800")),
    "short download": (Answer(body=b"12345", cut_after=3), _read),
    "reset download": (Answer(body=b"1" * 100_000, cut_after=70_000, reset=True), _read),
}


@pytest.mark.parametrize("name", FAILURES)
def test_no_exception_shows_the_key(stub: StubServer, caplog: pytest.LogCaptureFixture, name: str) -> None:
    caplog.set_level(logging.DEBUG)
    answer, act = FAILURES[name]
    stub.default = lambda _seen: answer
    with (
        Client(KEY, base_url=stub.url, timeout_s=0.2, max_retries=1, backoff_base_s=0.001) as client,
        pytest.raises(errors.PictographError) as caught,
    ):
        act(client)
    if answer.hold:
        answer.hold.set()
    assert _leaks(caught.value) == []
    assert KEY not in caplog.text
    assert caplog.records or name == "not sent"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
def test_an_interruption_deep_inside_shows_no_key(
    client: Client, monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise interruption

    # Where the header bytes are a local variable of http.client's.
    monkeypatch.setattr("urllib3.connection.HTTPConnection.connect", interrupted)
    with pytest.raises(interruption) as caught:
        client.datasets.get("signs")
    assert _leaks(caught.value) == []


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize(
    "arguments", [{"base_url": "http://api.example"}, {"base_url": "nonsense"}, {"profile": "nobody"}]
)
def test_a_wrong_configuration_shows_no_key(
    arguments: dict[str, Any], explicit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICTOGRAPH_API_KEY", KEY)
    with pytest.raises(errors.ConfigurationError) as caught:
        Client(KEY if explicit else None, **arguments)
    assert _leaks(caught.value) == []


def test_a_key_prints_masked_and_is_not_pickled(client: Client) -> None:
    secret = Secret(KEY)
    assert str(secret) == f"{secret}" == "pk_live_…p7cJ"
    assert KEY not in repr(secret) + repr(client) + repr(vars(client)) + repr([secret])
    assert str(Secret("short")) == "…"
    assert secret == Secret(KEY)
    assert len({secret, Secret(KEY), Secret("other")}) == 2
    with pytest.raises(TypeError):
        pickle.dumps(secret)
