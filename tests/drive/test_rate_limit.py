"""The hour's requests used up, on a real mount: who is refused, what that costs, and what goes on."""

from __future__ import annotations

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse

DATASETS = 5
THREADS = 20
TURNS = 5


def test_listers_and_readers_during_a_429_spend_a_handful_of_requests(
    tmp_path: Path, sandbox: SandboxProcess
) -> None:
    for number in range(DATASETS):
        sandbox.populate(dataset=f"unseen-{number}", images=3)
    sandbox.populate(dataset="photos", images=20)
    with Drive(tmp_path, sandbox) as drive:
        names = os.listdir(drive.mnt / "photos")
        (drive.mnt / "photos" / names[0]).read_bytes()
        sandbox.faults(rate_limit=1)  # more than one has been sent this hour
        sandbox.reset_stats()
        with pytest.raises(OSError, match=rf"\[Errno {errno.EAGAIN}\]"):
            os.listdir(drive.mnt / "unseen-0")  # its listing and its folders are asked for side by side
        told = sandbox.requests()

        def ask(number: int) -> set[int | None]:
            wrong = set()
            for turn in range(TURNS):
                try:
                    if (number + turn) % 2:
                        os.listdir(drive.mnt / f"unseen-{number % DATASETS}")
                    else:
                        (drive.mnt / f"unseen-{turn % DATASETS}" / "a.jpg").read_bytes()
                except OSError as error:
                    wrong.add(error.errno)
            return wrong

        with ThreadPoolExecutor(THREADS) as pool:
            assert set.union(*pool.map(ask, range(THREADS))) == {errno.EAGAIN}
        assert sandbox.requests() == told
        assert told <= DATASETS
        assert sorted(os.listdir(drive.mnt / "photos")) == sorted(names)
        (drive.mnt / "photos" / names[0]).read_bytes()
        (drive.mnt / "photos" / "new.jpg").write_bytes(picture())
        report = drive.status()
        assert report["budget"]["pause_s"] > 60
        assert (report["budget"]["remaining"], report["uploads"]["failed"]["files"]) == (0, 0)
        assert "none until the server allows more" in drive.run("status", check=True).stdout
        assert sandbox.requests() <= DATASETS
        line = next(line for line in drive.log().splitlines() if "EAGAIN" in line)
        assert "request req_" in line
        assert "; try again in" in line
        sandbox.clear_faults()
        drive.umount("--drain-timeout", "0")  # what waits stays; the next mount asks anew
        drive.mount()
        assert drive.wait().returncode == 0
        assert len(os.listdir(drive.mnt / "unseen-0")) == 3
