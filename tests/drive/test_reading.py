"""Reading on a real mount: what it costs in requests and bytes, and what survives. The sandbox counts."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mounts
import pytest
from drives import Drive, fill, picture
from sandbox_process import SandboxProcess

pytestmark = pytest.mark.fuse

MB = 1 << 20

BOTH_WAYS = pytest.mark.parametrize("way", ["--no-ro", "--ro"])
"""With `--ro` the daemon does not hear of opens and closes."""

IMAGE_FOLDER_WALK = """
import sys
from multiprocessing import Pool
from pathlib import Path
from PIL import Image

def load(path):
    with open(path, "rb") as file, Image.open(file) as image:
        return image.convert("RGB").size

if __name__ == "__main__":
    root = Path(sys.argv[1])
    classes = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    paths = [path for name in classes for path in sorted((root / name).iterdir())]
    with Pool(4) as workers:
        print(len(workers.map(load, paths, chunksize=8)))
"""


@pytest.fixture(scope="module")
def storage() -> Iterator[SandboxProcess]:
    """One sandbox for all tests of this file; each has a dataset of its own."""
    with SandboxProcess() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(storage: SandboxProcess) -> Iterator[SandboxProcess]:
    storage.clear_faults()
    yield storage
    storage.clear_faults()


def test_a_data_loader_reads_1000_images_for_6_requests(tmp_path: Path, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="loader", folders=4, images=1000, distinct=True)
    sandbox.reset_stats()
    with Drive(tmp_path, sandbox) as drive:
        walk = subprocess.run(
            [sys.executable, "-c", IMAGE_FOLDER_WALK, drive.mnt / "loader"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert walk.stdout.split() == ["1000"], walk.stderr
        assert sandbox.requests() <= 6
        sandbox.reset_stats()
        subprocess.run(
            [sys.executable, "-c", IMAGE_FOLDER_WALK, drive.mnt / "loader"], check=True, capture_output=True
        )
        assert (sandbox.requests(), sandbox.transfers()) == (0, 0)


def test_cat_of_200_files_costs_3_requests_and_what_it_read_survives(
    tmp_path: Path, sandbox: SandboxProcess
) -> None:
    contents = fill(sandbox, "cat", [20_000] * 200)
    expected = b"".join(contents.values())
    with Drive(tmp_path, sandbox) as drive:
        sandbox.reset_stats()
        command = f"cat {drive.mnt}/cat/*"
        assert subprocess.run(command, shell=True, capture_output=True, check=True).stdout == expected
        assert sandbox.stats()["api"]["by_route"] == {
            "GET /datasets/{dataset}": 1,
            "GET /directories/{dataset}": 1,
            "GET /datasets/{dataset}/download": 1,
        }
        assert sandbox.transfers() <= 200
        drive.kill()
        drive.mount()
        os.listdir(drive.mnt / "cat")
        sandbox.reset_stats()
        assert subprocess.run(command, shell=True, capture_output=True, check=True).stdout == expected
        assert (sandbox.requests(), sandbox.transfers()) == (0, 0)


def test_looking_at_headers_does_not_pull_the_files(tmp_path: Path, sandbox: SandboxProcess) -> None:
    contents = fill(sandbox, "headers", [2 * MB] * 30)
    with Drive(tmp_path, sandbox) as drive:
        for name, data in contents.items():
            descriptor = os.open(drive.mnt / "headers" / name, os.O_RDONLY)
            assert os.read(descriptor, 64 * 1024) == data[: 64 * 1024]
            os.close(descriptor)
        assert sandbox.requests() <= 5
        assert sandbox.stats()["storage"]["bytes_out"] <= 30 * 256 * 1024


def test_the_ends_of_large_files_cost_a_request_each(tmp_path: Path, sandbox: SandboxProcess) -> None:
    contents = fill(sandbox, "ends", [8 * MB, 8 * MB, 8 * MB])
    with Drive(tmp_path, sandbox, "--prefetch", "0") as drive:
        folder = drive.mnt / "ends"
        for name, data in contents.items():
            with (folder / name).open("rb", buffering=0) as file:
                file.seek(-1000, os.SEEK_END)
                assert file.read() == data[-1000:]
        assert sandbox.requests() <= 5
        assert sandbox.transfers() <= 4
        assert sandbox.stats()["storage"]["bytes_out"] <= MB
        assert (folder / "0002.jpg").read_bytes() == contents["0002.jpg"]


def test_what_was_copied_in_is_not_fetched(tmp_path: Path, sandbox: SandboxProcess) -> None:
    sandbox.populate(dataset="own", images=0)
    with Drive(tmp_path, sandbox) as drive:
        for number in range(3):
            (drive.mnt / "own" / f"{number}.jpg").write_bytes(picture(number))
        drive.wait()
        drive.umount()
        drive.mount()
        sandbox.reset_stats()
        for number in range(3):
            assert (drive.mnt / "own" / f"{number}.jpg").read_bytes() == picture(number)
        assert sandbox.transfers() == 0


@BOTH_WAYS
def test_the_cache_keeps_its_bound(tmp_path: Path, sandbox: SandboxProcess, way: str) -> None:
    contents = fill(sandbox, f"bound{way}", [300_000] * 30)
    with Drive(tmp_path, sandbox, way, "--cache-size", "2MB") as drive:
        for _ in range(2):
            for name, data in contents.items():
                assert (drive.mnt / f"bound{way}" / name).read_bytes() == data
        mounts.wait_until(lambda: kept(drive)["bytes"] <= 2_000_000, "the cache is within its bound")
        assert kept(drive)["files"] > 0


def kept(drive: Drive) -> dict[str, int]:
    (cache,) = json.loads(drive.run("cache", "info", "--json", check=True).stdout)["caches"]
    return {name: cache[name] for name in ("files", "bytes")}


@BOTH_WAYS
def test_random_readers_among_faults(tmp_path: Path, sandbox: SandboxProcess, way: str) -> None:
    """Each read gives the original bytes or fails, and in the end all of them can be read."""
    contents = fill(sandbox, f"trouble{way}", [1, 70_000, 300_000, 3 * MB, 6 * MB])
    dice = random.Random(4)
    with Drive(tmp_path, sandbox, way, "--cache-size", "4MB", "--request-timeout", "5s") as drive:
        folder = drive.mnt / f"trouble{way}"

        def read(seed: int) -> int:
            own = random.Random(seed)
            failed = 0
            for _ in range(12):
                name, data = own.choice(list(contents.items()))
                offset, size = own.randrange(len(data)), own.randrange(1, 400_000)
                try:
                    with (folder / name).open("rb", buffering=0) as file:
                        file.seek(offset)
                        found = file.read(size)
                except OSError:
                    failed += 1
                else:
                    assert found == data[offset : offset + len(found)]
                    assert len(found) == min(size, len(data) - offset)
            return failed

        for round_number in range(4):
            sandbox.faults(
                scope="storage",
                reset_rate=0.1,
                truncate_rate=0.1,
                fail_rate=0.05,
                ignore_range=round_number == 2,
                expire_urls=True,
                seed=round_number,
            )
            with ThreadPoolExecutor(4) as pool:
                failed = sum(pool.map(read, [dice.randrange(1 << 30) for _ in range(4)]))
            assert failed <= 24, drive.log()
        sandbox.clear_faults()
        for name, data in contents.items():
            assert (folder / name).read_bytes() == data


@BOTH_WAYS
def test_a_reader_that_waits_for_the_server_can_be_interrupted(
    tmp_path: Path, sandbox: SandboxProcess, way: str
) -> None:
    contents = fill(sandbox, f"stuck{way}", [MB, MB])
    with Drive(tmp_path, sandbox, way) as drive:
        path = drive.mnt / f"stuck{way}" / "0000.jpg"
        path.stat()
        sandbox.faults(next=[{"match": "*", "action": "stall", "count": 1000}])
        reader = subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL)
        mounts.wait_until(lambda: sandbox.stats()["faulted"] > 0, "it waits for the server")
        reader.send_signal(signal.SIGINT)
        assert reader.wait(10) == -signal.SIGINT  # far below the request timeout
        path.stat()
        sandbox.clear_faults()
        assert path.read_bytes() == contents["0000.jpg"]


def test_the_cache_command(tmp_path: Path, sandbox: SandboxProcess) -> None:
    contents = fill(sandbox, "warm", [30_000] * 40)
    with Drive(tmp_path, sandbox) as drive:
        done = drive.run("cache", "warm", str(drive.mnt / "warm"), check=True)
        assert done.stdout.startswith("40 images on this disk, 1.14 MiB")
        assert kept(drive)["files"] == 40
        sandbox.reset_stats()
        for name, data in contents.items():
            assert (drive.mnt / "warm" / name).read_bytes() == data
        assert (sandbox.requests(), sandbox.transfers()) == (0, 0)
        sandbox.faults(fail_rate=1, fail_status=404, scope="storage")
        assert "40 images removed" in drive.run("cache", "clear", check=True).stdout
        done = drive.run("cache", "warm", str(drive.mnt / "warm" / "0000.jpg"))
        assert done.returncode == 1
        assert "1 image could not be fetched" in done.stderr
        sandbox.clear_faults()
        drive.umount()
        assert kept(drive) == {"files": 1, "bytes": 4096}  # what failed: an empty file that knows its size
        assert "1 image removed" in drive.run("cache", "clear", check=True).stdout
        drive.mount("--cache-size", "1MB")
        done = drive.run("cache", "warm", str(drive.mnt / "warm"))
        assert done.returncode == 1
        assert "--cache-size" in done.stderr
