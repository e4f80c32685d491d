"""What the daemon does for the control socket, and looking after stuck uploads."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from journal_fakes import FakeJournal, FakeSpool, path_of, upload

from pictofs.api.budget import Reason
from pictofs.cache.content import Usage
from pictofs.mount.archive import ArchivedRow, Outcome
from pictofs.mount.control import BusyError, ControlError, Handler, MountRecord
from pictofs.mount.handlers import Parts, Progress, build_handlers
from pictofs.mount.plan import Traits
from pictofs.mount.status import Budget, Refused, StatusReport, Tally
from pictofs.mount.uploads import Selection, UploadDesk, UploadRow, UploadsError
from pictofs.transfer.records import State


class FakeDaemon:
    """Everything lifecycle binds; notes what was asked of it in `asked`."""

    def __init__(self, tmp_path: Path) -> None:
        self.asked: list[object] = []
        self.journal = FakeJournal(
            upload(1, State.QUEUED),
            upload(2, State.FAILED, reason="this name is taken"),
            upload(3, State.HELD, reason="no readable image", folder="/night"),
            upload(4, State.FAILED, reason="this name is taken", folder="/night/late"),
        )
        self.desk = UploadDesk(self.journal, FakeSpool(tmp_path), path_of)
        self.unmount_error: OSError | None = None
        self.handlers = build_handlers(
            Parts(
                record=MountRecord("/mnt", 77, "Lab", "/state/lab", 5.0),
                journal=self.journal,
                desk=self.desk,
                uploader=self,
                progress=lambda: Progress(Tally(9, 90), 8.0),
                budget=lambda: Counted(),
                cache=Cached(),
                warming=self,
                path_of=path_of,
                being_written=lambda: 1,
                removals=lambda: 2,
                changes=lambda: 1,
                refused=lambda: [Refused("/photos/b.jpg", "move", "it is locked")],
                refresh=self.note("refresh"),
                archive=self,
                traits=lambda: Traits(False, False, ("frozen",), None, None),
                unmount=self.unmount,
            )
        )

    def note(self, what: str) -> Callable[[str], None]:
        return lambda path: self.asked.append((what, path))

    def start(self, path: str) -> int:
        self.asked.append(("warm", path))
        return 7

    def progress(self, number: int) -> dict[str, object]:
        return {"files": number}

    def stop(self, number: int) -> None:
        self.asked.append(("stop", number))

    def kick(self) -> None:
        self.asked.append("kick")

    def rows(self, path: str) -> list[ArchivedRow]:
        return [ArchivedRow(f"{path}/a.jpg", "image", "i1", 5, None)]

    def restore(self, paths: Sequence[str]) -> Outcome:
        self.asked.append(("restore", *paths))
        return Outcome([paths[0]], [(path, "no") for path in paths[1:]])

    def remove_permanently(self, path: str) -> None:
        self.asked.append(("rm", path))

    def unmount(self, drain_timeout_s: float) -> None:
        self.asked.append(("unmount", drain_timeout_s))
        if self.unmount_error is not None:
            raise self.unmount_error

    def __call__(self, command: str, **arguments: Any) -> Any:
        handler: Handler = self.handlers[command]
        return handler(arguments)

    def paths(self, command: str, **arguments: Any) -> list[str]:
        return [row["path"] for row in self(command, **arguments)["rows"]]


class Counted:
    used, limit, remaining, reset_at, by_route = 5, 2000, 1995, 9.0, {"GET /x": 5}
    by_reason, pause_s = {Reason.BROWSING: 5}, 7.0


class Cached:
    used_bytes, max_bytes = 3, 30

    def __init__(self) -> None:
        self.trouble = SimpleNamespace(error=OSError(errno.ENOSPC, "No space left on device", "/cache"))

    def count(self) -> Usage:
        return Usage(2, 3)

    def clear(self) -> Usage:
        return Usage(1, 2)


@pytest.fixture
def daemon(tmp_path: Path) -> FakeDaemon:
    return FakeDaemon(tmp_path)


def test_status_has_it_all(daemon: FakeDaemon) -> None:
    report = StatusReport.from_json(daemon("status"))
    assert (report.mountpoint, report.pid, report.account, report.mounted) == ("/mnt", 77, "Lab", True)
    uploads = report.uploads
    assert (uploads.queued, uploads.failed, uploads.held) == (Tally(1, 1000), Tally(2, 2000), Tally(1, 1000))
    assert (uploads.landed, uploads.rate_bytes_per_s, uploads.left_s) == (Tally(9, 90), 8.0, 125.0)
    assert (uploads.being_written, uploads.removals, uploads.changes) == (1, 2, 1)
    assert report.budget == Budget(5, 2000, 1995, 9.0, {"GET /x": 5}, {"browsing": 5}, 7.0)
    assert report.cache is not None
    assert (report.cache.used_bytes, report.cache.limit_bytes) == (3, 30)
    assert report.cache.trouble == "/cache: No space left on device; make room on that disk."


def test_uploads_lists_every_pending_file(daemon: FakeDaemon, tmp_path: Path) -> None:
    answer = daemon("uploads")
    assert answer["total"] == 4
    rows = [UploadRow.from_json(row) for row in answer["rows"]]
    assert [(row.id, row.state, row.path) for row in rows] == [
        (1, "queued", "birds/day/1.jpg"),
        (2, "failed", "birds/day/2.jpg"),
        (3, "held", "birds/night/3.jpg"),
        (4, "failed", "birds/night/late/4.jpg"),
    ]
    assert rows[0].spool_path == str(tmp_path / "spool1")


@pytest.mark.parametrize(
    ("selection", "numbers"),
    [
        ({"all": True}, [2, 3, 4]),
        ({"ids": [4, 2]}, [2, 4]),
        ({"paths": ["birds/night"]}, [3, 4]),
        ({"paths": ["/birds/night/late/"], "ids": [4]}, [4]),
        ({"paths": [""]}, [2, 3, 4]),
        ({}, []),
    ],
)
def test_what_is_meant(daemon: FakeDaemon, selection: dict[str, Any], numbers: list[int]) -> None:
    assert [row["id"] for row in daemon("stuck", **selection)["rows"]] == numbers


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ({"ids": [1]}, "no held or failed file has the id 1"),
        ({"ids": [99]}, "no held or failed file has the id 99"),
        ({"paths": ["birds/nig"]}, "nothing at birds/nig is held or failed"),
        ({"ids": "2"}, "ids must be a list of numbers"),
        ({"paths": [3]}, "paths must be a list of texts"),
    ],
)
def test_what_cannot_be_meant(daemon: FakeDaemon, selection: dict[str, Any], words: str) -> None:
    with pytest.raises(UploadsError, match=words):
        daemon("stuck", **selection)


def test_retry_queues_what_failed_and_wakes_the_uploader(daemon: FakeDaemon) -> None:
    assert daemon.paths("retry", all=True) == ["birds/day/2.jpg", "birds/night/late/4.jpg"]
    assert daemon.journal.rows[2].state is State.QUEUED
    assert daemon.journal.rows[3].state is State.HELD
    assert daemon.asked == ["kick"]
    assert daemon.paths("retry", ids=[3], force=True) == ["birds/night/3.jpg"]
    assert daemon.journal.rows[3].forced


def test_retry_of_held_files_says_how(daemon: FakeDaemon) -> None:
    with pytest.raises(UploadsError, match="with --force"):
        daemon("retry", ids=[3])
    daemon.journal.retry = lambda upload_ids, *, force=False: []  # type: ignore[method-assign]
    with pytest.raises(UploadsError, match="a working name: rename it"):
        daemon("retry", ids=[3], force=True)


def test_discard_forgets_only_what_is_stuck(daemon: FakeDaemon) -> None:
    assert daemon.paths("discard", paths=["birds"]) == [
        "birds/day/2.jpg",
        "birds/night/3.jpg",
        "birds/night/late/4.jpg",
    ]
    assert list(daemon.journal.rows) == [1]


def test_paths_are_counted_from_the_root(daemon: FakeDaemon) -> None:
    daemon("refresh", path="/birds/day/")
    daemon("rm_permanent", path="birds/x.jpg")
    daemon("refresh", path="")
    daemon("drain")
    assert daemon.asked == [("refresh", "birds/day"), ("rm", "birds/x.jpg"), ("refresh", ""), "kick"]
    with pytest.raises(ControlError):
        daemon("refresh")


def test_unmount(daemon: FakeDaemon) -> None:
    daemon("unmount", drain_timeout_s=0)
    assert daemon.asked == [("unmount", 0.0)]
    daemon.unmount_error = OSError(errno.EBUSY, "Device or resource busy")
    with pytest.raises(BusyError):
        daemon("unmount", drain_timeout_s=1.5)
    daemon.unmount_error = OSError(errno.EPERM, "Operation not permitted")
    with pytest.raises(PermissionError):
        daemon("unmount", drain_timeout_s=1.5)
    for bad in (-1, "5", None, True, float("nan")):
        with pytest.raises(ControlError):
            daemon("unmount", drain_timeout_s=bad)


def test_an_empty_selection_does_nothing(daemon: FakeDaemon) -> None:
    assert daemon.desk.retry(Selection(), force=False) == []
    assert daemon.desk.discard(Selection()) == []


def test_the_archive(daemon: FakeDaemon) -> None:
    (row,) = daemon("archived", path="/birds/")["rows"]
    assert row == {"path": "birds/a.jpg", "kind": "image", "id": "i1", "size_bytes": 5, "created_s": None}
    assert daemon("restore", paths=["/birds/a.jpg", "b"]) == {
        "restored": ["birds/a.jpg"],
        "refused": [{"path": "b", "reason": "no"}],
    }
    for nonsense in ([], "birds", [1]):
        with pytest.raises(ControlError, match="paths"):
            daemon("restore", paths=nonsense)


def test_the_cache_is_looked_at_emptied_and_filled(daemon: FakeDaemon) -> None:
    assert daemon("cache_info") == {"files": 2, "bytes": 3, "limit_bytes": 30}
    assert daemon("cache_clear") == {"files": 1, "bytes": 2}
    assert daemon("warm", path="/birds/") == {"job": 7}
    assert daemon("warm_progress", job=7) == {"files": 7}
    daemon("warm_stop", job=7)
    assert daemon.asked == [("warm", "birds"), ("stop", 7)]
    for job in (None, "7", True):
        with pytest.raises(ControlError, match="whole number"):
            daemon("warm_progress", job=job)
