"""What the drive is measured against, on the same files in one run: rclone, the official SDK, the local disk.

rclone mounts, in its cached mode, a local folder that `rclone serve webdav` serves behind a `LatencyProxy` of
the sandbox's latency. Where rclone is not installed its rows say so.

The scripts get the sandbox and the drive from here too: the very ones of tests/.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from _proxy import LatencyProxy
from drives import Drive, picture
from mounts import force_unmount, unmount, wait_mounted, wait_until
from sandbox_process import SandboxProcess

__all__ = [
    "DATASET",
    "MAY_DROP_CACHES",
    "Drive",
    "SandboxProcess",
    "copy_with_fsync",
    "download_all",
    "drop_kernel_caches",
    "far_sandbox",
    "make_listed",
    "make_source",
    "options",
    "rclone_mount",
    "resident_mb",
    "scratch_folder",
    "side_by_side",
    "timed",
    "timed_run",
]

DATASET = "bench"
RCLONE_CACHE = "20G"
"""Room for everything, so that nothing is evicted."""


def options(about: str | None, **defaults: float) -> argparse.Namespace:
    """The command line: `--latency-ms`, and a number for each of `defaults`."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {**defaults, "latency_ms": 50}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, metavar="N")
    return parser.parse_args()


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder that goes with everything in it.

    ext4 passes over inodes that were deleted in the last minutes one by one: beside what an earlier run has
    removed, making a file takes up to forty times as long. A folder with the attribute T spreads the folders
    in it over the disk, away from that. Other file systems do without.
    """
    with tempfile.TemporaryDirectory(prefix="pictofs-bench-") as name:
        if shutil.which("chattr"):
            subprocess.run(["chattr", "+T", name], stderr=subprocess.DEVNULL)
        with tempfile.TemporaryDirectory(dir=name) as scratch:
            yield Path(scratch)


# ── time ──


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.monotonic()
    work()
    return time.monotonic() - start


def timed_run(*command: str | os.PathLike[str]) -> float:
    """Seconds that a command takes, its output thrown away. It must end well."""
    return timed(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL))


def side_by_side(
    measure: Callable[[Path], float], places: Mapping[str, Path], repeats: int
) -> dict[str, float]:
    """The best of several passes for each place, taken in turn: what disturbs the machine hits all alike."""
    passes = [{name: measure(folder) for name, folder in places.items()} for _ in range(repeats)]
    return {name: min(one[name] for one in passes) for name in places}


MAY_DROP_CACHES = os.access("/proc/sys/vm/drop_caches", os.W_OK)


def drop_kernel_caches() -> None:
    """Forget what the kernel knows of files, names and attributes, everywhere. Only root may."""
    os.sync()  # what is dirty stays otherwise
    Path("/proc/sys/vm/drop_caches").write_text("3\n")
    subprocess.run(["cat", "/dev/null"])  # the programs that are timed come back from the disk
    subprocess.run(["ls", "-d", "/"], stdout=subprocess.DEVNULL)


def resident_mb(pid: int) -> float:
    """A process's memory that is in RAM, in MB."""
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found, f"/proc/{pid}/status has no VmRSS"
    return int(found[1]) * 1024 / 1e6


# ── files ──


def make_source(folder: Path, files: int, bytes_each: int) -> None:
    """Distinct images of a given size: a small JPEG, padded after its end marker."""
    folder.mkdir(parents=True)
    for number in range(files):
        data = picture(number)
        (folder / f"{number:05}.jpg").write_bytes(data + bytes(max(0, bytes_each - len(data))))


def make_listed(folder: Path, *, folders: int, images: int, size_bytes: int) -> None:
    """Files of the names and sizes that `SandboxProcess.populate` gives its images, without their bytes."""
    for number in range(images):
        place = folder / f"folder-{number % folders:02d}" if folders else folder
        if number < max(folders, 1):
            place.mkdir(parents=True)
        with (place / f"image-{number:05d}.jpg").open("wb") as file:
            file.truncate(size_bytes)


def copy_with_fsync(source: Path, target: Path) -> None:
    """What `cp -r` on a disk would cost if it promised what the drive promises."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        with path.open("rb") as read, (target / path.name).open("wb") as write:
            shutil.copyfileobj(read, write)
            write.flush()
            os.fsync(write.fileno())


# ── peers ──


@contextmanager
def far_sandbox(latency_ms: float, mbps: float = 0.0, **populated: object) -> Iterator[SandboxProcess]:
    """A sandbox so far away, with `DATASET` filled as `populated` says (see populate.py); counts at 0."""
    with SandboxProcess("--latency-ms", f"{latency_ms:g}", "--mbps", f"{mbps:g}") as sandbox:
        sandbox.populate(dataset=DATASET, **populated)
        sandbox.reset_stats()
        yield sandbox


def download_all(sandbox: SandboxProcess, scratch: Path, target: Path) -> None:
    """The dataset's images in a local folder, by the official SDK, without latency and uncounted."""
    before = sandbox.faults()
    sandbox.faults(latency_ms=0, mbps=0)
    with Drive(scratch / "not-mounted", sandbox).sdk() as sdk:
        report = sdk.datasets.download(DATASET, target, mode="images_only", max_workers=10)
    assert not report.failures, report.failures[:3]
    sandbox.faults(latency_ms=before["latency_ms"], mbps=before["mbps"])
    sandbox.reset_stats()


class Rclone:
    """A mount by rclone; `requests` counts what it asked since `reset`."""

    def __init__(self, mnt: Path, proxy: LatencyProxy) -> None:
        self.mnt = mnt
        self._proxy = proxy
        self._before = 0

    @property
    def requests(self) -> int:
        return self._proxy.requests - self._before

    def reset(self) -> None:
        self._before = self._proxy.requests


@contextmanager
def rclone_mount(
    folder: Path, scratch: Path, latency_ms: float, mbps: float = 0.0
) -> Iterator[Rclone | None]:
    """`folder`, served and mounted by rclone with an empty cache, as far away as the sandbox.

    None where rclone is not installed.
    """
    if shutil.which("rclone") is None:
        yield None
        return
    scratch.mkdir()
    mnt = scratch / "mnt"
    mnt.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with (
        _rclone(scratch, "serve", "webdav", folder, "--addr", f"127.0.0.1:{port}") as server,
        LatencyProxy(port, latency_ms / 1000, mbps) as proxy,
    ):
        wait_until(lambda: server.poll() is not None or _answers(port), "rclone serves")
        flags = ["--webdav-url", f"http://127.0.0.1:{proxy.port}", "--webdav-vendor", "other"]
        flags += ["--vfs-cache-mode", "full", "--vfs-cache-max-size", RCLONE_CACHE, "--dir-cache-time", "1h"]
        try:
            with _rclone(scratch, "mount", ":webdav:", mnt, *flags) as mounted:
                wait_mounted(mnt, lambda: mounted.poll() is None)
                peer = Rclone(mnt, proxy)
                peer.reset()
                yield peer
                unmount(mnt)
                mounted.wait(30)
        finally:
            force_unmount(mnt)


@contextmanager
def _rclone(scratch: Path, *arguments: str | os.PathLike[str]) -> Iterator[subprocess.Popen[bytes]]:
    """An rclone process with no config but ours and a cache below `scratch`; ended with the block."""
    own: Sequence[str] = ("--config", str(scratch / "rclone.conf"), "--cache-dir", str(scratch / "cache"))
    with (scratch / f"{arguments[0]}.log").open("wb") as log:
        process = subprocess.Popen(["rclone", *arguments, *own], stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
