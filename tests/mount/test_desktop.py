"""Notices about failed uploads: each failure once, summed up, and never more than one a minute."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from journal_fakes import FakeJournal, path_of, upload

from pictofs.mount.desktop import INTERVAL_S, FailureNotices, sender
from pictofs.transfer.records import State


class Desk:
    def __init__(self, *failed: int) -> None:
        self.journal = FakeJournal()
        self.sent: list[tuple[str, str]] = []
        self.now = 0.0
        self.fail(*failed)
        self.notices = FailureNotices(
            self.journal, path_of, lambda *words: self.sent.append(words), clock=lambda: self.now
        )

    def fail(self, *numbers: int) -> None:
        for number in numbers:
            self.journal.rows[number] = upload(number, State.FAILED, reason="the name is taken")


def test_what_fails_together_is_one_notice() -> None:
    desk = Desk()
    desk.fail(1, 2, 3, 4, 5)
    desk.notices.look()
    desk.notices.look()
    ((title, text),) = desk.sent
    assert title == "5 files could not be uploaded"
    assert text.splitlines() == [
        *(f"birds/day/{number}.jpg: the name is taken" for number in (1, 2, 3)),
        "… and 2 more.",
        "They are safe on this disk. `pictofs status` says what to do.",
    ]


def test_within_a_minute_they_are_collected() -> None:
    desk = Desk()
    desk.fail(1)
    assert desk.notices.look() == 0
    desk.now = 10
    desk.fail(2)
    assert desk.notices.look() == INTERVAL_S - 10
    desk.fail(3)
    desk.now = INTERVAL_S
    desk.notices.look()
    assert [title for title, _ in desk.sent] == [
        "1 file could not be uploaded",
        "2 files could not be uploaded",
    ]


def test_what_had_failed_before_is_not_told_again_but_what_fails_again_is() -> None:
    desk = Desk(1)
    desk.notices.look()
    assert desk.sent == []
    desk.journal.rows[1] = dataclasses.replace(desk.journal.rows[1], state=State.QUEUED)
    desk.notices.look()
    desk.fail(1)
    desk.notices.look()
    assert len(desk.sent) == 1


def test_the_thread_is_woken_by_the_journal_and_ends() -> None:
    desk = Desk()
    desk.notices = FailureNotices(
        desk.journal,
        path_of,
        lambda *words: (desk.sent.append(words), desk.notices._stopping.set())[0],
        settle_s=0,
    )
    desk.notices.start()
    desk.fail(1)
    desk.notices.changed()
    assert desk.notices._stopping.wait(5)
    desk.notices.stop()
    assert len(desk.sent) == 1


def test_without_a_desktop_there_is_no_sender(tmp_path: Path) -> None:
    assert sender({"PATH": str(tmp_path), "DBUS_SESSION_BUS_ADDRESS": "unix:path=/x"}) is None
    program = tmp_path / "notify-send"
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$(dirname "$0")/told"\n')
    program.chmod(0o755)
    assert sender({"PATH": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}) is None
    (tmp_path / "bus").touch()
    send = sender({"PATH": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)})
    assert send is not None
    send("-1 file", "<b>a & b")
    assert (tmp_path / "told").read_text().splitlines()[-3:] == ["--", "-1 file", "&lt;b&gt;a &amp; b"]


@pytest.mark.parametrize("script", ["exit 1", "kill -9 $$"])
def test_a_desktop_that_fails_is_nobodys_trouble(tmp_path: Path, script: str) -> None:
    program = tmp_path / "notify-send"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    send = sender({"PATH": str(tmp_path), "DBUS_SESSION_BUS_ADDRESS": "unix:path=/x"})
    assert send is not None
    send("a", "b")
