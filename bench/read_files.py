"""Read 200 x 200 KB: cold, again, from the page cache, from the cache on disk, side by side.

    python bench/read_files.py [--files 200] [--kilobytes 200] [--latency-ms 50]

`cat` of all files at once, onto /dev/null; the 8 parallel readers are 8 `cat` processes of 1/8 of the files.
The page cache is also timed without opening and closing, which a program on the drive pays for by asking the
daemon unless it is mounted read-only: read(2) alone, of these files and of one of 50 MB. For FUSE the kernel
has pages of 4 KB, where a local file system may have larger ones, so that one is compared with a local file
in pages of 4 KB, too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

from _peers import (
    DATASET,
    MAY_DROP_CACHES,
    Drive,
    download_all,
    drop_kernel_caches,
    far_sandbox,
    options,
    rclone_mount,
    scratch_folder,
    side_by_side,
    timed,
    timed_run,
)
from _tables import Table

WARM_PASSES = 7
"""A pass over the page cache takes only milliseconds."""
DISK_PASSES = 3
READERS = 8
LARGE = "large"
"""A dataset with one image, of this size."""
LARGE_BYTES = 50_000_000
READ_BYTES = 128 * 1024
"""What `cat` asks for at once."""


def cat(folder: Path) -> float:
    return timed_run("cat", *sorted(folder.iterdir()))


def cat_from_disk(folder: Path) -> float:
    """With names and attributes known, as after `ls -l`, and no bytes in RAM."""
    drop_kernel_caches()
    files = sorted(folder.iterdir())
    for file in files:
        file.stat()
    return timed_run("cat", *files)


def reads_alone(folder: Path) -> float:
    """Seconds in read(2) for all files of a folder."""
    buffer = bytearray(READ_BYTES)
    seconds = 0.0
    for path in sorted(folder.iterdir()):
        with path.open("rb", buffering=0) as file:
            start = time.monotonic()
            while file.readinto(buffer):
                pass
            seconds += time.monotonic() - start
    return seconds


def bring_in_small_pages(path: Path) -> None:
    """Have a file in the page cache in pages of 4 KB, whatever its file system would do by itself."""
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        while file.read(4096):
            pass


def cat_in_parallel(folder: Path) -> float:
    files = sorted(folder.iterdir())

    def run() -> None:
        shares = (files[number::READERS] for number in range(READERS))
        readers = [subprocess.Popen(["cat", *share], stdout=subprocess.DEVNULL) for share in shares]
        assert [reader.wait() for reader in readers] == [0] * READERS

    return timed(run)


def main() -> None:
    given = options(__doc__, files=200, kilobytes=200)
    table = Table(f"{given.files} files of {given.kilobytes} KB, {given.latency_ms} ms")

    def compare(what: str, passes: dict[str, float], at_least: float) -> None:
        for name, seconds in passes.items():
            table.row(f"{what}: {name}", seconds)
        table.ratio(f"{what}: x the disk's speed", passes["local disk"], passes["pictofs"], at_least=at_least)

    def compare_disk(what: str, places: dict[str, Path]) -> None:
        if MAY_DROP_CACHES:
            compare(what, side_by_side(cat_from_disk, places, DISK_PASSES), 0.5)
        else:
            table.left_out(what, "only root may drop the page cache")

    with (
        scratch_folder() as scratch,
        far_sandbox(
            given.latency_ms, images=given.files, size_bytes=given.kilobytes * 1000, distinct=True
        ) as sandbox,
    ):
        local, local_large = scratch / "local", scratch / LARGE
        download_all(sandbox, scratch, local)
        sandbox.populate(dataset=LARGE, images=1, size_bytes=LARGE_BYTES)
        with (
            rclone_mount(local, scratch / "rclone", given.latency_ms) as rclone,
            Drive(scratch / "drive", sandbox, "--metadata-ttl", "10m") as drive,
        ):
            mounting_requests = sandbox.requests()
            ours = drive.mnt / DATASET
            places = {"local disk": local, "pictofs": ours}
            cold: dict[str, float] = {}
            again: dict[str, float] = {}
            if rclone is None:
                table.left_out("rclone mount", "not installed")
            else:
                places["rclone mount"] = rclone.mnt
                for what, seconds in (("cold", cold), ("again", again)):
                    rclone.reset()
                    seconds["rclone"] = cat(rclone.mnt)
                    table.row(f"{what}: rclone mount", seconds["rclone"], rclone.requests)
            for what, seconds in (("cold", cold), ("again", again)):
                seconds["pictofs"] = cat(ours)
                requests = sandbox.requests()
                table.row(f"{what}: pictofs", seconds["pictofs"], requests)
                if what == "cold":
                    cold_requests = requests
                sandbox.reset_stats()

            table.ratio("cold: share of rclone's time", cold["pictofs"], cold.get("rclone"), at_most=1 / 5)
            table.bound("cold: API requests, with those of mounting", cold_requests, at_most=4)
            table.bound("cold: API requests once mounted", cold_requests - mounting_requests, at_most=4)
            table.ratio("again: x rclone's time", again["pictofs"], again.get("rclone"), at_most=1)
            compare("page cache", side_by_side(cat, places, WARM_PASSES), 0.8)
            compare("page cache, read(2) alone", side_by_side(reads_alone, places, WARM_PASSES), 0.8)
            shutil.copytree(drive.mnt / LARGE, local_large)
            large = {"local disk": local_large, "pictofs": drive.mnt / LARGE}
            compare("page cache, read(2) alone, 50 MB", side_by_side(reads_alone, large, WARM_PASSES), 0.8)
            bring_in_small_pages(next(local_large.iterdir()))
            compare("… the local file in 4 KB pages", side_by_side(reads_alone, large, WARM_PASSES), 0.8)
            compare_disk("cache on disk", places)

        with Drive(scratch / "drive", sandbox, "--metadata-ttl", "10m", "--ro") as drive:
            places = {"local disk": local, "pictofs": drive.mnt / DATASET}
            cat(drive.mnt / DATASET)
            compare("read-only: page cache", side_by_side(cat, places, WARM_PASSES), 0.8)
            compare_disk("read-only: cache on disk", places)

        sandbox.reset_stats()
        with Drive(scratch / "parallel", sandbox) as drive, drive.sdk() as sdk:
            parallel_s = cat_in_parallel(drive.mnt / DATASET)
            table.row(f"cold, {READERS} readers: pictofs", parallel_s, sandbox.requests())
            sandbox.reset_stats()
            download = partial(sdk.datasets.download, DATASET, scratch / "sdk", mode="images_only")
            sdk_s = timed(partial(download, max_workers=10))
            table.row("cold: SDK, datasets.download(max_workers=10)", sdk_s, sandbox.requests())
        table.ratio(f"cold, {READERS} readers: x the SDK's time", parallel_s, sdk_s, at_most=1.3)
    table.print()


if __name__ == "__main__":
    main()
