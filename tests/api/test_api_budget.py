"""What requests are for, and when those that nobody waits for must stop."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import pictofs.api
from pictofs.api.budget import Allowance, Budget, BudgetMeter, Reason, because, reason_of

ROUTES = {
    "GET /organizations/me": Reason.BROWSING,
    "GET /datasets/": Reason.BROWSING,
    "GET /datasets/{dataset}": Reason.BROWSING,
    "GET /datasets/{dataset}/download": Reason.READING,
    "POST /datasets/": Reason.CHANGING,
    "PATCH /datasets/{dataset}": Reason.CHANGING,
    "POST /datasets/{dataset}/archive": Reason.CHANGING,
    "POST /datasets/{dataset}/unarchive": Reason.CHANGING,
    "DELETE /datasets/{dataset}": Reason.CHANGING,
    "GET /directories/{dataset}": Reason.BROWSING,
    "POST /directories/": Reason.CHANGING,
    "PATCH /directories/{dataset}/{directory_path}/rename": Reason.CHANGING,
    "DELETE /directories/{dataset}/{directory_path}": Reason.CHANGING,
    "GET /images/": Reason.BROWSING,
    "GET /images/{image}/metadata": Reason.BROWSING,
    "GET /images/{image}": Reason.READING,
    "GET {url}": Reason.READING,
    "HEAD {url}": Reason.READING,
    "POST /images/upload-url": Reason.UPLOADING,
    "POST /images/register": Reason.UPLOADING,
    "POST /images/bulk-upload-url": Reason.UPLOADING,
    "POST /images/bulk-register": Reason.UPLOADING,
    "POST /images/bulk-tag": Reason.CHANGING,
    "POST /images/{dataset}/{image_path}/split": Reason.CHANGING,
    "DELETE /images/{dataset}/{image_path}": Reason.CHANGING,
    "POST /batch/images/move": Reason.CHANGING,
    "POST /batch/images/copy": Reason.CHANGING,
    "POST /batch/images/copy-to-dataset": Reason.CHANGING,
    "POST /batch/images/delete": Reason.CHANGING,
    "PATCH /batch/images/update": Reason.CHANGING,
}


@pytest.mark.parametrize(("route", "reason"), ROUTES.items())
def test_each_route_has_a_reason(route: str, reason: Reason) -> None:
    assert reason_of(route) is reason


def test_no_route_of_the_client_is_missing_above() -> None:
    found = set()
    for path in Path(pictofs.api.__file__).parent.glob("*.py"):
        found |= set(
            re.findall(r'"(/(?:organizations|datasets|directories|images|batch)/[^"\s]*)"', path.read_text())
        )
    assert found <= {route.partition(" ")[2] for route in ROUTES}


def test_a_thread_may_say_what_it_asks_for() -> None:
    now = [3_600_000.0]
    meter = BudgetMeter(lambda: now[0])
    meter.count("GET /images/", None)
    with because(Reason.REFRESHING):
        meter.count("GET /images/", None)
        with because(Reason.PREFETCHING):
            meter.count("GET /images/", None)
        meter.count("POST /datasets/", None)
    meter.count("POST /datasets/", None)
    counted = {Reason.BROWSING: 1, Reason.REFRESHING: 2, Reason.PREFETCHING: 1, Reason.CHANGING: 1}
    assert meter.snapshot().by_reason == counted
    assert meter.snapshot().used == 5
    now[0] += 3_660
    assert meter.snapshot().by_reason == {}


@pytest.mark.parametrize(
    ("limit", "remaining", "pause_s", "refresh", "prefetch"),
    [
        (None, None, 0, True, True),
        (2000, None, 0, True, True),
        (2000, 200, 0, True, True),
        (2000, 199, 0, False, True),
        (2000, 40, 0, False, True),
        (2000, 39, 0, False, False),
        (2000, 2000, 1, False, False),
    ],
)
def test_what_nobody_waits_for_stops_in_time(
    limit: int | None, remaining: int | None, pause_s: float, refresh: bool, prefetch: bool
) -> None:
    budget = Budget(0, limit, remaining, None, {}, {}, pause_s)
    allowance = Allowance(lambda: budget)
    assert (allowance.may_refresh(), allowance.may_prefetch()) == (refresh, prefetch)
