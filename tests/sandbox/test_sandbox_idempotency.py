"""Idempotency-Key: the first answer again, and no second effect, whatever happens in between."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from sandbox_http import Http
from sandbox_process import SandboxProcess


def test_a_repeated_write_has_one_effect(http: Http, dataset: str, sandbox: SandboxProcess) -> None:
    http.put(dataset, "a.jpg", b"12345")
    first = http.register(dataset, "a.jpg", 5, key="once-1")
    again = http.register(dataset, "a.jpg", 5, key="once-1")
    assert (again.status_code, again.json()) == (200, first.json())
    assert again.headers["X-Request-Id"] != first.headers["X-Request-Id"]
    assert len(http.listing(dataset)) == 1
    assert sandbox.stats()["api"]["idempotent_replays"] == 1


def test_a_refusal_is_repeated_too(http: Http, dataset: str) -> None:
    first = http.register(dataset, "a.jpg", 5, key="refused-1")
    http.put(dataset, "a.jpg", b"12345")
    assert http.register(dataset, "a.jpg", 5, key="refused-1").json() == first.json()
    assert first.status_code == 400
    assert http.register(dataset, "a.jpg", 5, key="refused-2").status_code == 200


def test_a_key_belongs_to_one_request(http: Http, dataset: str) -> None:
    http.put(dataset, "a.jpg", b"12345")
    assert http.register(dataset, "a.jpg", 5, key="one-1").status_code == 200
    other = http.register(dataset, "b.jpg", 5, key="one-1")
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
    elsewhere = http("POST", "/datasets/", json={"name": "x y z"}, headers={"Idempotency-Key": "one-1"})
    assert elsewhere.status_code == 422


def test_concurrent_writes_with_one_key_have_one_effect(
    http: Http, dataset: str, sandbox: SandboxProcess
) -> None:
    http.put(dataset, "a.jpg", b"12345")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: http.register(dataset, "a.jpg", 5, key="together-1"), range(16)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["data"]["id"] for answer in answers}) == 1
    assert sandbox.stats()["api"]["idempotent_replays"] == 15


def test_a_lost_answer_can_be_asked_for_again_after_a_kill(tmp_path: object) -> None:
    with SandboxProcess() as sandbox:
        sandbox.populate(dataset="d")
        http = Http(sandbox)
        with http.session:
            http.put("d", "a.jpg", b"12345")
            sandbox.faults(next=[{"match": "POST /images/register", "action": "reset_after"}])
            try:
                http.register("d", "a.jpg", 5, key="lost-1")
            except OSError:  # requests' exceptions are
                pass
            else:
                raise AssertionError("the answer was to be lost")
            sandbox.kill()
            sandbox.restart()
            answer = http.register("d", "a.jpg", 5, key="lost-1")
            assert answer.status_code == 200
            (row,) = http.listing("d")
            assert row["id"] == answer.json()["data"]["id"]
            assert http.original(row["id"]) == b"12345"
