"""A dataset of 100,000 images: the first full listing, a remount, and the daemon's memory.

    python bench/list_100000.py [--images 100000] [--folders 100] [--latency-ms 50]

First on a fresh mount: `ls` of one folder, then `ls -lR` of everything. Then the same cache folder is mounted
again: until `pictofs mount` returns, which is when the drive answers, and until one folder is listed.
Requests count from the start of each mount; memory is what the daemon has resident after `ls -lR`.
"""

from __future__ import annotations

import time

from _peers import DATASET, Drive, far_sandbox, options, resident_mb, scratch_folder, timed, timed_run
from _tables import Table

SIZE_BYTES = 2000


def main() -> None:
    given = options(__doc__, images=100_000, folders=100)
    table = Table(f"{given.images} images in {given.folders} folders, {given.latency_ms} ms")
    with (
        scratch_folder() as scratch,
        far_sandbox(
            given.latency_ms, folders=given.folders, images=given.images, size_bytes=SIZE_BYTES
        ) as sandbox,
    ):
        # What any Python program takes to start is no part of mounting: it is shown beside it.
        drive = Drive(scratch / "drive", sandbox)
        table.row("pictofs --version", timed(lambda: drive.run("--version", check=True)))
        for mount in ("first mount", "mounted again"):
            sandbox.reset_stats()
            start = time.monotonic()
            with drive:
                mounted_s = time.monotonic() - start
                table.row(f"{mount}: pictofs mount returns", mounted_s, sandbox.requests())
                first = timed_run("ls", drive.mnt / DATASET / "folder-00")
                table.row(f"{mount}: ls of one folder", first, sandbox.requests())
                everything = timed_run("ls", "-lR", "--numeric-uid-gid", drive.mnt / DATASET)
                requests = sandbox.requests()
                table.row(f"{mount}: ls -lR of all", everything, requests)
                memory_mb = resident_mb(drive.pid())
            if mount == "first mount":
                first_requests = requests
    table.bound("first full listing: API requests", first_requests, at_most=14)
    table.bound("mounted again: seconds until the mount answers", mounted_s, at_most=1)
    table.bound("mounted again: seconds until a folder is listed, too", mounted_s + first, at_most=1)
    table.bound("mounted again: MB resident", memory_mb, at_most=200)
    table.print()


if __name__ == "__main__":
    main()
