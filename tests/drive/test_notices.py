"""Failed uploads on a real mount whose desktop is a script that notes what it is to show."""

from __future__ import annotations

import os
from pathlib import Path

import mounts
import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse


def test_failed_uploads_are_one_notice_on_the_desktop(tmp_path: Path, sandbox: SandboxProcess) -> None:
    told = tmp_path / "told"
    program = tmp_path / "bin" / "notify-send"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {told}\n')
    program.chmod(0o755)
    sandbox.faults(role="viewer")
    drive = Drive(tmp_path / "drive", sandbox)
    drive.env["PATH"] = f"{program.parent}:{os.environ['PATH']}"
    drive.env["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=/nowhere"
    with drive:
        for number in range(3):
            (drive.mnt / "photos" / f"{number}.jpg").write_bytes(picture(number))
        mounts.wait_until(told.exists, "a notice is shown")
        mounts.wait_until(lambda: drive.status()["uploads"]["failed"]["files"] == 3, "all three have failed")
        words = told.read_text()
        assert words.count("could not be uploaded") == 1
        assert "photos/" in words
        sandbox.clear_faults()
        drive.run("uploads", "discard", "--all", "--yes", check=True)
