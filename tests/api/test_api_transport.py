"""Retries, timeouts, where the key goes, and how failures come out, against a scripted server."""

from __future__ import annotations

import email.utils
import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from stub_server import KEY, Answer, StubServer, dataset_row, image_row

from pictofs import Client
from pictofs.api.budget import BudgetMeter
from pictofs.api.errors import (
    ApiError,
    AuthError,
    ConflictError,
    ForbiddenError,
    NetworkError,
    NotFoundError,
    PaymentRequiredError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    ValidationError,
)
from pictofs.api.models import NewImage
from pictofs.api.transport.wire import fill

DATASET = Answer(json={"data": dataset_row()})
API = "/api/v1/developer"


# --- retries -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_transient_statuses_are_tried_again_under_one_idempotency_key(
    stub: StubServer, client: Client, status: int
) -> None:
    stub.answers += [Answer(status), Answer(status), DATASET]
    assert client.datasets.create("signs").name == "signs"
    keys = [seen.headers.get("Idempotency-Key") for seen in stub.seen]
    assert len(keys) == 3
    assert len(set(keys)) == 1
    assert keys[0]
    assert client.budget.by_route == {"POST /datasets/": 3}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 415, 422, 501])
def test_other_statuses_are_final(stub: StubServer, client: Client, status: int) -> None:
    stub.answers += [Answer(status, headers={"Retry-After": "0"}), DATASET]
    with pytest.raises(ApiError):
        client.datasets.get("signs")
    assert len(stub.seen) == 1


def test_gives_up_after_the_retries_and_quotes_the_request_id(stub: StubServer, client: Client) -> None:
    stub.default = lambda _seen: Answer(503, json={"detail": "down"}, headers={"X-Request-Id": "r-7"})
    with pytest.raises(ServerError, match=r"down \(HTTP 503, request r-7\)") as caught:
        client.datasets.get("signs")
    assert (caught.value.status, caught.value.request_id) == (503, "r-7")
    assert len(stub.seen) == 4
    assert client.budget.used == 4


def test_a_connection_that_breaks_is_tried_again(stub: StubServer, client: Client) -> None:
    stub.answers += [Answer(reset=True), DATASET]
    assert client.datasets.get("signs").id == "d1"
    assert client.budget.by_route == {"GET /datasets/{dataset}": 2}


@pytest.mark.parametrize("reset", [False, True])
def test_an_answer_that_breaks_off_is_asked_for_again(stub: StubServer, client: Client, reset: bool) -> None:
    broken = Answer(json={"data": dataset_row()}, cut_after=20, reset=reset)
    stub.answers += [broken, broken, DATASET]
    assert client.datasets.rename("signs", "new").id == "d1"
    assert len({seen.headers["Idempotency-Key"] for seen in stub.seen}) == 1
    stub.default = lambda _seen: broken
    with pytest.raises(NetworkError):
        client.datasets.get("signs")
    assert len(stub.seen) == 3 + 4
    assert client.budget.used == 7


def test_breaking_off_and_bad_statuses_share_the_attempts(stub: StubServer, client: Client) -> None:
    broken = Answer(json={"data": dataset_row()}, cut_after=20)
    stub.default = lambda _seen: broken if len(stub.seen) % 2 else Answer(503)
    with pytest.raises((NetworkError, ServerError)):
        client.datasets.get("signs")
    assert len(stub.seen) == 4


def test_a_server_that_is_not_there() -> None:
    with StubServer() as gone:
        url = gone.url
    with Client(KEY, base_url=url, backoff_base_s=0.001) as client:
        with pytest.raises(NetworkError, match="Connection refused") as caught:
            client.datasets.get("signs")
        assert not isinstance(caught.value, RequestTimeoutError)
        assert client.budget.used == 0  # no request got there


def test_an_unknown_host() -> None:
    with (
        Client(KEY, base_url="https://pictofs-no-such-host.invalid", max_retries=0) as client,
        pytest.raises(NetworkError),
    ):
        client.datasets.list()


def test_a_short_retry_after_is_waited_for(stub: StubServer, client: Client) -> None:
    stub.answers += [Answer(429, headers={"Retry-After": "0.05"}), DATASET]
    before = time.monotonic()
    client.datasets.get("signs")
    assert time.monotonic() - before >= 0.05


@pytest.mark.parametrize("dated", [False, True])
def test_a_long_retry_after_is_the_callers(stub: StubServer, client: Client, dated: bool) -> None:
    wait = email.utils.formatdate(time.time() + 500, usegmt=True) if dated else "500"
    stub.answers += [Answer(429, json={"detail": "slow down"}, headers={"Retry-After": wait})]
    with pytest.raises(RateLimitError) as caught:
        client.datasets.get("signs")
    assert caught.value.retry_after == pytest.approx(500, abs=3)
    assert len(stub.seen) == 1


