"""Read the first 64 KB of a 50 MB image over a line of 100 Mbit/s.

    python bench/read_head.py [--megabytes 50] [--mbps 100] [--latency-ms 50]

As a file manager does for a thumbnail, on a fresh mount, after `ls -l`: what the read itself costs. A round
trip is a request, to the API or to the storage; that they are made one after another is the worst case.
The first image of a dataset and a later one are asked for in different ways, so both are measured.
"""

from __future__ import annotations

from pathlib import Path

from _peers import (
    DATASET,
    Drive,
    SandboxProcess,
    download_all,
    far_sandbox,
    options,
    rclone_mount,
    scratch_folder,
    timed,
    timed_run,
)
from _tables import Table

HEAD_BYTES = 64 * 1024
IMAGES = 3


def read_head(path: Path) -> float:
    def read() -> None:
        with path.open("rb", buffering=0) as file:
            assert len(file.read(HEAD_BYTES)) == HEAD_BYTES

    return timed(read)


def round_trips(sandbox: SandboxProcess) -> int:
    stats = sandbox.stats()
    total: int = stats["api"]["total"] + stats["storage"]["total"]
    return total


def main() -> None:
    given = options(__doc__, megabytes=50, mbps=100)
    size_bytes = given.megabytes * 1_000_000
    table = Table(
        f"first 64 KB of a {given.megabytes} MB image, {given.latency_ms} ms, {given.mbps} Mbit/s"
        " (requests: round trips)"
    )
    with (
        scratch_folder() as scratch,
        far_sandbox(
            given.latency_ms, given.mbps, images=IMAGES, size_bytes=size_bytes, distinct=True
        ) as sandbox,
    ):
        local = scratch / "local"
        download_all(sandbox, scratch, local)
        with rclone_mount(local, scratch / "rclone", given.latency_ms, given.mbps) as peer:
            if peer is None:
                table.left_out("rclone mount", "not installed")
            else:
                timed_run("ls", "-l", peer.mnt)
                peer.reset()
                table.row("rclone mount", read_head(peer.mnt / "image-00000.jpg"), peer.requests)
        most = 0
        with Drive(scratch / "drive", sandbox) as drive:
            folder = drive.mnt / DATASET
            timed_run("ls", "-l", folder)
            for number, which in enumerate(("first", "second", "third")):
                sandbox.reset_stats()
                seconds = read_head(folder / f"image-{number:05d}.jpg")
                trips = round_trips(sandbox)
                most = max(most, trips)
                table.row(f"pictofs: the {which} image", seconds, trips)
    table.bound("round trips", most, at_most=3)
    table.print()


if __name__ == "__main__":
    main()
