"""No image is ever lost or doubled: kill -9, trouble from the network, the server gone, a full disk."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
from pathlib import Path

import mounts
import pytest
from drives import Drive, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse


def make_pictures(folder: Path, count: int, size: tuple[int, int] = (32, 24)) -> dict[str, bytes]:
    """`count` distinct pictures in a folder: name → bytes."""
    folder.mkdir()
    made = {f"{number:04}.jpg": picture(number, size=size) for number in range(count)}
    assert len(set(made.values())) == count
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return made


def assert_exactly(drive: Drive, expected: dict[str, bytes], folder: str = "") -> None:
    """The SDK sees exactly these images, each once, each byte-identical."""
    assert sorted(drive.images("photos")) == sorted(f"{folder}/{name}" for name in expected)
    target = drive.folder / "all"
    shutil.rmtree(target, ignore_errors=True)
    with drive.sdk() as sdk:
        sdk.datasets.download("photos", output_dir=str(target), mode="images_only")
    found = {path.name: path.read_bytes() for path in target.rglob("*.jpg")}
    assert found == expected


def soak(drive: Drive, source: Path, expected: dict[str, bytes], rounds: int, seed: int) -> None:
    """Copy `expected` in from `source` while the daemon is killed `rounds` times at random moments."""
    dice = random.Random(seed)
    target = drive.mnt / "photos"
    for _ in range(rounds):
        have = set(os.listdir(target))
        missing = [name for name in sorted(expected) if name not in have]
        copy = (
            subprocess.Popen(
                ["cp", "-t", target, *(source / name for name in missing[: 1 + len(expected) // 3])],
                stderr=subprocess.DEVNULL,
            )
            if missing
            else None
        )
        dead = threading.Event()
        dead.wait(dice.uniform(0.0, 0.6))  # the random moment is the test's subject, not a wait for something
        drive.kill()
        if copy is not None:
            copy.wait(30)
        drive.mount()
        # A copy that was cut off is held; a person removes it and copies it again.
        for name in os.listdir(target):
            state = os.getxattr(target / name, "user.pictograph.upload")
            if state.startswith(b"held"):
                (target / name).unlink()
    have = set(os.listdir(target))
    for name in sorted(expected.keys() - have):
        shutil.copy(source / name, target / name)
    done = drive.wait(300)
    assert done.returncode == 0, done.stdout + done.stderr + drive.log()
    assert_exactly(drive, expected)
    assert len(os.listdir(target)) == len(expected)


@pytest.mark.timeout(300)
def test_kill_9_at_random_moments_loses_and_doubles_nothing(drive: Drive, tmp_path: Path) -> None:
    expected = make_pictures(tmp_path / "in", 90)
    soak(drive, tmp_path / "in", expected, rounds=8, seed=1)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_soak_200_kills_while_300_files_are_copied_in(drive: Drive, tmp_path: Path) -> None:
    expected = make_pictures(tmp_path / "in", 300)
    soak(drive, tmp_path / "in", expected, rounds=200, seed=2)


def test_background_copy_of_1000_images_costs_12_requests(tmp_path: Path, sandbox: SandboxProcess) -> None:
    expected = make_pictures(tmp_path / "in", 1000)
    sandbox.reset_stats()
    with Drive(tmp_path, sandbox) as drive:
        subprocess.run(["cp", "-r", tmp_path / "in", drive.mnt / "photos" / "new"], check=True)
        assert drive.wait().returncode == 0
        spent = sandbox.stats()["api"]
        assert spent["total"] <= 12, spent["by_route"]
        assert_exactly(drive, expected, "/new")


@pytest.mark.timeout(300)
def test_with_failures_resets_and_truncated_answers_500_files_arrive(
    drive: Drive, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    expected = make_pictures(tmp_path / "in", 500)
    sandbox.faults(fail_rate=0.10, fail_status=503, reset_rate=0.05, truncate_rate=0.02, seed=7)
    for path in (tmp_path / "in").iterdir():
        shutil.copy(path, drive.mnt / "photos")
    done = drive.wait(200)
    sandbox.clear_faults()
    assert done.returncode == 0, done.stdout + drive.log()
    assert_exactly(drive, expected)


def test_the_server_goes_away_and_comes_back(drive: Drive, sandbox: SandboxProcess, tmp_path: Path) -> None:
    expected = make_pictures(tmp_path / "in", 40)
    names = sorted(expected)
    os.listdir(drive.mnt / "photos")
    for name in names[:10]:
        shutil.copy(tmp_path / "in" / name, drive.mnt / "photos")
    sandbox.stop()
    for name in names[10:]:
        shutil.copy(tmp_path / "in" / name, drive.mnt / "photos")
    assert sorted(os.listdir(drive.mnt / "photos")) == names
    mounts.wait_until(lambda: drive.status()["uploads"]["waiting"], "status says why nothing moves")
    report = drive.run("status", str(drive.mnt)).stdout
    assert "server" in report
    sandbox.start()
    assert drive.wait().returncode == 0
    assert_exactly(drive, expected)


def test_a_second_copy_while_uploads_are_lost_answers_is_not_doubled(
    drive: Drive, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    expected = make_pictures(tmp_path / "in", 20)
    sandbox.faults(next=[{"match": "POST /images/bulk-register", "action": "reset_after", "count": 3}])
    for name in expected:
        shutil.copy(tmp_path / "in" / name, drive.mnt / "photos")
    assert drive.wait().returncode == 0
    assert_exactly(drive, expected)


REFUSALS = [
    (409, "taken.jpg", "already exists"),
    (402, "broke.jpg", "limit reached on this plan"),
    (403, "role.jpg", "your role does not allow uploads"),
    (413, "huge.jpg", "too large"),
    (415, "odd.jpg", "extension is not supported"),
]


def test_refusals_park_with_their_words_and_leave_the_rest_alone(
    drive: Drive, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    expected = make_pictures(tmp_path / "in", 10)
    sandbox.faults(
        refuse=[
            {"filename": name, "status": status, "message": f"no: {words}"}
            for status, name, words in REFUSALS
        ]
    )
    for number, (_, name, _) in enumerate(REFUSALS):
        (drive.mnt / "photos" / name).write_bytes(picture(1000 + number))
    for name in expected:
        shutil.copy(tmp_path / "in" / name, drive.mnt / "photos")
    assert drive.wait().returncode == 1
    problems = {problem["path"]: problem["reason"] for problem in drive.status()["problems"]}
    assert set(problems) == {f"photos/{name}" for _, name, _ in REFUSALS}
    for _, name, words in REFUSALS:
        assert words in problems[f"photos/{name}"]
        path = drive.mnt / "photos" / name
        assert os.getxattr(path, "user.pictograph.upload").startswith(b"failed: ")
    assert_exactly(drive, expected)
    # The bytes are kept, and a person can have them, send them again or drop them.
    exported = tmp_path / "exported"
    drive.run("uploads", "export", "--to", str(exported), "--all", str(drive.mnt), check=True)
    assert (exported / "photos" / "taken.jpg").read_bytes() == picture(1000)
    sandbox.clear_faults()
    drive.run("uploads", "retry", str(drive.mnt / "photos" / "taken.jpg"), check=True)
    (drive.mnt / "photos" / "broke.jpg").rename(drive.mnt / "photos" / "rich.jpg")
    drive.run("uploads", "discard", "--yes", str(drive.mnt / "photos" / "role.jpg"), check=True)
    mounts.wait_until(
        lambda: {"/taken.jpg", "/rich.jpg"} <= set(drive.images("photos")), "the retried ones arrive"
    )
    mounts.wait_until(  # the kernel remembers a name for a second
        lambda: not (drive.mnt / "photos" / "role.jpg").exists(), "what was discarded is gone"
    )


def test_another_clients_file_of_this_name_is_a_conflict(
    drive: Drive, sandbox: SandboxProcess, tmp_path: Path
) -> None:
    assert os.listdir(drive.mnt / "photos") == []
    (tmp_path / "x.jpg").write_bytes(picture(1))
    with drive.sdk() as sdk:
        sdk.images.upload("photos", tmp_path / "x.jpg")
    (drive.mnt / "photos" / "x.jpg").write_bytes(picture(2))
    assert drive.wait().returncode == 1
    assert drive.download("photos", "/x.jpg") == picture(1)
    assert (drive.mnt / "photos" / "x.jpg").read_bytes() == picture(2)
    assert drive.status()["problems"][0]["state"] == "failed"


def test_a_full_disk_is_enospc_to_cp_and_nothing_is_half_committed(
    tmp_path: Path, sandbox: SandboxProcess
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", small], check=True)
    try:
        drive = Drive(tmp_path / "drive", sandbox)
        drive.env["XDG_STATE_HOME"] = str(small)
        sandbox.stop()  # so that the spool does not empty
        sandbox.start()
        sandbox.faults(stall=["big"])
        with drive:
            big = picture(1, "BMP", (1500, 1000))  # 4.5 MB
            (tmp_path / "big.bmp").write_bytes(big)
            copied = []
            for number in range(8):
                done = subprocess.run(
                    ["cp", tmp_path / "big.bmp", drive.mnt / "photos" / f"big{number}.bmp"],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    assert "No space left" in done.stderr
                    break
                copied.append(f"big{number}.bmp")
            else:
                pytest.fail("24 MB held 36 MB")
            assert copied
            assert sorted(os.listdir(drive.mnt / "photos")) == copied
            sandbox.clear_faults()
            assert drive.wait().returncode == 0
            assert sorted(drive.images("photos")) == [f"/{name}" for name in copied]
    finally:
        subprocess.run(["umount", "-l", small], check=True)