def test_a_queue_gets_a_429_at_once_and_shares_connections_and_budget(
    stub: StubServer, client: Client
) -> None:
    queue = client.with_retries(1, retry_after_limit_s=0)
    stub.answers.append(Answer(429, headers={"Retry-After": "0.2"}))
    for _ in range(2):  # the second is not even sent
        with pytest.raises(RateLimitError) as caught:
            queue.datasets.get("signs")
        assert caught.value.retry_after_s
    assert len(stub.seen) == 1
    stub.answers += [Answer(503), DATASET]
    assert client.datasets.get("signs").id == "d1"  # waits for the end of the pause
    stub.answers += [DATASET]
    assert queue.datasets.get("signs").id == "d1"
    assert client.budget.used == queue.budget.used == 4


def test_a_garbled_retry_after_is_ignored(stub: StubServer, client: Client) -> None:
    stub.answers += [Answer(429, headers={"Retry-After": "soon"}), DATASET]
    assert client.datasets.get("signs").id == "d1"


def test_closing_ends_a_wait(stub: StubServer) -> None:
    stub.default = lambda _seen: Answer(429, headers={"Retry-After": "100"})
    client = Client(KEY, base_url=stub.url)
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            client.datasets.get("signs")
        except NetworkError as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    assert stub.asked.wait(5)
    client.close()
    thread.join(5)
    assert not thread.is_alive()
    assert "closed" in str(failures[0])
    with pytest.raises(NetworkError, match="closed"):
        client.datasets.get("signs")
    assert len(stub.seen) == 1


def test_silence_is_a_timeout(stub: StubServer) -> None:
    hold = threading.Event()
    stub.default = lambda _seen: Answer(json={}, hold=hold)
    with (
        Client(KEY, base_url=stub.url, timeout_s=0.1, max_retries=1, backoff_base_s=0.001) as client,
        pytest.raises(RequestTimeoutError),
    ):
        client.datasets.get("signs")
    hold.set()
    assert len(stub.seen) == 2


def test_silence_in_the_middle_of_an_answer_is_a_timeout(stub: StubServer) -> None:
    hold = threading.Event()
    stub.default = lambda _seen: Answer(json={"data": dataset_row()}, cut_after=5, hold=hold)
    with (
        Client(KEY, base_url=stub.url, timeout_s=0.1, max_retries=0) as client,
        pytest.raises(RequestTimeoutError),
    ):
        client.datasets.get("signs")
    hold.set()


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, ValidationError),
        (415, ValidationError),
        (422, ValidationError),
        (401, AuthError),
        (402, PaymentRequiredError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (409, ConflictError),
        (413, ApiError),
        (418, ApiError),
        (501, ServerError),
        (302, ServerError),
    ],
)
def test_every_status_has_its_exception(
    stub: StubServer, client: Client, status: int, kind: type[ApiError]
) -> None:
    stub.answers.append(
        Answer(status, json={"error": {"code": "c", "message": "words", "details": {"n": 1}}})
    )
    with pytest.raises(ApiError) as caught:
        client.datasets.get("signs")
    assert type(caught.value) is kind
    assert caught.value.status == status
    if status != 302:
        assert (caught.value.message, caught.value.code, caught.value.details) == ("words", "c", {"n": 1})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"detail": "older words"}', "older words"),
        (b'{"detail": {"message": "nested"}}', "nested"),
        (b'{"detail": [{"loc": ["body", "name"], "msg": "too long"}]}', "body.name: too long"),
        (b'{"error": "flat"}', "flat"),
        (b'{"error": {}, "detail": "both"}', "both"),
        (b"<html>no JSON</html>", "Conflict"),
        (b'["a list"]', "Conflict"),
        (b"\xff\xfe", "Conflict"),
        (b"", "Conflict"),
    ],
)
def test_the_words_of_an_error(stub: StubServer, client: Client, body: bytes, message: str) -> None:
    stub.answers.append(Answer(409, body=body))
    with pytest.raises(ConflictError) as caught:
        client.datasets.get("signs")
    assert caught.value.message == message


def test_a_400_that_says_already_exists_is_a_conflict(stub: StubServer, client: Client) -> None:
    stub.answers.append(Answer(400, json={"detail": "An image named a.jpg already exists"}))
    with pytest.raises(ConflictError):
        client.datasets.get("signs")


@pytest.mark.parametrize(
    "body", [b"<html>", b"\xff", b"[]", b"{}", b'{"data": {"name": "no id"}}', b"", b'"x"', b"[" * 100_000]
)
def test_a_success_that_makes_no_sense_is_a_server_error(
    stub: StubServer, client: Client, body: bytes
) -> None:
    stub.answers.append(Answer(200, body=body, headers={"X-Request-Id": "r-1"}))
    with pytest.raises(ServerError, match="r-1"):
        client.datasets.get("signs")


