"""What another client changed, met by programs while the kernel still remembers what was there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import mounts
import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse


def test_a_name_that_another_client_freed_can_be_used_at_once(
    tmp_path: Path, sandbox: SandboxProcess
) -> None:
    """On libfuse 2, where the kernel cannot be made to forget."""
    (tmp_path / "x.jpg").write_bytes(picture(1))
    with Drive(tmp_path, sandbox, "--binding", "fusepy") as drive:
        target = drive.mnt / "photos" / "x.jpg"
        with drive.sdk() as sdk:
            sdk.images.upload("photos", tmp_path / "x.jpg")
            drive.run("refresh", str(drive.mnt), check=True)
            mounts.wait_until(target.exists, "the image is listed")
            sdk.images.delete("photos", "x.jpg")
        drive.run("refresh", str(drive.mnt), check=True)
        target.exists()  # the kernel may believe so, for a second
        target.write_bytes(picture(2))
        assert drive.wait().returncode == 0
        assert drive.download("photos", "/x.jpg") == picture(2)
        with pytest.raises(FileNotFoundError):
            (drive.mnt / "photos" / "y.jpg").read_bytes()


def test_an_image_that_is_replaced_while_a_read_only_drive_reads_it(
    tmp_path: Path, sandbox: SandboxProcess
) -> None:
    """Opened without the daemon's knowledge: it is never a mixture of the two."""
    old, new = (picture(number) + bytes(1_000_000 + number) for number in range(2))
    with Drive(tmp_path, sandbox, "--ro") as drive, drive.sdk() as sdk:
        (tmp_path / "x.jpg").write_bytes(old)
        sdk.images.upload("photos", tmp_path / "x.jpg")
        path = drive.mnt / "photos" / "x.jpg"
        with path.open("rb", buffering=0) as file:
            assert file.read(4096) == old[:4096]
            sdk.images.delete("photos", "x.jpg")
            (tmp_path / "x.jpg").write_bytes(new)
            sdk.images.upload("photos", tmp_path / "x.jpg")
            drive.run("refresh", str(drive.mnt), check=True)
            mounts.wait_until(lambda: path.stat().st_size == len(new), "the new image is listed")
            with pytest.raises(OSError, match=rf"\[Errno {errno.ESTALE}\]"):
                os.pread(file.fileno(), 10, 900_000)
        assert path.read_bytes() == new
