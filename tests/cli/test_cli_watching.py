"""status and wait: the words, the JSON, the exit statuses."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_mount import FakeMount, Ran
from journal_fakes import upload
from rich.console import Console

from pictofs.cli import watching
from pictofs.mount.handlers import Progress
from pictofs.mount.status import Waiting
from pictofs.transfer.records import State

Run = Callable[..., Ran]


def test_status_of_one_mount(run: Run, mount: FakeMount) -> None:
    mount.journal.rows[1] = upload(1)
    for place in (mount.mountpoint, mount.mountpoint / "birds"):
        ran = run("status", place)
        assert ran.out == (
            f"{mount.mountpoint} (Lab on localhost)\n"
            "  1 file (1000 B) going up, safe on this disk until then.\n"
            "  going up    0 sending, 1 queued; 1000 B\n"
        )
        assert (ran.status, ran.err) == (0, "")
    report = json.loads(run("status", mount.mountpoint, "--json").out)
    assert (report["version"], report["safe"], report["mountpoint"]) == (1, False, str(mount.mountpoint))


def test_status_of_all_mounts(run: Run, mount: FakeMount, tmp_path: Path) -> None:
    with FakeMount(tmp_path, "another") as another:
        lines = run("status").out.splitlines()
        assert [line for line in lines if line and not line.startswith(" ")] == [
            f"{another.mountpoint} (Lab on localhost)",
            f"{mount.mountpoint} (Lab on localhost)",
        ]
        answer = json.loads(run("status", "--json").out)
        assert answer["version"] == 1
        assert [report["mountpoint"] for report in answer["reports"]] == [
            str(another.mountpoint),
            str(mount.mountpoint),
        ]


def test_status_when_nothing_is_mounted(run: Run, tmp_path: Path) -> None:
    ran = run("status")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == "Nothing is mounted and nothing waits: `pictofs mount MOUNTPOINT` mounts the drive.\n"
    assert json.loads(run("status", "--json").out) == {"version": 1, "reports": []}
    ran = run("status", tmp_path)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == (
        f"pictofs: nothing of ours is mounted at {tmp_path}; `pictofs mount {tmp_path}` does that.\n"
    )


def test_status_of_a_dead_mount(run: Run, mount: FakeMount) -> None:
    mount.die()
    ran = run("status", mount.mountpoint)
    assert ran.status == 1
    assert f"the mount at {mount.mountpoint} has died; nothing is lost" in ran.err


def test_watch_shows_each_change_until_ctrl_c(
    run: Run, mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each pause lets something happen: nothing, an upload lands, Ctrl-C."""
    mount.journal.rows[1] = upload(1)

    def interrupt() -> None:
        raise KeyboardInterrupt

    happenings = [lambda: None, mount.land_all, interrupt]
    monkeypatch.setattr(watching, "_pause", lambda duration_s: happenings.pop(0)())
    ran = run("status", "--watch")
    assert ran.status == 0
    assert ran.out == (
        f"{mount.mountpoint} (Lab on localhost)\n"
        "  1 file (1000 B) going up, safe on this disk until then.\n"
        "  going up    0 sending, 1 queued; 1000 B\n"
        "\n"
        f"{mount.mountpoint} (Lab on localhost)\n"
        "  Everything is on the server.\n"
        "  landed      1 file (1000 B) since the mount\n"
    )


def test_wait_ends_when_all_is_on_the_server(
    run: Run, mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount.journal.rows[1] = upload(1, State.SENDING)
    monkeypatch.setattr(watching, "_pause", lambda duration_s: mount.land_all())
    ran = run("wait", mount.mountpoint)
    assert (ran.status, ran.out, ran.err) == (0, "", "")
    assert not mount.journal.rows


def test_wait_with_nothing_to_wait_for(run: Run, mount: FakeMount) -> None:
    assert run("wait").status == 0
    mount.__exit__()
    assert run("wait").status == 0


def test_wait_tells_what_failed(run: Run, mount: FakeMount) -> None:
    mount.stuck()
    ran = run("wait")
    assert ran.status == 1
    assert ran.err == (f"pictofs: {mount.mountpoint}: 3 files need your attention (2 failed, 1 held).\n")


def test_wait_runs_out_of_time(run: Run, mount: FakeMount) -> None:
    mount.journal.rows[1] = upload(1)
    ran = run("wait", mount.mountpoint, "--timeout", "10ms")
    assert ran.status == 2
    assert ran.err == "pictofs: the time is up, and not everything is on the server yet.\n"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a person at a terminal sees."""
    screen = io.StringIO()
    shown = Console(file=screen, force_terminal=True, width=100, color_system=None)
    monkeypatch.setattr(watching, "console", lambda stream: shown)
    return screen


def test_a_terminal_gets_a_bar(
    run: Run, mount: FakeMount, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount.journal.rows.update({1: upload(1), 2: upload(2, State.SENDING)})
    mount.progress = Progress(waiting=Waiting("the server cannot be reached"))
    monkeypatch.setattr(watching, "_pause", lambda duration_s: mount.land_all())
    assert run("wait").status == 0
    assert "2 files, 1.95 KiB; the server cannot be reached" in terminal.getvalue()


def test_a_terminal_is_redrawn_in_place(
    run: Run, mount: FakeMount, terminal: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount.stuck()

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching, "_pause", interrupt)
    assert run("status", "--watch").status == 0
    assert run("status").status == 0
    for words in ("failed #2 birds/day/2.jpg", "3 files need your attention (2 failed, 1 held)."):
        assert terminal.getvalue().count(words) >= 2


def test_ctrl_c_while_waiting(run: Run, mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    mount.journal.rows[1] = upload(1)

    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(watching, "_pause", interrupt)
    ran = run("wait")
    assert (ran.status, ran.err) == (130, "pictofs: interrupted.\n")


def test_wait_where_nothing_is_mounted(run: Run, tmp_path: Path) -> None:
    assert run("wait", tmp_path).status == 1


def test_a_daemon_that_dies_while_it_is_watched(
    run: Run, mount: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount.journal.rows[1] = upload(1)
    monkeypatch.setattr(watching, "_pause", lambda duration_s: mount.die())
    ran = run("wait", mount.mountpoint)
    assert ran.status == 1
    assert ran.err.startswith("pictofs: ")
