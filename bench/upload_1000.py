"""Copy 1,000 images in, against the official SDK and the local disk, in one run.

    python bench/upload_1000.py [--files 1000] [--kilobytes 100] [--rounds 3] [--latency-ms 50]

How long `cp -r` itself takes, onto the drive and, just before, onto the local disk with fsync for each file:
a pair in each round, since a shared disk is fast in one minute and slow in the next; the median of their
ratios counts. How long it takes until all is on the server: the first round, beside the SDK's
`images.upload_from_directory` with 8 workers.
"""

from __future__ import annotations

import statistics
import time
from functools import partial

from _peers import (
    DATASET,
    Drive,
    copy_with_fsync,
    far_sandbox,
    make_source,
    options,
    scratch_folder,
    timed,
    timed_run,
)
from _tables import Table


def main() -> None:
    given = options(__doc__, files=1000, kilobytes=100, rounds=3)
    table = Table(f"{given.files} files of {given.kilobytes} KB copied in, {given.latency_ms} ms")
    copies: list[float] = []
    with scratch_folder() as scratch:
        source = scratch / "in"
        make_source(source, given.files, given.kilobytes * 1000)
        with (
            far_sandbox(given.latency_ms, folders=0, images=0) as sandbox,
            Drive(scratch / "drive", sandbox) as drive,
        ):
            for number in range(given.rounds):
                local_s = timed(partial(copy_with_fsync, source, scratch / f"local-{number}"))
                table.row(f"round {number + 1}: local disk, fsync for each file", local_s)
                start = time.monotonic()
                copied_s = timed_run("cp", "-r", source, drive.mnt / DATASET / f"new-{number}")
                table.row(f"round {number + 1}: cp -r onto the drive returns", copied_s)
                assert drive.wait(600).returncode == 0
                copies.append(copied_s / local_s)
                if number == 0:
                    ours_s, requests = time.monotonic() - start, sandbox.requests()
                    table.row("round 1: … until all is on the server", ours_s, requests)
            assert len(drive.images(DATASET)) == given.rounds * given.files
            sandbox.reset_stats()
            with drive.sdk() as sdk:
                start = time.monotonic()
                report = sdk.images.upload_from_directory("theirs", source, max_workers=8)
                theirs_s = time.monotonic() - start
            assert report.images_uploaded == given.files, report.failures[:3]
            table.row("SDK, upload_from_directory(max_workers=8)", theirs_s, sandbox.requests())
    table.ratio("until all is on the server: share of the SDK's time", ours_s, theirs_s, at_most=0.5)
    table.bound("API requests", requests, at_most=12)
    table.bound("cp -r returns: x the local disk with fsync", statistics.median(copies), at_most=4)
    table.print()


if __name__ == "__main__":
    main()
