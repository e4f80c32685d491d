"""List 10,000 images: `ls -l` of one folder from memory, and `ls -lR` of 20 folders from nothing.

    python bench/list_folders.py [--images 10000] [--folders 20] [--latency-ms 50]

The first is asked once before, so that the mount knows the listing; then the kernel forgets all it knows of
names and attributes, and `ls -l` is timed. The second is the first look at a fresh mount. `ls -l` runs with
`--numeric-uid-gid`, which spares it the user database; it still stats each file.
"""

from __future__ import annotations

from pathlib import Path

from _peers import (
    DATASET,
    MAY_DROP_CACHES,
    Drive,
    drop_kernel_caches,
    far_sandbox,
    make_listed,
    options,
    rclone_mount,
    scratch_folder,
    side_by_side,
    timed_run,
)
from _tables import Table

SIZE_BYTES = 2000
PASSES = 3


def list_long(folder: Path) -> float:
    return timed_run("ls", "-l", "--numeric-uid-gid", folder)


def list_known(folder: Path) -> float:
    """`ls -l` of a folder whose listing is known to the mount, not to the kernel."""
    drop_kernel_caches()
    return list_long(folder)


def list_all(folder: Path) -> float:
    return timed_run("ls", "-lR", "--numeric-uid-gid", folder)


def main() -> None:
    given = options(__doc__, images=10_000, folders=20)
    with scratch_folder() as scratch:
        if MAY_DROP_CACHES:
            flat(scratch, given.images, given.latency_ms)
        else:
            print("ls -l with kernel caches cold is left out: only root may drop them")
        nested(scratch, given.images, given.folders, given.latency_ms)


def flat(scratch: Path, images: int, latency_ms: float) -> None:
    table = Table(f"ls -l of one folder with {images} images, listing known, kernel caches cold")
    local = scratch / "flat"
    make_listed(local, folders=0, images=images, size_bytes=SIZE_BYTES)
    with (
        far_sandbox(latency_ms, images=images, size_bytes=SIZE_BYTES) as sandbox,
        rclone_mount(local, scratch / "rclone-flat", latency_ms) as rclone,
        Drive(scratch / "drive-flat", sandbox, "--metadata-ttl", "10m") as drive,
    ):
        places = {"local disk": local, "pictofs": drive.mnt / DATASET}
        if rclone is None:
            table.left_out("rclone mount", "not installed")
        else:
            places["rclone mount"] = rclone.mnt
        for folder in places.values():
            list_long(folder)
        best = side_by_side(list_known, places, PASSES)
    for name, seconds in best.items():
        table.row(name, seconds)
    table.ratio("share of rclone's time", best["pictofs"], best.get("rclone mount"), at_most=1 / 4)
    table.print()


def nested(scratch: Path, images: int, folders: int, latency_ms: float) -> None:
    table = Table(f"ls -lR of {images} images in {folders} folders, cold, {latency_ms:g} ms")
    local = scratch / "nested"
    make_listed(local, folders=folders, images=images, size_bytes=SIZE_BYTES)
    table.row("local disk", list_all(local))
    rclone_s = None
    with rclone_mount(local, scratch / "rclone-nested", latency_ms) as peer:
        if peer is None:
            table.left_out("rclone mount", "not installed")
        else:
            rclone_s = list_all(peer.mnt)
            table.row("rclone mount", rclone_s, peer.requests)
            peer.reset()
            table.row("rclone mount: again", list_all(peer.mnt), peer.requests)
    with (
        far_sandbox(latency_ms, folders=folders, images=images, size_bytes=SIZE_BYTES) as sandbox,
        Drive(scratch / "drive-nested", sandbox) as drive,
    ):
        ours_s = list_all(drive.mnt / DATASET)
        requests = sandbox.requests()
        table.row("pictofs", ours_s, requests)
        sandbox.reset_stats()
        table.row("pictofs: again", list_all(drive.mnt / DATASET), sandbox.requests())
    table.ratio("share of rclone's time", ours_s, rclone_s, at_most=1 / 3)
    table.bound("API requests, with those of mounting", requests, at_most=4)
    table.print()


if __name__ == "__main__":
    main()
