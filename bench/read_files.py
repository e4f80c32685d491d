"""Read 200 x 200 KB: cold, again, from the page cache, from the cache on disk, side by side.

    python bench/read_files.py [--files 200] [--kilobytes 200] [--latency-ms 50]

`cat` of all files at once, onto /dev/null; the 8 parallel readers are 8 `cat` processes of 1/8 of the files.
One file of 50 MB shows the page cache without the cost of opening files.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
from pathlib import Path

from _peers import (
    DATASET,
    Drive,
    download_all,
    drop_kernel_caches,
    far_sandbox,
    options,
    rclone_mount,
    scratch_folder,
    timed,
    timed_run,
)
from _tables import Table

REPEATS = 7
"""Passes over the page cache; their median is shown, since each takes only milliseconds."""
DISK_REPEATS = 3
READERS = 8
LARGE_BYTES = 50_000_000


def cat(folder: Path) -> float:
    return timed_run("cat", *sorted(folder.iterdir()))


def warm(folder: Path) -> float:
    return statistics.median(cat(folder) for _ in range(REPEATS))


def from_disk(folder: Path) -> float:
    """With names and attributes known, as after `ls`, and no bytes in RAM."""
    passes = []
    for _ in range(DISK_REPEATS):
        drop_kernel_caches()
        files = sorted(folder.iterdir())
        for file in files:
            file.stat()
        passes.append(timed_run("cat", *files))
    return statistics.median(passes)


def in_parallel(folder: Path) -> float:
    files = sorted(folder.iterdir())
    start_all = [files[number::READERS] for number in range(READERS)]

    def run() -> None:
        running = [subprocess.Popen(["cat", *part], stdout=subprocess.DEVNULL) for part in start_all]
        assert [process.wait() for process in running] == [0] * READERS

    return timed(run)


def main() -> None:
    given = options(__doc__, files=200, kilobytes=200)
    table = Table(f"{given.files} files of {given.kilobytes} KB, {given.latency_ms} ms")
    rclone: dict[str, float] = {}
    with (
        scratch_folder() as scratch,
        far_sandbox(
            given.latency_ms, images=given.files, size_bytes=given.kilobytes * 1000, distinct=True
        ) as sandbox,
    ):
        local = scratch / "local"
        download_all(sandbox, scratch, local)
        sandbox.populate(dataset="large", images=1, size_bytes=LARGE_BYTES)
        may_drop = drop_kernel_caches()

        cat(local)
        local_warm_s = warm(local)
        table.row("local disk: page cache", local_warm_s)
        if may_drop:
            local_disk_s = from_disk(local)
            table.row("local disk: page cache cold", local_disk_s)

        with rclone_mount(local, scratch / "rclone", given.latency_ms) as peer:
            if peer is None:
                table.left_out("rclone mount", "not installed")
            else:
                for what in ("cold", "again"):
                    peer.reset()
                    rclone[what] = cat(peer.mnt)
                    table.row(f"rclone mount: {what}", rclone[what], peer.requests)
                rclone["warm"] = warm(peer.mnt)
                table.row("rclone mount: page cache", rclone["warm"])
                if may_drop:
                    table.row("rclone mount: its cache on disk, page cache cold", from_disk(peer.mnt))

        sandbox.reset_stats()
        with Drive(scratch / "drive", sandbox) as drive:
            ours = drive.mnt / DATASET
            cold_s = cat(ours)
            cold_requests = sandbox.requests()
            table.row("pictofs: cold", cold_s, cold_requests)
            sandbox.reset_stats()
            again_s = cat(ours)
            table.row("pictofs: again", again_s, sandbox.requests())
            warm_s = warm(ours)
            table.row("pictofs: page cache", warm_s)
            if may_drop:
                disk_s = from_disk(ours)
                table.row("pictofs: its cache on disk, page cache cold", disk_s)
            else:
                table.left_out("page cache cold", "only root may drop it")
            large = scratch / "large"
            shutil.copytree(drive.mnt / "large", large)
            local_large_s, large_s = warm(large), warm(drive.mnt / "large")
            table.row("local disk: page cache, one file of 50 MB", local_large_s)
            table.row("pictofs: page cache, one file of 50 MB", large_s)

        sandbox.reset_stats()
        with Drive(scratch / "parallel", sandbox) as drive:
            parallel_s = in_parallel(drive.mnt / DATASET)
            table.row(f"pictofs: cold, {READERS} readers", parallel_s, sandbox.requests())
            sandbox.reset_stats()
            with drive.sdk() as sdk:
                sdk_s = timed(
                    lambda: sdk.datasets.download(
                        DATASET, scratch / "sdk", mode="images_only", max_workers=10
                    )
                )
            table.row("SDK, datasets.download(max_workers=10)", sdk_s, sandbox.requests())

    table.ratio("cold: share of rclone's time", cold_s, rclone.get("cold"), at_most=1 / 5)
    table.bound("cold: API requests", cold_requests, at_most=4)
    table.ratio("again: x rclone's time", again_s, rclone.get("again"), at_most=1)
    table.ratio("page cache: x the local disk's speed", local_warm_s, warm_s, at_least=0.8)
    table.ratio("page cache, one file: x the local disk's speed", local_large_s, large_s, at_least=0.8)
    if may_drop:
        table.ratio("cache on disk, page cache cold: x the disk's speed", local_disk_s, disk_s, at_least=0.5)
    table.ratio(f"cold, {READERS} readers: x the SDK's time", parallel_s, sdk_s, at_most=1.3)
    table.print()


if __name__ == "__main__":
    main()
