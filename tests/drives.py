"""The whole thing for tests: a sandbox, the drive mounted from it by the command line, the SDK as witness.

with Drive(tmp_path, sandbox) as drive:
    shutil.copy2(photo, drive.mnt / "animals")
    assert drive.run("wait").returncode == 0
    drive.kill(); drive.mount()
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

import mounts
import pictograph
from PIL import Image as PillowImage
from sandbox_process import SandboxProcess

COMMAND_TIMEOUT_S = 120.0


class Drive:
    """A drive at `folder/mnt`, with home, state, cache and runtime folders of its own below `folder`.

    Leaving the block unmounts it, which must work, and checks that its processes are gone.
    """

    def __init__(self, folder: Path, sandbox: SandboxProcess, *arguments: str) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.arguments = arguments
        self.mnt = folder / "mnt"
        self.mnt.mkdir(parents=True, exist_ok=True)
        self.env = {
            **os.environ,
            "HOME": str(folder / "home"),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PICTOGRAPH_API_KEY": sandbox.api_key,
            "PICTOGRAPH_BASE_URL": sandbox.base_url,
            # Another file system's free space is not what most tests are about.
            "PICTOFS_MIN_FREE": "0",
        }

    # ── the command line ──

    def run(
        self, *arguments: str, check: bool = False, timeout_s: float = COMMAND_TIMEOUT_S
    ) -> subprocess.CompletedProcess[str]:
        """`pictofs …` in this drive's environment."""
        done = subprocess.run(
            [sys.executable, "-m", "pictofs", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr + self.log()
        return done

    def mount(self, *arguments: str) -> None:
        """Mount it in the background, as a person does."""
        self.run("mount", str(self.mnt), *self.arguments, *arguments, check=True)

    def umount(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`pictofs umount`, which must work."""
        return self.run("umount", str(self.mnt), *arguments, check=True)

    def wait(self, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """`pictofs wait`; look at the exit status."""
        return self.run("wait", str(self.mnt), "--timeout", f"{timeout_s:g}s")

    def status(self) -> dict[str, Any]:
        """`pictofs status --json`."""
        report: dict[str, Any] = json.loads(self.run("status", str(self.mnt), "--json", check=True).stdout)
        return report

    def log(self) -> str:
        """What the daemon has logged."""
        logs = sorted((self.folder / "state").rglob("pictofs.log"))
        return "\n".join(path.read_text(errors="replace") for path in logs)

    # ── the daemon ──

    def pid(self) -> int:
        """The daemon's process id."""
        found = self.status()["pid"]
        assert isinstance(found, int)
        return found

    def pids(self) -> list[int]:
        """Processes that serve this mount point, from the process table: also when nothing answers."""
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdecimal() and int(folder.name) != os.getpid():
                try:
                    words = (folder / "cmdline").read_bytes().split(b"\0")
                except OSError:
                    continue
                if b"pictofs" in words and b"mount" in words and str(self.mnt).encode() in words:
                    found.append(int(folder.name))
        return found

    def kill(self, number: int = signal.SIGKILL) -> None:
        """kill -9 of the daemon; its mount point stays, dead."""
        pids = self.pids()
        assert pids, f"no daemon to kill; {self.log()}"
        for pid in pids:
            os.kill(pid, number)
        mounts.wait_until(lambda: not self.pids(), "the daemon is gone")

    def __enter__(self) -> Drive:
        self.mount()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and mounts.mount_type(self.mnt) is not None:
                self.umount()
                mounts.wait_until(lambda: not self.pids(), "the daemon has ended")
        finally:
            mounts.force_unmount(self.mnt)
            for pid in self.pids():
                os.kill(pid, signal.SIGKILL)
            mounts.wait_until(lambda: not self.pids(), "the daemon is gone")

    # ── the witness ──

    def sdk(self) -> pictograph.Client:
        """The official SDK on the same account; close it."""
        return pictograph.Client(api_key=self.sandbox.api_key, base_url=self.sandbox.base_url)

    def images(self, dataset: str, *, include_archived: bool = False) -> dict[str, Any]:
        """What the SDK sees in a dataset: path (`/a/x.jpg`) → its image. A path seen twice fails."""
        found: dict[str, Any] = {}
        with self.sdk() as sdk:
            for image in sdk.images.iter(dataset, include_archived=include_archived):
                path = f"{(image.directory_path or '/').rstrip('/')}/{image.filename}"
                assert path not in found, f"{path} is there twice"
                found[path] = image
        return found

    def download(self, dataset: str, path: str) -> bytes:
        """An image's bytes as the SDK downloads them."""
        target = self.folder / "witness"
        with self.sdk() as sdk:
            sdk.images.download(dataset, path.lstrip("/"), str(target))
        return target.read_bytes()


def picture(number: int = 0, form: str = "JPEG", size: tuple[int, int] = (32, 24), **options: Any) -> bytes:
    """A small image file whose pixels, and so bytes, depend on `number`."""
    image = PillowImage.new("RGB", size, ((number * 37) % 256, (number // 7) % 256, (number * 11) % 256))
    for bit in range(24):  # 24 bits of the number in the top row survive any JPEG quality
        if number >> bit & 1:
            image.putpixel((bit % size[0], bit // size[0]), (255, 255, 255))
    out = io.BytesIO()
    image.save(out, form, **({"quality": 95} if form == "JPEG" else {}), **options)
    return out.getvalue()


def fill(sandbox: SandboxProcess, dataset: str, sizes: list[int]) -> dict[str, bytes]:
    """Images of random bytes, by name."""
    contents = {f"{n:04}.jpg": random.Random(f"{dataset}{n}").randbytes(size) for n, size in enumerate(sizes)}
    rows = [
        {"filename": name, "content_base64": base64.b64encode(data).decode()}
        for name, data in contents.items()
    ]
    for start in range(0, len(rows), 20):
        sandbox.populate(dataset=dataset, raw_images=rows[start : start + 20])
    sandbox.reset_stats()
    return contents
