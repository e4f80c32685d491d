"""A running mount for the command line: the real control socket and handlers, rows in memory, no FUSE."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from journal_fakes import FakeJournal, FakeSpool, path_of, upload

from pictofs import settings
from pictofs.mount.archive import ArchivedRow, Outcome
from pictofs.mount.control import ControlServer, MountRecord, socket_path, write_record
from pictofs.mount.handlers import Parts, Progress, build_handlers
from pictofs.mount.plan import Traits
from pictofs.mount.status import Tally
from pictofs.mount.uploads import UploadDesk
from pictofs.transfer.records import State

KEY = "pk_live_0123456789abcdefghij"


class FakeMount:
    """Answers on the control socket of `mountpoint` while its block is entered."""

    def __init__(self, folder: Path, name: str = "drive") -> None:
        self.mountpoint = folder / name
        self.mountpoint.mkdir()
        self.spool = FakeSpool(folder / f"{name}-spool")
        self.spool.folder.mkdir()
        self.journal = FakeJournal()
        self.progress = Progress()
        self.asked: list[tuple[str, object]] = []
        self.on_kick: Callable[[], None] = lambda: None
        self.on_unmount: Callable[[], None] = lambda: None
        self.record = MountRecord(str(self.mountpoint), os.getpid(), "Lab on localhost", "/nowhere", 5.0)
        self.runtime_dir = settings.resolve().mount.runtime_dir
        self.socket = socket_path(self.runtime_dir, self.mountpoint)

    def stuck(self) -> None:
        """Two failed and one held file, with bytes."""
        for number, state, reason in (
            (2, State.FAILED, "this name is taken"),
            (3, State.HELD, "no readable image"),
            (4, State.FAILED, "the file is too large"),
        ):
            row = upload(number, state, reason=reason)
            self.journal.rows[number] = row
            self.spool.path(row.spool_name).write_bytes(b"bytes of %d" % number)

    def _unmount(self, drain_timeout_s: float) -> None:
        self.asked.append(("unmount", drain_timeout_s))
        self.on_unmount()

    def __enter__(self) -> FakeMount:
        self._note = write_record(self.runtime_dir, self.record)
        parts = Parts(
            record=self.record,
            journal=self.journal,
            desk=UploadDesk(self.journal, self.spool, path_of),
            uploader=self,
            progress=lambda: self.progress,
            budget=lambda: None,
            cache=None,
            warming=None,
            path_of=path_of,
            being_written=lambda: 0,
            removals=lambda: 0,
            changes=lambda: 0,
            refused=lambda: [],
            refresh=lambda path: self.asked.append(("refresh", path)),
            archive=self,
            traits=lambda: Traits(False, False, ("frozen",), None, None),
            unmount=self._unmount,
        )
        self._server = ControlServer(self.socket, build_handlers(parts))
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self._note.unlink(missing_ok=True)

    def die(self) -> None:
        """End as kill -9 does: the record stays, nobody answers."""
        self._server.close()

    def kick(self) -> None:
        self.asked.append(("kick", None))
        self.on_kick()

    def rows(self, path: str) -> list[ArchivedRow]:
        self.asked.append(("archived", path))
        return [
            ArchivedRow("birds/a.jpg", "image", "i1", 2048, 1.6e9),
            ArchivedRow("plants", "dataset", "d2", 0, None),
        ]

    def restore(self, paths: Sequence[str]) -> Outcome:
        self.asked.append(("restore", list(paths)))
        taken = [path for path in paths if path.endswith("taken.jpg")]
        return Outcome(
            [path for path in paths if path not in taken], [(path, "the name is taken") for path in taken]
        )

    def remove_permanently(self, path: str) -> None:
        self.asked.append(("rm", path))
        if path.endswith("missing.jpg"):
            raise FileNotFoundError(2, "No such file or directory")

    def land_all(self) -> None:
        """Everything under way arrives."""
        going = [row for row in self.journal.pending() if row.state in (State.QUEUED, State.SENDING)]
        self.progress = Progress(Tally(len(going), sum(row.size_bytes for row in going)))
        for row in going:
            del self.journal.rows[row.id]


@dataclass(frozen=True)
class Ran:
    """What a command said."""

    status: int
    out: str
    err: str
