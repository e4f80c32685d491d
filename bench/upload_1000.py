"""Copy 1,000 images in, against the official SDK and the local disk, in one run.

    python bench/upload_1000.py [--files 1000] [--kilobytes 100] [--latency-ms 50]

Prints how long it takes until all is on the server (pictofs; `images.upload_from_directory` with 8 workers),
and how long `cp -r` itself takes (onto the drive; onto the local disk with fsync for each file). Machines
are noisy: quote the ratios. docs/BENCHMARKS.md has what was measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from drives import Drive, picture
from sandbox_process import SandboxProcess


def make_source(folder: Path, files: int, bytes_each: int) -> None:
    """Distinct images of a given size: a small JPEG, padded after its end marker."""
    folder.mkdir()
    for number in range(files):
        data = picture(number)
        (folder / f"{number:05}.jpg").write_bytes(data + bytes(max(0, bytes_each - len(data))))


def copy_with_fsync(source: Path, target: Path) -> None:
    """What `cp -r` on a disk would cost if it promised what the drive promises."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        with path.open("rb") as read, (target / path.name).open("wb") as write:
            shutil.copyfileobj(read, write)
            write.flush()
            os.fsync(write.fileno())


def timed(what: str, seconds: float) -> float:
    print(f"{what:<58}{seconds:8.2f} s")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--kilobytes", type=int, default=100)
    parser.add_argument("--latency-ms", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pictofs-bench-") as scratch_name:
        scratch = Path(scratch_name)
        source = scratch / "in"
        make_source(source, options.files, options.kilobytes * 1000)

        start = time.monotonic()
        copy_with_fsync(source, scratch / "local")
        local_s = timed("local disk, fsync for each file", time.monotonic() - start)

        with SandboxProcess("--latency-ms", str(options.latency_ms)) as sandbox:
            sandbox.populate(dataset="ours", folders=0, images=0)
            sandbox.reset_stats()
            with Drive(scratch / "drive", sandbox) as drive:
                start = time.monotonic()
                subprocess.run(["cp", "-r", source, drive.mnt / "ours" / "new"], check=True)
                copied_s = timed("cp -r onto the drive returns", time.monotonic() - start)
                assert drive.wait(600).returncode == 0
                ours_s = timed("… until all is on the server", time.monotonic() - start)
                print(f"{'… API requests':<58}{sandbox.requests():8}")
                assert len(drive.images("ours")) == options.files
                sandbox.reset_stats()
                with drive.sdk() as sdk:
                    start = time.monotonic()
                    report = sdk.images.upload_from_directory("theirs", source, max_workers=8)
                    theirs_s = timed(
                        "official SDK, upload_from_directory(max_workers=8)", time.monotonic() - start
                    )
                assert report.images_uploaded == options.files, report.failures[:3]
                print(f"{'… API requests':<58}{sandbox.requests():8}")
        print(f"until all is on the server: {ours_s / theirs_s:.2f} of the SDK's time (to hold: 0.5)")
        print(f"cp -r: {copied_s / local_s:.2f} x the local disk with fsync (to hold: 4)")


if __name__ == "__main__":
    main()
