"""The status report: what it says in one sentence, and that its JSON form carries all of it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from journal_fakes import FakeJournal, path_of, upload

from pictofs.mount.status import (
    MAX_PROBLEMS,
    Budget,
    Cache,
    Refused,
    ReportError,
    StatusReport,
    Tally,
    Waiting,
    collect,
)
from pictofs.transfer.records import State, Upload

NOW_S = 1_700_000_000.0


def report(*rows: Upload, mountpoint: str | None = "/mnt", **more: Any) -> StatusReport:
    return collect(FakeJournal(*rows), account="Lab", path_of=path_of, mountpoint=mountpoint, **more)


QUEUED = upload(1)
SENDING = upload(2, State.SENDING, size_bytes=3000)
DONE = upload(3, State.DONE)
FAILED = upload(4, State.FAILED, reason="this name is taken", errno=17)
HELD = upload(5, State.HELD, reason="not a readable image")


@pytest.mark.parametrize(
    ("found", "headline", "safe"),
    [
        (report(), "Everything is on the server.", True),
        (report(DONE), "Everything is on the server.", True),
        (
            report(being_written=2),
            "Everything closed is on the server; 2 files being written.",
            True,
        ),
        (report(QUEUED), "1 file (1000 B) going up, safe on this disk until then.", False),
        (report(QUEUED, SENDING), "2 files (3.91 KiB) going up, safe on this disk until then.", False),
        (
            report(QUEUED, waiting=Waiting("the server cannot be reached", since_s=NOW_S - 180)),
            "1 file (1000 B) waits safely on this disk: the server cannot be reached, for 3 min now.",
            False,
        ),
        (
            report(QUEUED, SENDING, waiting=Waiting("the request budget is used up", until_s=NOW_S + 720)),
            "2 files (3.91 KiB) wait safely on this disk: the request budget is used up, goes on in 12 min.",
            False,
        ),
        (
            report(QUEUED, mountpoint=None),
            "1 file (1000 B) waits safely on this disk; mount the drive to send on.",
            False,
        ),
        (report(FAILED), "1 file needs your attention (1 failed).", False),
        (
            report(FAILED, HELD, QUEUED),
            "2 files need your attention (1 failed, 1 held). 1 more file on the way.",
            False,
        ),
        (report(removals=2), "2 removals still to be told to the server.", False),
        (report(removals=2, changes=1), "3 changes still to be told to the server.", False),
    ],
)
def test_the_state_in_one_sentence(found: StatusReport, headline: str, safe: bool) -> None:
    assert found.headline(NOW_S) == headline
    assert found.safe is safe


def test_time_left_follows_the_rate_and_is_unknown_while_nothing_moves() -> None:
    moving = report(QUEUED, SENDING, rate_bytes_per_s=2000.0)
    assert moving.uploads.left_s == 2.0
    standing = report(QUEUED, rate_bytes_per_s=2000.0, waiting=Waiting("the server cannot be reached"))
    assert (standing.uploads.rate_bytes_per_s, standing.uploads.left_s) == (None, None)
    idle = report(rate_bytes_per_s=2000.0, waiting=Waiting("the server cannot be reached"))
    assert (idle.uploads.rate_bytes_per_s, idle.uploads.waiting) == (None, None)


def test_problems_are_failed_first_and_bounded() -> None:
    found = report(HELD, FAILED, *(upload(100 + n, State.HELD) for n in range(200)))
    assert [(p.id, p.path, p.state, p.reason) for p in found.problems[:2]] == [
        (4, "birds/day/4.jpg", "failed", "this name is taken"),
        (5, "birds/day/5.jpg", "held", "not a readable image"),
    ]
    assert (len(found.problems), found.problems_total) == (MAX_PROBLEMS, 202)


def test_rows_are_only_listed_when_something_is_stuck() -> None:
    """`status` is polled while 10,000 files go up; counting them is enough."""

    class CountsOnly(FakeJournal):
        def pending(self) -> list[Upload]:
            raise AssertionError("not needed")

    found = collect(CountsOnly(QUEUED, SENDING), account="Lab", path_of=path_of)
    assert found.uploads.under_way == Tally(2, 4000)


def test_json_carries_all_of_it() -> None:
    found = report(
        QUEUED,
        SENDING,
        FAILED,
        HELD,
        removals=1,
        changes=2,
        refused=[Refused("/birds/a.jpg", "move", "it is locked")],
        being_written=3,
        landed=Tally(12, 34),
        rate_bytes_per_s=10.0,
        budget=Budget(120, 2000, 1880, NOW_S + 60, {"GET /datasets/": 2}),
        cache=Cache(5, 10, "/cache: full; make room on that disk."),
        pid=77,
        started_s=NOW_S,
    )
    data = json.loads(json.dumps(found.to_json(NOW_S)))
    assert StatusReport.from_json(data) == found
    assert StatusReport.from_json({**data, "added": "later"}) == found
    assert set(data) == {
        "version", "headline", "safe", "mounted", "mountpoint", "account", "pid", "started_s",
        "uploads", "problems", "problems_total", "refused", "budget", "cache",
    }  # fmt: skip
    assert data["version"] == 1
    assert data["uploads"]["failed"] == {"files": 1, "bytes": 1000}

    waiting = report(QUEUED, waiting=Waiting("no answer", since_s=1.0, until_s=2.0))
    assert StatusReport.from_json(waiting.to_json(NOW_S)) == waiting


@pytest.mark.parametrize("data", [{}, {"version": 2}, {"version": 1}, {"version": 1, "uploads": 3}])
def test_a_report_of_another_version(data: dict[str, object]) -> None:
    with pytest.raises(ReportError):
        StatusReport.from_json(data)
