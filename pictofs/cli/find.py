"""Which running mount, or which account's state, a command means."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictofs.mount import accounts, control, mountinfo, offline
from pictofs.mount.control import MountRecord, NotMountedError
from pictofs.mount.status import StatusReport
from pictofs.settings import MountSettings


@dataclass(frozen=True, slots=True)
class Mounted:
    """A running mount."""

    record: MountRecord
    socket: Path

    def call(
        self, command: str, arguments: dict[str, object] | None = None, *, timeout_s: float = 60.0
    ) -> Any:
        """Ask the daemon. Raises ControlError and its kinds."""
        return control.call(self.socket, command, arguments, timeout_s)

    def report(self) -> StatusReport:
        """Raises ControlError, ReportError."""
        return StatusReport.from_json(self.call("status"))

    def relative(self, path: Path) -> str | None:
        """`path` counted from the mount's root, or None when it lies elsewhere."""
        try:
            below = mountinfo.real_path(path).relative_to(self.record.mountpoint)
        except ValueError:
            return None
        return "/".join(below.parts)


def running(settings: MountSettings) -> list[Mounted]:
    """This user's running mounts, by mount point."""
    folder = settings.runtime_dir
    return [
        Mounted(record, control.socket_path(folder, record.mountpoint))
        for record in control.read_records(folder)
        if control.is_alive(folder, record)
    ]


def chosen(settings: MountSettings, path: Path | None) -> list[Mounted]:
    """The running mount around `path`; without one, all of them.

    Raises:
        NotMountedError: nothing is mounted there.
    """
    return running(settings) if path is None else [mount_of(settings, path)]


def mount_of(settings: MountSettings, path: Path) -> Mounted:
    """The running mount at `path` or around it.

    Raises:
        NotMountedError: there is none.
    """
    real = mountinfo.real_path(path)
    around = [m for m in running(settings) if real.is_relative_to(m.record.mountpoint)]
    if around:
        return max(around, key=lambda mounted: len(mounted.record.mountpoint))
    if died(settings, path) is not None:
        raise NotMountedError(
            f"the mount at {real} has died; nothing is lost, `pictofs mount {real}` goes on with it."
        )
    raise NotMountedError(f"nothing of ours is mounted at {real}; `pictofs mount {real}` does that.")


def died(settings: MountSettings, path: Path) -> MountRecord | None:
    """What a mount at `path` that ended without a word left behind."""
    real = str(mountinfo.real_path(path))
    for record in control.read_records(settings.runtime_dir):
        if record.mountpoint == real and not control.is_alive(settings.runtime_dir, record):
            return record
    return None


def idle_reports(settings: MountSettings, mounted: list[Mounted]) -> list[tuple[Path, StatusReport]]:
    """The state folders of accounts that none of these mounts has, and how they stand.

    Raises:
        OfflineError: a journal cannot be read; silence would look as if nothing were waiting in it.
    """
    busy = {m.record.account_dir for m in mounted}
    return [
        (folder, offline.read_report(folder))
        for folder in accounts.account_folders(settings.state_dir)
        if str(folder) not in busy
    ]
