"""Attributes on a real mount, with the programs that people use for them; the SDK sees what was set."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse


def getfattr(*arguments: str | Path) -> str:
    done = subprocess.run(["getfattr", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_attributes_of_1000_images_cost_3_requests(
    tmp_path: Path, sandbox: SandboxProcess, program: Callable[[str], str]
) -> None:
    program("getfattr")
    sandbox.populate(dataset="photos", folders=4, images=1000)
    sandbox.reset_stats()
    with Drive(tmp_path, sandbox) as drive:
        sandbox.reset_stats()
        shown = getfattr("-Rd", "--absolute-names", drive.mnt)
        assert shown.count('user.pictograph.status="') == 1000
        assert sandbox.requests() <= 3


def test_what_is_set_arrives_and_shows_at_once(
    drive: Drive, sandbox: SandboxProcess, program: Callable[[str], str]
) -> None:
    program("getfattr")
    sandbox.populate(dataset="photos", raw_images=[{"filename": "x.jpg", "tags": ["old"]}])
    drive.run("refresh", str(drive.mnt), check=True)
    path = drive.mnt / "photos" / "x.jpg"
    for name, value in (("status", "complete"), ("split", "train"), ("tags", "red,round")):
        subprocess.run(["setfattr", "-n", f"user.pictograph.{name}", "-v", value, path], check=True)
    shown = getfattr("-d", "--absolute-names", path)
    for line in ('status="complete"', 'split="train"', 'tags="red,round"'):
        assert line in shown
    assert 'user.xdg.tags="red,round"' in shown
    seen = drive.images("photos")["/x.jpg"]
    assert (seen.status, seen.split, sorted(seen.tags)) == ("complete", "train", ["red", "round"])
    subprocess.run(["setfattr", "-x", "user.pictograph.split", path], check=True)
    subprocess.run(["setfattr", "-n", "user.xdg.tags", "-v", "blue", path], check=True)
    seen = drive.images("photos")["/x.jpg"]
    assert (seen.split, seen.tags) == (None, ["blue"])


def test_a_file_on_its_way_takes_none_yet_and_the_log_says_so(drive: Drive, sandbox: SandboxProcess) -> None:
    sandbox.faults(stall=["new"])
    path = drive.mnt / "photos" / "new.jpg"
    path.write_bytes(picture())
    with pytest.raises(OSError, match="busy"):
        os.setxattr(path, "user.xdg.tags", b"red")
    words = (
        "setxattr '/photos/new.jpg' 'user.xdg.tags' refused with EBUSY: user.xdg.tags belongs to the image"
    )
    assert words in drive.log()
    sandbox.clear_faults()
    assert drive.wait().returncode == 0
    os.setxattr(path, "user.xdg.tags", b"red")
    assert drive.images("photos")["/new.jpg"].tags == ["red"]
