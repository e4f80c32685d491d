"""What the machine acts on: the drive, composed in this process or mounted, with the official SDK beside it.

Both are the whole drive on a real sandbox, asked through its control socket; they differ in how a program
reaches it, and in how it may end.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import mounts
import pictograph
from drives import Drive
from model_disks import Disk, OsDisk, VfsDisk
from sandbox_process import SandboxProcess

from pictofs import settings
from pictofs.api import credentials
from pictofs.cli import watching
from pictofs.mount import control
from pictofs.mount.lifecycle import _Mount
from pictofs.mount.status import StatusReport

SETTLED_WITHIN_S = 60.0


class World:
    """A drive and its account. `disk` changes with each `restart`."""

    disk: Disk

    def __init__(self, sandbox: SandboxProcess, mountpoint: Path) -> None:
        self.sandbox = sandbox
        self.sdk = pictograph.Client(api_key=sandbox.api_key, base_url=sandbox.base_url)
        self._mountpoint = mountpoint
        self._runtime = Path(os.environ["XDG_RUNTIME_DIR"]) / "pictofs"

    def restart(self, *, hard: bool) -> None:
        """End the drive and start it again on what it left: at once if `hard`, else in order."""
        raise NotImplementedError

    def log(self) -> str:
        """What the drive has logged, where it does."""
        return ""

    def close(self) -> None:
        self.sdk.close()

    def call(self, command: str, **arguments: object) -> Any:
        """Ask the control socket."""
        return control.call(control.socket_path(self._runtime, self._mountpoint), command, arguments)

    def settle(self) -> dict[str, str]:
        """`pictofs wait`; then what is held or failed: path → state and reason."""

        def is_settled() -> bool:
            return watching._is_settled(StatusReport.from_json(self.call("status")))

        self.call("drain")  # a folder that stays empty need not rest first
        mounts.wait_until(is_settled, "everything is on the server", SETTLED_WITHIN_S)
        return {
            f"/{row['path']}": f"{row['state']}: {row['reason']}"
            for row in self.call("uploads")["rows"]
            if row["state"] in ("held", "failed")
        }

    def refresh(self) -> None:
        self.call("refresh", path="")

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class VfsWorld(World):
    """The drive in this process, without a mount. It cannot be killed; it ends without draining."""

    def __init__(self, folder: Path, sandbox: SandboxProcess, *options: str) -> None:
        super().__init__(sandbox, folder / "mnt")
        given = {"state-dir": folder / "state", "cache-dir": folder / "cache", "min-free": "0"}
        self._settings = settings.resolve(
            [settings.Given(name, str(value), "the test") for name, value in given.items()]
            + [given for option in options for given in settings.parse_options(option)]
        ).mount
        self._runtime = self._settings.runtime_dir
        self._credentials = credentials.resolve(sandbox.api_key, sandbox.base_url)
        self._stack = ExitStack()
        self._start()

    def _start(self) -> None:
        drive = _Mount(self._settings, self._credentials, self._mountpoint, self._stack)
        drive.vfs.start()
        self.disk = VfsDisk(drive.vfs)

    def restart(self, *, hard: bool) -> None:
        self._stack.close()
        self._start()

    def close(self) -> None:
        self._stack.close()
        super().close()


class MountWorld(World):
    """The drive as people have it: mounted, in a process of its own, which may be killed."""

    def __init__(self, folder: Path, sandbox: SandboxProcess, *options: str) -> None:
        self.drive = Drive(folder, sandbox, *options)
        super().__init__(sandbox, self.drive.mnt)
        self.drive.mount()
        self.disk = OsDisk(self.drive.mnt)

    def restart(self, *, hard: bool) -> None:
        if hard:
            self.drive.kill()
        else:
            self.drive.umount("--drain-timeout", "0s")
            mounts.wait_until(lambda: not self.drive.pids(), "the daemon has ended")
        self.drive.mount()

    def log(self) -> str:
        return self.drive.log()

    def close(self) -> None:
        super().close()
        self.drive.__exit__(None, None, None)
