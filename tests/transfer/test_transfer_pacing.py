"""Waits and pauses, on a fake clock."""

from __future__ import annotations

import pytest
from transfer_fakes import FakeClock

from pictofs.transfer.pacing import Backoff, Health, RateMeter, rested_s
from pictofs.transfer.refusals import isolate


@pytest.fixture
def health(clock: FakeClock) -> Health:
    return Health(clock.clock, Backoff(base_s=1, cap_s=60, uniform=lambda low, high: high))


def test_backoff_doubles_up_to_its_cap_with_jitter() -> None:
    backoff = Backoff(base_s=1, cap_s=60, uniform=lambda low, high: high)
    assert [backoff.delay_s(n) for n in (1, 2, 3, 7, 8, 10**6)] == [1, 2, 4, 60, 60, 60]
    delays = {Backoff().delay_s(5) for _ in range(50)}
    assert len(delays) > 40
    assert all(6 <= delay <= 8 for delay in delays)


def test_failures_at_one_moment_are_one(health: Health, clock: FakeClock) -> None:
    for _ in range(8):
        health.failed("gone")
    assert health.pause_s() == 1
    clock.advance(1)
    health.failed("gone")
    assert health.pause_s() == 2


def test_a_pause_is_told_since_when_and_until(health: Health, clock: FakeClock) -> None:
    started_ns = clock.clock.wall_ns()
    health.failed("gone")
    clock.advance(1)
    health.failed("still gone")
    pause = health.pause
    assert pause is not None
    assert (pause.reason, pause.since_ns) == ("still gone", started_ns)
    assert pause.until_ns == started_ns + 3 * 10**9
    health.ok()
    assert (health.pause, health.pause_s()) == (None, 0)


def test_patience(clock: FakeClock) -> None:
    health = Health(clock.clock, Backoff(), patience=3)
    health.failed("flaky")
    health.failed("flaky")
    health.ok()
    health.failed("flaky")
    health.failed("flaky")
    assert health.pause_s() == 0
    assert health.pause is None
    health.failed("down")
    assert health.pause_s() > 0


def test_a_pause_that_the_service_asks_for_needs_no_patience(clock: FakeClock) -> None:
    health = Health(clock.clock, Backoff(), patience=3)
    health.failed("slow down", wait_s=900)
    health.failed("slow down", wait_s=5)
    assert health.pause_s() == 900


@pytest.mark.parametrize(("delay_s", "step_s"), [(0.5, 0.0), (3.0, 1.0), (10.0, 8.0), (60.0, 32.0)])
def test_rests_end_together(delay_s: float, step_s: float) -> None:
    ends = {rested_s(1000 + n / 100, delay_s) for n in range(100)}
    assert all(end >= 1000 + delay_s for end in ends)
    assert max(ends) <= 1001 + delay_s + step_s
    if step_s:
        assert len(ends) <= 3


def test_the_rate_is_of_the_last_half_minute(clock: FakeClock) -> None:
    meter = RateMeter(clock.clock)
    assert meter.bytes_per_s() is None
    for _ in range(10):
        started_s = clock.now_s
        clock.advance(1)
        meter.add(started_s, 1000)
    assert meter.bytes_per_s() == pytest.approx(1000)
    clock.advance(100)
    assert meter.bytes_per_s() is None


def test_isolate_finds_the_guilty_and_sends_each_item_once_for_good() -> None:
    from pictofs.api.errors import ValidationError

    sent: list[int] = []

    def send(group: object) -> bool:
        assert isinstance(group, (list, range))
        if 7 in group or 40 in group:
            raise ValidationError("no", status=422)
        sent.extend(group)
        return True

    answers = list(isolate(range(64), send))
    guilty = [item for answer in answers if answer.error for item in answer.items]
    assert guilty == [7, 40]
    assert sorted(sent) == [n for n in range(64) if n not in (7, 40)]
