"""archive and restore on the command line: what is asked of the mount, and what a person reads."""

from __future__ import annotations

import json
from collections.abc import Callable

from fake_mount import FakeMount, Ran

Run = Callable[..., Ran]


def test_list_shows_what_restore_takes(run: Run, mount: FakeMount) -> None:
    ran = run("archive", "list", mount.mountpoint / "birds")
    assert mount.asked == [("archived", "birds")]
    assert ran.out.splitlines() == [
        f"2020-09-13     2 KiB  {mount.mountpoint}/birds/a.jpg",
        f"-                0 B  {mount.mountpoint}/plants/",
        "2 items; `pictofs restore PATH` brings back.",
    ]


def test_list_as_json(run: Run, mount: FakeMount) -> None:
    data = json.loads(run("archive", "list", "--json").out)
    assert data["version"] == 1
    assert [row["path"] for row in data["rows"]] == [
        f"{mount.mountpoint}/birds/a.jpg",
        f"{mount.mountpoint}/plants",
    ]


def test_restore_is_one_question_for_all_paths(run: Run, mount: FakeMount) -> None:
    ran = run("restore", mount.mountpoint / "birds" / "a.jpg", mount.mountpoint / "plants")
    assert (ran.status, ran.err) == (0, "pictofs: 2 items restored.\n")
    assert mount.asked == [("restore", ["birds/a.jpg", "plants"])]


def test_what_was_not_restored_is_said_and_is_the_exit_status(run: Run, mount: FakeMount) -> None:
    path = mount.mountpoint / "taken.jpg"
    ran = run("archive", "restore", path, mount.mountpoint / "b.jpg")
    assert ran.status == 1
    assert ran.err == f"pictofs: {path} was not restored: the name is taken.\npictofs: 1 item restored.\n"


def test_without_a_mount(run: Run) -> None:
    assert run("archive", "list").status == 1
    assert run("restore", "/nowhere").status == 1