def test_an_empty_success_is_enough_where_nothing_is_wanted(stub: StubServer, client: Client) -> None:
    stub.answers.append(Answer(204))
    client.directories.delete("signs", "/a")


# --- addresses -----------------------------------------------------------------------------------

HOSTILE = {
    "a/b.jpg": "a%2Fb.jpg",
    "?q=1#f": "%3Fq%3D1%23f",
    "100%": "100%25",
    "%2e%2e": "%252e%252e",
    "..": "%2E%2E",
    ".": "%2E",
    "../../x": "..%2F..%2Fx",
    "Grüße 🎈": "Gr%C3%BC%C3%9Fe%20%F0%9F%8E%88",
    "a+b&c=d;e": "a%2Bb%26c%3Dd%3Be",
    "\0\n": "%00%0A",
    "https://evil.example/": "https%3A%2F%2Fevil.example%2F",
}


@pytest.mark.parametrize(("name", "encoded"), HOSTILE.items())
def test_names_stay_names_on_the_wire(stub: StubServer, client: Client, name: str, encoded: str) -> None:
    stub.default = lambda _seen: DATASET
    client.datasets.get(name)
    assert stub.seen[-1].path == f"{API}/datasets/{encoded}"
    stub.default = lambda _seen: Answer(json={"data": []})
    client.images.list("d", filename=name, directory_path=f"/{name}")
    assert stub.seen[-1].parameters["filename"] == name
    assert stub.seen[-1].parameters["directory_path"] == f"/{name}"


def test_slashes_separate_only_in_paths() -> None:
    assert (
        fill("/x/{directory_path}/rename", {"directory_path": "/a b/../ü/"})
        == "/x/a%20b/%2E%2E/%C3%BC/rename"
    )
    assert fill("/x/{image}", {"image": "/a/"}) == "/x/%2Fa%2F"


@pytest.mark.parametrize("value", ["", "\udc80", "a\ud800b"])
def test_what_cannot_be_sent_is_refused_before_sending(stub: StubServer, client: Client, value: str) -> None:
    new = NewImage(value or "\ud800", "/", "image/jpeg", 1)
    calls: list[Callable[[], object]] = [
        lambda: client.datasets.get(value),
        lambda: client.directories.delete("d", value),
        lambda: client.images.list("d", filename=value or "\ud800"),
        lambda: client.images.register("d", new),
    ]
    for call in calls:
        with pytest.raises(ValidationError) as caught:
            call()
        assert caught.value.status == 0
        assert "HTTP" not in str(caught.value)
        str(caught.value).encode()
    assert stub.seen == []


# --- the budget ----------------------------------------------------------------------------------


def test_the_budget_is_read_from_every_answer(stub: StubServer, client: Client) -> None:
    reset = time.time() + 100
    left = itertools.count(98, -1)

    def answer(_seen: Any) -> Answer:
        headers = {
            "X-RateLimit-Limit": "100",
            "X-RateLimit-Remaining": str(next(left)),
            "X-RateLimit-Reset": str(int(reset)),
        }
        return Answer(json={"data": image_row()}, headers=headers)

    stub.default = answer
    assert client.budget.remaining is None
    client.images.get("i1")
    client.images.get("i2")
    budget = client.budget
    assert (budget.used, budget.limit, budget.remaining, budget.reset_at) == (2, 100, 97, int(reset))
    assert budget.by_route == {"GET /images/{image}/metadata": 2}


def test_the_budget_forgets_after_an_hour() -> None:
    now = [3_600_000.0]
    meter = BudgetMeter(lambda: now[0])
    headers = {"X-RateLimit-Limit": "10", "X-RateLimit-Remaining": "1", "X-RateLimit-Reset": f"{now[0] + 60}"}
    meter.count("GET /x", headers)
    now[0] += 61
    meter.count("GET /x", None)
    assert meter.snapshot().used == 2
    assert meter.snapshot().remaining is None  # the window that was said to be nearly used up is over
    now[0] += 3_550
    assert meter.snapshot().used == 1
    now[0] += 3_600
    assert meter.snapshot().used == 0
    assert meter.snapshot().by_route == {"GET /x": 2}


def test_many_threads_share_a_client(stub: StubServer, client: Client) -> None:
    stub.default = lambda seen: Answer(json={"data": image_row(seen.path.split("/")[-2])})
    wrong: list[str] = []

    def ask(number: int) -> None:
        for turn in range(10):
            identity = f"i{number}-{turn}"
            if client.images.get(identity).id != identity:
                wrong.append(identity)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert client.budget.used == 120
