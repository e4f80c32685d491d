"""How a mount begins and ends, through each binding."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mounts import mount_type, unmount, wait_until
from served_fake import MountIt

pytestmark = pytest.mark.fuse


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_unmounts_and_ends_with_status_0(mount_it: MountIt, number: signal.Signals) -> None:
    with mount_it() as drive:
        assert mount_type(drive.root) == "fuse.pictofs"
        (drive.root / "a.jpg").write_bytes(b"x")
        assert drive.served.stop(number) == 0
        assert mount_type(drive.root) is None
        assert "Traceback" not in drive.served.words()


def test_fusermount_u_ends_with_status_0(mount_it: MountIt) -> None:
    with mount_it() as drive:
        os.listdir(drive.root)
        unmount(drive.root)
        assert drive.served.wait() == 0


def test_a_killed_drive_is_enotconn_not_an_empty_folder(mount_it: MountIt) -> None:
    with mount_it() as drive:
        assert drive.served.stop(signal.SIGKILL) == -signal.SIGKILL
        with pytest.raises(OSError, match=rf"\[Errno {errno.ENOTCONN}\]"):
            os.listdir(drive.root)
        unmount(drive.root)


def test_a_vfs_that_cannot_start_ends_the_mount_with_its_exception(mount_it: MountIt) -> None:
    with mount_it("--fail", "start", ready=False) as drive:
        assert drive.served.wait() == 1
        assert "RuntimeError: the vfs cannot start" in drive.served.words()
        wait_until(lambda: mount_type(drive.root) is None, "the mount is gone")


def test_an_on_ready_that_fails_ends_the_mount_with_its_exception(mount_it: MountIt) -> None:
    with mount_it("--fail", "ready", ready=False) as drive:
        assert drive.served.wait() == 1
        assert "RuntimeError: nobody wants it" in drive.served.words()


def test_a_mount_that_is_refused_is_an_exception(mount_it: MountIt) -> None:
    with mount_it("--options", '{"fsname": "x", "subtype": "a,no_such_option"}', ready=False) as drive:
        assert drive.served.wait() == 1
        assert "MountFailedError: FUSE could not mount" in drive.served.words()


def test_read_only(mount_it: MountIt) -> None:
    with mount_it("--options", '{"ro": true}') as drive:
        for change in (
            lambda: (drive.root / "a.jpg").touch(),
            lambda: (drive.root / "a").mkdir(),
            lambda: (drive.root / "many").rmdir(),
            lambda: os.utime(drive.root / "many"),
        ):
            with pytest.raises(OSError, match=rf"\[Errno {errno.EROFS}\]"):
                change()
        assert len(os.listdir(drive.root / "many")) == 10_000


def test_owner_and_umask(mount_it: MountIt) -> None:
    with mount_it("--options", '{"uid": 12, "gid": 34, "umask": 63}') as drive:
        with os.scandir(drive.root / "many") as entries:
            listed = next(entries).stat()
        for status in (listed, (drive.root / "many/image-00001.jpg").stat()):
            assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (12, 34, 0o600)
        assert (drive.root / "many").stat().st_mode & 0o777 == 0o700


def test_a_mount_point_and_a_source_with_odd_names(mount_it: MountIt) -> None:
    with mount_it("--options", '{"fsname": "pictograph: a, b\\\\c é"}') as drive:
        source = next(
            line.split(" - ")[1].split(" ")[1]
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if f" {drive.root} " in line
        )
        assert source == "pictograph:\\040a,\\040b\\134c\\040é"


@pytest.mark.parametrize("libraries", ["none", "libc.so.6"])
def test_without_libfuse_there_is_a_plain_sentence(libraries: str, tmp_path: Path) -> None:
    """And none is needed to import the adapter."""
    program = (
        "from pictofs.fs.fuse import *\n"
        "from fake_vfs import FakeVfs\n"
        "try: mount(FakeVfs(), '/nowhere', MountOptions(), on_ready=print)\n"
        "except FuseUnavailableError as exc: print(exc)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"FUSE_LIBRARY_PATH": libraries, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.startswith("FUSE is not installed: install it with `apt install fuse3`"), done.stderr
    assert done.stderr == ""
