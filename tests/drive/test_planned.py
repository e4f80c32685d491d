"""A plan is true: what it says beforehand is what the sandbox counts afterwards."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse


def test_planned_and_counted_requests_agree(drive: Drive, sandbox: SandboxProcess, tmp_path: Path) -> None:
    for folder in range(4):
        (tmp_path / "in" / f"{folder}").mkdir(parents=True)
        for number in range(15):
            path = tmp_path / "in" / f"{folder}" / f"{number}.jpg"
            path.write_bytes(picture(folder * 100 + number))
    source, target = tmp_path / "in", drive.mnt / "photos"

    def compare(files: int, plan: list[Path], command: list[str]) -> dict[str, Any]:
        """Plan, do it, and compare; a plan's range is its tolerance."""
        done = drive.run("plan", command[0], *map(str, plan), "--json", check=True)
        said: dict[str, Any] = json.loads(done.stdout)
        sandbox.reset_stats()
        subprocess.run([command[0], "-r", *map(str, plan)], check=True)
        assert drive.wait().returncode == 0
        assert said["files"] == files
        assert said["requests_min"] <= sandbox.requests() <= said["requests_max"], sandbox.stats()["api"]
        return said

    first = compare(60, [source, target], ["cp"])
    assert "assumed" in first["assumption"]
    assert (first["requests_min"], first["requests_max"]) == (2, 6 + first["folders"])
    second = compare(15, [source / "0", drive.mnt], ["cp"])  # a dataset of its own
    assert "has had so far" in second["assumption"]
    compare(1, [source / "1" / "1.jpg", target], ["cp"])
    compare(15, [target / "in" / "0"], ["rm"])
    compare(46, [target / "in", target / "1.jpg"], ["rm"])
    compare(15, [drive.mnt / "0"], ["rm"])


def test_a_plan_beyond_the_budget_says_so(drive: Drive, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="photos", folders=3, images=30)
    drive.run("refresh", str(drive.mnt), check=True)
    sandbox.faults(rate_limit=10)
    done = drive.run("plan", "rm", str(drive.mnt / "photos"))
    assert done.returncode == 1
    assert "requests are left this hour; it will have to wait" in done.stdout
