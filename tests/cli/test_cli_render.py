"""Golden texts: what scripts and people read when nobody is at a terminal."""

from __future__ import annotations

import dataclasses
import io
from textwrap import dedent

import pytest
from rich.console import Console

from pictofs.cli import render
from pictofs.cli.terminal import printable
from pictofs.mount.status import NOTHING, Budget, Cache, Problem, StatusReport, Tally, Uploads, Waiting
from pictofs.mount.uploads import UploadRow

NOW_S = 1_700_000_000.0
MIB = 2**20

IDLE = StatusReport(
    mounted=True,
    account="Ada's Lab on api.pictograph.io",
    mountpoint="/home/ada/Pictograph",
    cache=Cache(1_288_490_189, 10 * 2**30),
    budget=Budget(120, 2000, 1880, NOW_S + 1920, {}, {"reading": 30, "browsing": 90}),
)
BUSY = dataclasses.replace(
    IDLE,
    uploads=Uploads(
        being_written=1,
        queued=Tally(30, 90 * MIB),
        sending=Tally(8, 24 * MIB),
        landed=Tally(12, 36 * MIB),
        removals=3,
        rate_bytes_per_s=2.5 * MIB,
        left_s=45.6,
    ),
)
STUCK = dataclasses.replace(
    IDLE,
    budget=Budget(3),
    cache=None,
    uploads=Uploads(
        queued=Tally(1, 500),
        failed=Tally(1, 2 * MIB),
        held=Tally(1, 12),
        waiting=Waiting("the server cannot be reached", since_s=NOW_S - 185),
    ),
    problems=(
        Problem(4, "birds/a.jpg", "failed", "a file of this name is on the server already", 2 * MIB),
        Problem(5, "birds/\x1b[2Jb.jpg", "held", "ends early: no JPEG end marker", 12),
    ),
    problems_total=2,
)


@pytest.mark.parametrize(
    ("report", "text"),
    [
        (
            IDLE,
            """\
            /home/ada/Pictograph (Ada's Lab on api.pictograph.io)
              Everything is on the server.
              requests    1,880 of 2,000 left, resets in 32 min
                          120 sent in the last hour (90 browsing, 30 reading)
              cache       1.2 GiB of 10 GiB""",
        ),
        (
            BUSY,
            """\
            /home/ada/Pictograph (Ada's Lab on api.pictograph.io)
              38 files (114 MiB) going up, safe on this disk until then.
              going up    8 sending, 30 queued; 114 MiB at 2.5 MiB/s, about 46 s left
              open        1 file being written
              landed      12 files (36 MiB) since the mount
              removing    3 images
              requests    1,880 of 2,000 left, resets in 32 min
                          120 sent in the last hour (90 browsing, 30 reading)
              cache       1.2 GiB of 10 GiB""",
        ),
        (
            STUCK,
            """\
            /home/ada/Pictograph (Ada's Lab on api.pictograph.io)
              2 files need your attention (1 failed, 1 held). 1 more file on the way.
              going up    0 sending, 1 queued; 500 B
              waiting     the server cannot be reached, for 3 min now
              failed      1 file (2 MiB)
              held        1 file (12 B)
              requests    3 sent in the last hour

              failed #4 birds/a.jpg
                  a file of this name is on the server already
              held #5 birds/\\x1b[2Jb.jpg
                  ends early: no JPEG end marker
              To resolve: rename the file, or `pictofs uploads retry`, `discard` or `export`.""",
        ),
        (
            StatusReport(mounted=False, account="Ada's Lab", uploads=Uploads(queued=Tally(2, 2048))),
            """\
            Ada's Lab (not mounted)
              2 files (2 KiB) wait safely on this disk; mount the drive to send on.
              going up    0 sending, 2 queued; 2 KiB""",
        ),
    ],
)
def test_status(report: StatusReport, text: str) -> None:
    assert render.status_text(report, NOW_S) == dedent(text)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        (Budget(9, 100, 9), "few are left: nothing is refreshed in the background"),
        (Budget(9, 100, 0, pause_s=90), "none until the server allows more, in 2 min"),
        (Budget(9, 100, 10), None),
    ],
)
def test_a_low_budget_says_what_it_means(budget: Budget, words: str | None) -> None:
    lines = render.status_text(dataclasses.replace(IDLE, cache=None, budget=budget), NOW_S).splitlines()
    assert lines[4:] == ([] if words is None else [f"              {words}"])


def test_a_terminal_sees_the_same_words() -> None:
    for report in (IDLE, BUSY, STUCK):
        out = io.StringIO()
        Console(file=out, width=200, force_terminal=True, color_system=None).print(
            render.status_rich(report, NOW_S)
        )
        shown = out.getvalue()
        assert "\x1b[2J" not in shown
        for line in render.status_text(report, NOW_S).splitlines():
            for words in line.strip().split("   "):
                assert words.strip() in shown


def test_a_terminal_gets_a_bar_of_what_goes_up_since_it_looks() -> None:
    def bar(before: Tally) -> tuple[int, int]:
        out = io.StringIO()
        terminal = Console(file=out, width=100, force_terminal=True, color_system="truecolor")
        terminal.print(render.status_rich(BUSY, NOW_S, before))
        line = next(line for line in out.getvalue().splitlines() if "━" in line)
        done = line.split("\x1b[38")[1]
        return done.count("━"), line.count("━")

    assert bar(NOTHING)[0] == 40 * 36 // (36 + 114)
    assert bar(Tally(12, 36 * MIB))[0] == 40  # nothing yet: the bar is all to come


def test_many_problems_are_cut_with_a_hint() -> None:
    problems = tuple(Problem(n, f"birds/{n}.jpg", "held", "why", 1) for n in range(100))
    text = render.status_text(dataclasses.replace(STUCK, problems=problems, problems_total=250), NOW_S)
    assert "… and 230 more: `pictofs uploads list`" in text
    assert text.count("held #") == 20


def test_uploads() -> None:
    rows = [
        UploadRow(9, "birds/a.jpg", "sending", None, 3 * MIB, 0, 1, "/s/9"),
        UploadRow(10, "birds/\u202eb.jpg", "failed", "too large\nfor the server", 60 * MIB, 0, 2, "/s/10"),
    ]
    assert render.uploads_text(rows, 7).splitlines() == [
        " 9  sending     3 MiB  birds/a.jpg",
        "10  failed     60 MiB  birds/\\u202eb.jpg",
        "                       too large\\nfor the server",
        "… and 5 more",
    ]
    assert render.uploads_text([], 0) == "Nothing is pending, held or failed."


def test_printable() -> None:
    assert printable("grün 🐦 a b") == "grün 🐦 a b"
    assert printable("\x1b]0;x\x07\udcff\n") == "\\x1b]0;x\\x07\\udcff\\n"


def test_a_cache_that_takes_nothing_is_said_to() -> None:
    cache = Cache(0, 10 * 2**30, "/cache: No space left on device; make room on that disk.")
    lines = render.status_text(dataclasses.replace(IDLE, cache=cache), NOW_S).splitlines()
    assert [line.strip() for line in lines[-2:]] == [
        "cache       0 B of 10 GiB",
        f"takes nothing, images are read without it: {cache.trouble}",
    ]
