"""plan on the command line: what would be refused and why, and what a person reads."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_mount import FakeMount, Ran

from pictofs import imagefile

Run = Callable[..., Ran]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two folders with files of every kind of fate."""
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.JPEG", "sub/c.png", "notes.txt", "e.jpg.part"):
        (folder / name).write_bytes(b"12345")
    (folder / "empty.jpg").touch()
    (folder / "link.jpg").symlink_to("a.jpg")
    with (folder / "huge.jpg").open("wb") as file:
        file.truncate(imagefile.MAX_FILE_BYTES + 1)
    return folder


def plan(run: Run, *arguments: str | Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(run("plan", *arguments, "--json").out)
    return data


def reasons(data: dict[str, Any], kind: str = "refused") -> dict[str, str]:
    return {Path(item["path"]).name: item["reason"] for item in data[kind]}


def test_what_cp_would_refuse_and_hold(run: Run, mount: FakeMount, source: Path) -> None:
    birds = mount.mountpoint / "birds"
    (birds / "in").mkdir(parents=True)
    (birds / "in" / "a.jpg").touch()
    data = plan(run, "cp", source, birds)
    refused = reasons(data)
    assert sorted(refused) == ["a.jpg", "huge.jpg", "link.jpg", "notes.txt"]
    assert "is there" in refused["a.jpg"]
    assert "50 MiB is the most" in refused["huge.jpg"]
    assert "links" in refused["link.jpg"]
    assert "takes only images" in refused["notes.txt"]
    assert sorted(reasons(data, "held")) == ["e.jpg.part", "empty.jpg"]
    assert (data["files"], data["bytes"], data["folders"], data["datasets"]) == (2, 10, 1, 0)
    assert (data["requests_min"], data["requests_max"]) == (2, 7)


def test_a_clean_plan_reads_well_and_is_exit_status_0(run: Run, mount: FakeMount, source: Path) -> None:
    (mount.mountpoint / "birds").mkdir()
    ran = run("plan", "cp", source / "a.jpg", mount.mountpoint / "birds")
    assert ran.status == 0
    assert ran.out.splitlines() == [
        "1 file (5 B) would be uploaded",
        "  requests    2",
        "  time        about 1 s (assumed: 2 MiB/s, as this mount has not uploaded anything yet)",
    ]


def test_refusals_are_listed_with_their_reason(run: Run, mount: FakeMount, source: Path) -> None:
    ran = run("plan", "cp", source / "a.jpg", mount.mountpoint)
    assert ran.status == 1
    assert ran.out.splitlines()[-2:] == [
        "  refused     1 file",
        f"    {source / 'a.jpg'}: a file needs a dataset: the drive's root holds only datasets",
    ]


def test_a_folder_in_the_root_is_a_dataset_and_a_frozen_one_takes_nothing(
    run: Run, mount: FakeMount, source: Path
) -> None:
    data = plan(run, "cp", source / "sub", mount.mountpoint)
    assert (data["datasets"], data["folders"], data["files"]) == (1, 0, 1)
    (mount.mountpoint / "frozen").mkdir()
    assert reasons(plan(run, "cp", source / "a.jpg", mount.mountpoint / "frozen")) == {
        "a.jpg": "dataset frozen is in cold storage; restore it first"
    }


def test_what_rm_would_remove(run: Run, mount: FakeMount, monkeypatch: pytest.MonkeyPatch) -> None:
    birds = mount.mountpoint / "birds"
    (birds / "day" / "late").mkdir(parents=True)
    for name in ("a.jpg", "day/b.jpg", "day/late/c.jpg", "day/late/pending.jpg"):
        (birds / name).write_bytes(b"123")
    monkeypatch.setattr(
        os, "getxattr", lambda path, _name: b"queued" if Path(path).name == "pending.jpg" else b"done"
    )
    data = plan(run, "rm", birds / "day", birds / "a.jpg", birds / "missing.jpg", mount.mountpoint)
    assert (data["files"], data["bytes"], data["folders"], data["datasets"]) == (3, 9, 2, 0)
    assert sorted(reasons(data).values()) == ["there is no such file", "this is the drive itself"]
    assert plan(run, "rm", birds)["datasets"] == 1


def test_command_lines_that_make_no_sense(run: Run, mount: FakeMount, source: Path) -> None:
    assert run("plan", "cp", mount.mountpoint).status == 2
    assert (
        run("plan", "cp", source / "a.jpg", source / "b.JPEG", mount.mountpoint / "birds" / "x").status == 2
    )
    assert run("plan", "cp", source, source).status == 1
