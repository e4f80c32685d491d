"""A notice on the desktop when uploads have failed for good, since nobody looks at a log.

Sent with `notify-send` where that program and a session bus are; at most one a minute, which sums up what has
failed since the last. What had failed before the mount was told then, and is in `pictofs status`.

One thread, which the journal wakes; no lock of its own.
"""

from __future__ import annotations

import html
import logging
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pictofs.transfer.records import State, Tally, Upload
from pictofs.units import show_count

log = logging.getLogger(__name__)

INTERVAL_S = 60.0
"""Between two notices: what fails, fails in numbers."""

SETTLE_S = 0.5
"""How long more failures are collected before a look; also bounds what a busy journal costs here."""

_NAMED = 3
_SEND_TIMEOUT_S = 5.0


class FailedRows(Protocol):
    """The part of the journal that is needed here."""

    def counts(self) -> Mapping[State, Tally]: ...
    def pending(self) -> Sequence[Upload]: ...


class FailureNotices:
    """Tells `send` (title, text) of uploads that have failed for good.

    Args:
        path_of: where an upload is found, relative to the mount's root.
    """

    def __init__(
        self,
        journal: FailedRows,
        path_of: Callable[[Upload], str],
        send: Callable[[str, str], None],
        *,
        interval_s: float = INTERVAL_S,
        settle_s: float = SETTLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._path_of = path_of
        self._send = send
        self._interval_s = interval_s
        self._settle_s = settle_s
        self._clock = clock
        self._told = {row.id for row in journal.pending() if row.state is State.FAILED}
        self._count = len(self._told)
        self._next_s = clock()
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def changed(self) -> None:
        """The journal has changed. Returns at once."""
        self._wake.set()

    def start(self) -> None:
        """Begin, in the process that serves the mount."""
        self._thread = threading.Thread(target=self._loop, name="pictofs-notices", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End; a notice that is due is not sent any more."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_SEND_TIMEOUT_S)

    def _loop(self) -> None:
        while True:
            self._wake.wait()
            if self._stopping.wait(self._settle_s):
                return
            self._wake.clear()
            wait_s = self.look()
            if wait_s and self._stopping.wait(wait_s):
                return
            if wait_s:
                self._wake.set()

    def look(self) -> float:
        """Tell what has newly failed; or how many seconds it is too early for that."""
        count = self._journal.counts()[State.FAILED].files
        if count == self._count:
            return 0.0
        failed = {row.id: row for row in self._journal.pending() if row.state is State.FAILED}
        self._told &= failed.keys()  # what was tried again may fail again
        fresh = [row for number, row in failed.items() if number not in self._told]
        if fresh and (early_s := self._next_s - self._clock()) > 0:
            return early_s
        self._count = len(failed)
        if fresh:
            self._told |= failed.keys()
            self._next_s = self._clock() + self._interval_s
            self._send(f"{show_count(len(fresh), 'file')} could not be uploaded", self._text(fresh))
        return 0.0

    def _text(self, rows: list[Upload]) -> str:
        lines = [f"{self._path_of(row)}: {row.reason}" for row in rows[:_NAMED]]
        if len(rows) > _NAMED:
            lines.append(f"… and {len(rows) - _NAMED:,} more.")
        return "\n".join([*lines, "They are safe on this disk. `pictofs status` says what to do."])


def sender(environment: Mapping[str, str] = os.environ) -> Callable[[str, str], None] | None:
    """What shows a notice on this desktop, None where there is no desktop."""
    program = shutil.which("notify-send", path=environment.get("PATH"))
    runtime_dir = environment.get("XDG_RUNTIME_DIR")
    has_bus = "DBUS_SESSION_BUS_ADDRESS" in environment or (
        runtime_dir is not None and Path(runtime_dir, "bus").exists()
    )
    if program is None or not has_bus:
        return None

    def send(title: str, text: str) -> None:
        # The text is read as markup, and names come from the server.
        command = [
            program,
            "--app-name=pictofs",
            "--icon=dialog-warning",
            "--",
            title,
            html.escape(text, quote=False),
        ]
        try:
            subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SEND_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            log.info("no desktop notice could be shown: %s", error)

    return send
