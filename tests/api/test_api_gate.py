"""A rate limit is one pause for everybody: how many requests it costs, and who waits how long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from sandbox_process import SandboxProcess
from stub_server import KEY, Answer, Seen, StubServer, dataset_row

from pictofs import Client
from pictofs.api.errors import NetworkError, PictographError, RateLimitError
from pictofs.api.transport.failures import ClientClosedError
from pictofs.api.transport.gate import PROBE_S, ROOM_REQUESTS, TRICKLE_S, Gate

DATASET = Answer(json={"data": dataset_row()})


class Hour:
    """A gate on a clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0
        self.gate = Gate(lambda: self.now)

    def refused(self) -> RateLimitError:
        """What somebody without patience hears."""
        with pytest.raises(RateLimitError) as caught:
            self.gate.turn(0).enter()
        return caught.value


def test_an_open_gate_lets_everybody_in() -> None:
    hour = Hour()
    for _ in range(3):
        hour.gate.turn(0).enter()


def test_after_a_429_nobody_goes_then_one_alone_then_all() -> None:
    hour = Hour()
    first = hour.gate.turn(60)
    first.enter()
    assert first.refused(10)
    error = hour.refused()
    assert (error.status, error.retry_after_s, hour.gate.pause_s()) == (0, 10, 10)
    hour.now = 10
    first.enter()
    hour.refused()  # one is on its way
    first.answered(ROOM_REQUESTS)
    for _ in range(3):
        hour.gate.turn(0).enter()


def test_while_little_is_left_they_go_one_after_the_other() -> None:
    hour = Hour()
    first, second = hour.gate.turn(60), hour.gate.turn(0)
    first.enter()
    first.refused(10)
    hour.now = 10
    first.enter()
    first.answered(3)
    second.enter()
    hour.refused()
    second.answered(0)
    assert hour.refused().retry_after_s == TRICKLE_S  # nothing left: nobody spends a 429 on finding out
    hour.now += TRICKLE_S
    hour.gate.turn(0).enter()


def test_an_answer_from_before_the_pause_does_not_end_it() -> None:
    hour = Hour()
    early, late = hour.gate.turn(60), hour.gate.turn(60)
    early.enter()
    late.enter()
    late.refused(10)
    early.answered(500)
    hour.refused()


def test_one_that_fails_alone_lets_the_next_try() -> None:
    hour = Hour()
    first = hour.gate.turn(60)
    first.enter()
    first.refused(1)
    hour.now = 1
    first.enter()
    first.failed()
    hour.gate.turn(0).enter()


def test_a_very_long_pause_is_tested_now_and_then() -> None:
    hour = Hour()
    first = hour.gate.turn(5)
    first.enter()
    assert not first.refused(3000)  # the caller's patience does not reach so far
    assert hour.refused().retry_after_s == 3000
    hour.now = PROBE_S
    hour.gate.turn(0).enter()


def test_patience_is_for_all_waits_of_a_call_together() -> None:
    hour = Hour()
    turn = hour.gate.turn(15)
    turn.enter()
    assert turn.refused(10)
    hour.now = 10
    turn.enter()
    assert not turn.refused(10)


def test_closing_ends_the_wait() -> None:
    gate = Gate()
    gate.turn(0).refused(100)
    ended: list[type[BaseException]] = []

    def wait() -> None:
        try:
            gate.turn(1000).enter()
        except ClientClosedError as error:
            ended.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    gate.close()
    thread.join(5)
    assert ended == [ClientClosedError]


def at_once(count: int, ask: Callable[[int], object]) -> list[str]:
    """`ask` from so many threads at the same time; the types of what they raised."""
    start, wrong = threading.Barrier(count), []

    def run(number: int) -> None:
        start.wait(10)
        try:
            ask(number)
        except PictographError as error:
            wrong.append(type(error).__name__)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return wrong


def test_many_askers_spend_no_request_on_a_pause_that_is_known(stub: StubServer) -> None:
    stub.answers.append(Answer(429, headers={"Retry-After": "600", "X-Request-Id": "req_9"}))
    with Client(KEY, base_url=stub.url, retry_after_limit_s=1.0) as client:
        with pytest.raises(RateLimitError):
            client.datasets.get("signs")
        before = time.monotonic()
        wrong = at_once(30, lambda _: client.datasets.get("signs"))
        assert wrong == ["RateLimitError"] * 30
        assert time.monotonic() - before < 30
        assert len(stub.seen) == 1
        assert client.budget.used == 1
        with pytest.raises(RateLimitError, match="request req_9"):
            client.datasets.get("signs")
        assert client.budget.pause_s == pytest.approx(600, abs=5)


def test_a_429_during_many_requests_costs_one_each_and_one_more_per_pause(stub: StubServer) -> None:
    """20 are under way when the limit strikes; then one asks alone, twice in vain."""
    count, pauses = 20, 2
    lock = threading.Lock()
    told = threading.Barrier(count)
    asked = [0]

    def answer(_seen: Seen) -> Answer:
        with lock:
            asked[0] += 1
            number = asked[0]
        if number <= count:
            told.wait(10)
        if number <= count + pauses:
            return Answer(429, headers={"Retry-After": "0.1"})
        return DATASET

    stub.default = answer
    with Client(KEY, base_url=stub.url, backoff_base_s=0.001, max_connections=count) as client:
        assert at_once(count, lambda _: client.datasets.get("signs")) == []
    assert len(stub.seen) == count + pauses + count


def test_readers_and_listers_at_the_limit_of_a_sandbox_spend_a_bounded_number_of_requests() -> None:
    with SandboxProcess() as sandbox:
        sandbox.populate(dataset="photos", images=40)
        sandbox.faults(rate_limit=6, rate_window_s=1.5)
        with Client(sandbox.api_key, base_url=sandbox.base_url) as client:
            ids = [image.id for image in client.datasets.contents("photos")[1]][:12]
            sandbox.reset_stats()

            def ask(number: int) -> None:
                if number % 2:
                    client.images.list("photos")
                else:
                    with client.images.open_original(ids[number // 2]) as stream:
                        assert b"".join(stream)

            assert at_once(24, ask) == []
            by_status = sandbox.stats()["api"]["by_status"]
        # Those that were under way when the limit struck, and now and then one that asked a little early.
        assert by_status["200"] == 24
        assert by_status.get("429", 0) <= 24 + 6


def test_a_closed_client_says_so_also_at_the_gate(stub: StubServer) -> None:
    stub.answers.append(Answer(429, headers={"Retry-After": "50"}))
    client = Client(KEY, base_url=stub.url, retry_after_limit_s=0)
    with pytest.raises(RateLimitError):
        client.datasets.get("signs")
    client.close()
    with pytest.raises(NetworkError, match="closed"):
        client.datasets.get("signs")
