"""Copy 1,000 images in, against the official SDK and the local disk, in one run.

    python bench/upload_1000.py [--files 1000] [--kilobytes 100] [--latency-ms 50]

Prints how long it takes until all is on the server (pictofs; `images.upload_from_directory` with 8 workers),
and how long `cp -r` itself takes (onto the drive; onto the local disk with fsync for each file). Machines
are noisy: quote the ratios. docs/BENCHMARKS.md has what was measured.
"""

from __future__ import annotations

import statistics
import time

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

REPEATS = 3
"""Copies to the local disk; their median is shown, since it is what the drive's copy is measured by."""


def main() -> None:
    given = options(__doc__, files=1000, kilobytes=100)
    table = Table(f"{given.files} files of {given.kilobytes} KB copied in, {given.latency_ms} ms")
    with scratch_folder() as scratch:
        source = scratch / "in"
        make_source(source, given.files, given.kilobytes * 1000)
        local_s = statistics.median(
            timed(lambda copy=number: copy_with_fsync(source, scratch / f"local-{copy}"))
            for number in range(REPEATS)
        )
        table.row("local disk, fsync for each file", local_s)
        with (
            far_sandbox(given.latency_ms, folders=0, images=0) as sandbox,
            Drive(scratch / "drive", sandbox) as drive,
        ):
            start = time.monotonic()
            copied_s = timed_run("cp", "-r", source, drive.mnt / DATASET / "new")
            table.row("cp -r onto the drive returns", copied_s)
            assert drive.wait(600).returncode == 0
            ours_s = time.monotonic() - start
            requests = sandbox.requests()
            table.row("… until all is on the server", ours_s, requests)
            assert len(drive.images(DATASET)) == given.files
            sandbox.reset_stats()
            with drive.sdk() as sdk:
                start = time.monotonic()
                report = sdk.images.upload_from_directory("theirs", source, max_workers=8)
                theirs_s = time.monotonic() - start
            assert report.images_uploaded == given.files, report.failures[:3]
            table.row("SDK, upload_from_directory(max_workers=8)", theirs_s, sandbox.requests())
    table.ratio("until all is on the server: share of the SDK's time", ours_s, theirs_s, at_most=0.5)
    table.bound("API requests", requests, at_most=12)
    table.ratio("cp -r returns: x the local disk with fsync", copied_s, local_s, at_most=4)
    table.print()


if __name__ == "__main__":
    main()
