"""Move 200 files and remove 1,000: until the command returns, and until all is on the server.

    python bench/change_files.py [--moved 200] [--removed 1000] [--latency-ms 50]

`mv` of files from one folder of a dataset into another, and `rm -r` of a folder, on mounts whose folders
have been listed before. rclone tells the server each change before the call returns, so it has one time.
"""

from __future__ import annotations

import time
from pathlib import Path

from _peers import DATASET, Drive, far_sandbox, make_listed, options, rclone_mount, scratch_folder, timed_run
from _tables import Table

SIZE_BYTES = 2000
FROM, TO = "folder-00", "folder-01"


def move(root: Path, count: int) -> float:
    """`mv` of the first files of one folder into the other."""
    files = sorted((root / FROM).iterdir())[:count]
    seconds = timed_run("mv", "-t", root / TO, *files)
    assert all((root / TO / file.name).exists() for file in files)
    return seconds


def main() -> None:
    given = options(__doc__, moved=200, removed=1000)
    table = Table(f"mv of {given.moved} files, rm -r of {given.removed}, {given.latency_ms} ms")
    # The files that are moved come from the one folder; what is removed is a folder of its own.
    layout = {"folders": 2, "images": 2 * given.moved, "size_bytes": SIZE_BYTES}
    gone = f"gone/{FROM}"
    rclone: dict[str, float] = {}
    with scratch_folder() as scratch:
        local = scratch / "local"
        make_listed(local, **layout)
        make_listed(local / "gone", folders=1, images=given.removed, size_bytes=SIZE_BYTES)
        with rclone_mount(local, scratch / "rclone", given.latency_ms) as peer:
            if peer is None:
                table.left_out("rclone mount", "not installed")
            else:
                timed_run("ls", "-lR", peer.mnt)
                peer.reset()
                rclone["mv"] = move(peer.mnt, given.moved)
                table.row("rclone mount: mv", rclone["mv"], peer.requests)
                peer.reset()
                rclone["rm -r"] = timed_run("rm", "-r", peer.mnt / gone)
                table.row("rclone mount: rm -r", rclone["rm -r"], peer.requests)
                assert not (local / gone).exists()

        returned: dict[str, float] = {}
        settled: dict[str, float] = {}
        requests: dict[str, int] = {}
        with far_sandbox(given.latency_ms, **layout) as sandbox:
            sandbox.populate(dataset="gone", folders=1, images=given.removed, size_bytes=SIZE_BYTES)
            with Drive(scratch / "drive", sandbox, "--metadata-ttl", "10m") as drive:
                timed_run("ls", "-lR", drive.mnt)
                changes = {
                    "mv": lambda: move(drive.mnt / DATASET, given.moved),
                    "rm -r": lambda: timed_run("rm", "-r", drive.mnt / gone),
                }
                for what, change in changes.items():
                    sandbox.reset_stats()
                    start = time.monotonic()
                    returned[what] = change()
                    assert drive.wait(600).returncode == 0
                    settled[what] = time.monotonic() - start
                    requests[what] = sandbox.requests()
                    table.row(f"pictofs: {what} returns", returned[what])
                    table.row(f"pictofs: {what}, until pictofs wait returns", settled[what], requests[what])
                moved = [path for path in drive.images(DATASET) if path.startswith(f"/{TO}/")]
                assert len(moved) == 2 * given.moved, f"{len(moved)} images are there"
                assert not drive.images("gone")
    for what in returned:
        theirs = rclone.get(what)
        table.ratio(f"{what} returns: share of rclone's time", returned[what], theirs, at_most=1 / 20)
        table.ratio(f"{what}, with wait: share of rclone's time", settled[what], theirs, at_most=1 / 20)
        table.bound(f"{what}: API requests", requests[what], at_most=6)
    table.print()


if __name__ == "__main__":
    main()
