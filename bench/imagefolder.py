"""An epoch as torchvision's ImageFolder makes it: 4 processes read and decode 1,000 images in random order.

    python bench/imagefolder.py [--images 1000] [--folders 10] [--processes 4] [--latency-ms 50]

The folders are walked first, as ImageFolder does to find classes and samples; then each process opens its
share of a shuffled order with Pillow. Twice, on a mount that is fresh the first time; the local disk beside.
"""

from __future__ import annotations

import multiprocessing
import os
import random
from pathlib import Path

from _peers import DATASET, Drive, download_all, far_sandbox, options, scratch_folder, timed
from _tables import Table
from PIL import Image

SIZE_BYTES = 100_000


def samples(root: Path) -> list[Path]:
    """What ImageFolder finds: the files of each class folder, sorted."""
    return sorted(
        Path(folder) / name
        for place in sorted(entry.path for entry in os.scandir(root) if entry.is_dir())
        for folder, _, names in os.walk(place)
        for name in names
    )


def load(path: Path) -> tuple[int, int]:
    """What ImageFolder's loader does."""
    with path.open("rb") as file:
        picture = Image.open(file)
        return picture.convert("RGB").size


def epoch(root: Path, images: int, processes: int) -> float:
    def run() -> None:
        order = samples(root)
        assert len(order) == images, f"{len(order)} images found"
        random.Random(0).shuffle(order)
        with multiprocessing.get_context("spawn").Pool(processes) as pool:
            for size in pool.imap(load, order, chunksize=8):
                assert size == (48, 32)

    return timed(run)


def main() -> None:
    given = options(__doc__, images=1000, folders=10, processes=4)
    table = Table(
        f"ImageFolder: {given.images} images in {given.folders} folders, {given.processes} processes,"
        f" {given.latency_ms} ms"
    )
    with (
        scratch_folder() as scratch,
        far_sandbox(
            given.latency_ms,
            folders=given.folders,
            images=given.images,
            size_bytes=SIZE_BYTES,
            distinct=True,
        ) as sandbox,
    ):
        with Drive(scratch / "drive", sandbox) as drive:
            root = drive.mnt / DATASET
            first_s = epoch(root, given.images, given.processes)
            requests = sandbox.requests()
            table.row("pictofs: first epoch", first_s, requests)
            sandbox.reset_stats()
            second_s = epoch(root, given.images, given.processes)
            table.row("pictofs: second epoch", second_s, sandbox.requests())
        local = scratch / "local"
        download_all(sandbox, scratch, local)
        images = sorted(local.rglob("*.jpg"))
        for number in range(given.folders):
            (local / f"class-{number:02d}").mkdir()
        for number, image in enumerate(images):
            image.rename(local / f"class-{number % given.folders:02d}" / image.name)
        table.row("local disk", epoch(local, given.images, given.processes))
    table.bound("API requests of the first epoch, with those of mounting", requests, at_most=6)
    table.print()


if __name__ == "__main__":
    main()
