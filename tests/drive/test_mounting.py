"""Mounting and unmounting: every way it can fail is one plain sentence and a status that is not 0."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import mounts
import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse


def attempt(drive: Drive, mountpoint: Path | None = None, *arguments: str) -> str:
    """Try to mount, which must fail; what it said, one line."""
    done = drive.run("mount", str(mountpoint or drive.mnt), *arguments)
    assert done.returncode not in (0, None)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("pictofs: ")
    assert mounts.mount_type(mountpoint or drive.mnt) is None or mountpoint is None
    return lines[0]


@pytest.fixture
def unmounted(tmp_path: Path, sandbox: SandboxProcess) -> Drive:
    return Drive(tmp_path, sandbox)


def test_no_key(unmounted: Drive) -> None:
    del unmounted.env["PICTOGRAPH_API_KEY"]
    assert "PICTOGRAPH_API_KEY" in attempt(unmounted)


def test_bad_key(unmounted: Drive) -> None:
    unmounted.env["PICTOGRAPH_API_KEY"] = "pk_live_wrong_0123456789"
    words = attempt(unmounted)
    assert "key" in words
    assert "pk_live_wrong" not in words + unmounted.log()


def test_a_key_that_was_good_at_the_last_mount_and_is_revoked(drive: Drive) -> None:
    drive.umount()
    drive.sandbox.faults(scope="api", fail_rate=1, fail_status=401)
    assert "refuses the API key" in attempt(drive)
    assert mounts.mount_type(drive.mnt) is None
    drive.sandbox.clear_faults()
    drive.mount()


def test_the_next_mount_asks_for_the_datasets_only(drive: Drive) -> None:
    drive.umount()
    drive.sandbox.reset_stats()
    drive.mount()
    assert drive.sandbox.stats()["api"]["by_route"] == {"GET /datasets/": 1}
    assert os.listdir(drive.mnt) == ["photos"]


def test_a_server_that_hangs_does_not_keep_the_next_mount(drive: Drive) -> None:
    drive.umount()
    drive.sandbox.faults(next=[{"match": "*", "action": "stall", "count": 1000}])
    drive.mount()
    assert os.listdir(drive.mnt) == ["photos"]
    assert drive.sandbox.stats()["faulted"] > 0
    drive.sandbox.clear_faults()


def test_unreachable_server(unmounted: Drive) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        unmounted.env["PICTOGRAPH_BASE_URL"] = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        assert "network" in attempt(unmounted)


def test_mount_point_missing_or_no_folder_or_full(unmounted: Drive, tmp_path: Path) -> None:
    assert "does not exist" in attempt(unmounted, tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "not a folder" in attempt(unmounted, tmp_path / "file")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert "not empty" in attempt(unmounted, tmp_path / "full")


def test_mounted_already_here_or_elsewhere(drive: Drive, tmp_path: Path) -> None:
    assert "mounted already" in attempt(drive)
    (tmp_path / "second").mkdir()
    words = attempt(drive, tmp_path / "second")
    assert str(drive.mnt) in words
    assert mounts.mount_type(tmp_path / "second") is None
    assert os.listdir(drive.mnt) == ["photos"]


def test_no_fuse(unmounted: Drive) -> None:
    unmounted.env["FUSE_LIBRARY_PATH"] = "/nowhere/libfuse.so"
    assert "fuse" in attempt(unmounted).lower()


def test_unknown_dataset(unmounted: Drive) -> None:
    assert "'nothing'" in attempt(unmounted, None, "--dataset", "nothing")


def test_unknown_option(unmounted: Drive) -> None:
    assert "sparkle" in attempt(unmounted, None, "-o", "sparkle")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_unmounts_cleanly(tmp_path: Path, sandbox: SandboxProcess, number: signal.Signals) -> None:
    drive = Drive(tmp_path, sandbox)
    command = [sys.executable, "-m", "pictofs", "mount", str(drive.mnt), "--foreground"]
    with mounts.mount_process(command, drive.mnt, tmp_path / "words", env=drive.env) as served:
        (drive.mnt / "photos" / "x.jpg").write_bytes(picture(1))
        assert served.stop(number) == 0
        assert "everything is on the server" in served.words()
    assert set(drive.images("photos")) == {"/x.jpg"}


def test_systemd_is_told_when_the_drive_answers_and_that_it_stops(
    tmp_path: Path, sandbox: SandboxProcess
) -> None:
    drive = Drive(tmp_path, sandbox)
    command = [sys.executable, "-m", "pictofs", "mount", str(drive.mnt), "--foreground"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        env = {**drive.env, "NOTIFY_SOCKET": str(tmp_path / "notify")}
        with mounts.mount_process(command, drive.mnt, tmp_path / "words", env=env) as served:
            assert systemd.recv(1000) == b"READY=1"
            assert served.stop() == 0
            told = systemd.recv(1000)
    assert told.startswith(b"STOPPING=1")
    assert b"EXTEND_TIMEOUT_USEC=" in told


def test_what_is_not_sent_when_draining_ends_is_said_and_goes_on_at_the_next_mount(drive: Drive) -> None:
    drive.sandbox.faults(stall=["stuck"])
    (drive.mnt / "photos" / "stuck.jpg").write_bytes(picture(1))
    (drive.mnt / "photos" / "fine.jpg").write_bytes(picture(2))
    done = drive.umount("--drain-timeout", "5s")
    assert "1 file" in done.stdout + done.stderr
    assert set(drive.images("photos")) == {"/fine.jpg"}
    drive.sandbox.clear_faults()
    assert "stuck.jpg" in drive.run("uploads", "list", check=True).stdout
    drive.mount()
    assert drive.wait().returncode == 0
    assert set(drive.images("photos")) == {"/fine.jpg", "/stuck.jpg"}


def test_after_kill_9_the_mount_point_says_so_and_the_next_mount_clears_it(drive: Drive) -> None:
    drive.kill()
    with pytest.raises(OSError, match=r"not connected|connection abort"):
        os.listdir(drive.mnt)
    drive.mount()
    assert os.listdir(drive.mnt) == ["photos"]


def test_umount_of_nothing(unmounted: Drive) -> None:
    done = unmounted.run("umount", str(unmounted.mnt))
    assert done.returncode == 1
    assert "nothing is mounted" in done.stderr


def test_the_key_is_in_no_process_list_and_no_log(drive: Drive) -> None:
    (drive.mnt / "photos" / "x.jpg").write_bytes(picture(1))
    assert drive.wait().returncode == 0
    for pid in drive.pids():
        assert drive.sandbox.api_key.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert drive.sandbox.api_key not in drive.log()
    shown = drive.run("config", check=True)
    assert drive.sandbox.api_key not in shown.stdout + shown.stderr


@pytest.mark.parametrize("binding", ["mfusepy", "fusepy"])
def test_each_binding(tmp_path: Path, sandbox: SandboxProcess, binding: str) -> None:
    with Drive(tmp_path, sandbox, "--binding", binding) as drive:
        subprocess.run(
            ["bash", "-c", f"cp {__file__} {drive.mnt}/photos/x.jpg && ls -l {drive.mnt}/photos"],
            check=True,
            capture_output=True,
        )
        (drive.mnt / "photos" / "y.jpg").write_bytes(picture(1))
        assert (drive.mnt / "photos" / "y.jpg").read_bytes() == picture(1)
        assert drive.wait().returncode == 1  # this very file is no image, so it is held
        assert drive.download("photos", "/y.jpg") == picture(1)


def test_a_terminal_sees_what_a_foreground_mount_still_sends(tmp_path: Path, sandbox: SandboxProcess) -> None:
    drive = Drive(tmp_path, sandbox)
    screen, terminal = os.openpty()
    command = [
        sys.executable,
        "-m",
        "pictofs",
        "mount",
        str(drive.mnt),
        "--foreground",
        "--drain-timeout",
        "60s",
    ]
    process = subprocess.Popen(
        command, env={**drive.env, "TERM": "xterm"}, stdin=terminal, stdout=terminal, stderr=terminal
    )
    os.close(terminal)
    try:
        mounts.wait_until(lambda: mounts.mount_type(drive.mnt) is not None, "it is mounted")
        sandbox.faults(latency_ms=500)
        (drive.mnt / "photos" / "slow.jpg").write_bytes(picture(1))
        process.send_signal(signal.SIGINT)
        seen = b""
        with contextlib.suppress(OSError):  # EIO: the other side of the terminal is closed
            while data := os.read(screen, 4096):
                seen += data
        assert process.wait(30) == 0
    finally:
        os.close(screen)
        process.kill()
        process.wait()
        mounts.force_unmount(drive.mnt)
    words = seen.decode()
    assert "1 file (" in words
    assert "It is waited for, at most 1 min" in words
    assert "uploading" in words
    assert "everything is on the server" in words
