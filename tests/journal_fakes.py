"""A journal in memory, for what only looks at rows and settles stuck ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from pictofs.transfer.records import State, Tally, Upload


def upload(number: int, state: State = State.QUEUED, *, size_bytes: int = 1000, **changes: object) -> Upload:
    """A row `birds/day/<number>.jpg`."""
    row = Upload(
        id=number,
        dataset_id="d1",
        folder="/day",
        filename=f"{number}.jpg",
        spool_name=f"spool{number}",
        size_bytes=size_bytes,
        mtime_ns=1_700_000_000_000_000_000,
        width=4,
        height=3,
        state=state,
        reason=None,
        created_ns=0,
        attempts=1,
    )
    return dataclasses.replace(row, **changes)


def path_of(row: Upload) -> str:
    return "/".join(["birds", *row.folder.strip("/").split("/"), row.filename])


class FakeJournal:
    """Rows by id."""

    def __init__(self, *rows: Upload) -> None:
        self.rows = {row.id: row for row in rows}

    def pending(self) -> list[Upload]:
        return list(self.rows.values())

    def counts(self) -> dict[State, Tally]:
        counts = {state: Tally() for state in State}
        for row in self.rows.values():
            counts[row.state].files += 1
            counts[row.state].bytes += row.size_bytes
        return counts

    def retry(self, upload_ids: Iterable[int] | None, *, force: bool = False) -> list[Upload]:
        queued = []
        for number in list(self.rows) if upload_ids is None else upload_ids:
            row = self.rows[number]
            if row.state is State.FAILED or (force and row.state is State.HELD):
                queued.append(dataclasses.replace(row, state=State.QUEUED, reason=None, forced=force))
        self.rows.update((row.id, row) for row in queued)
        return queued

    def discard(self, upload_ids: Iterable[int]) -> list[Upload]:
        return [self.rows.pop(number) for number in upload_ids]


class FakeSpool:
    """Knows where spool files would be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        return self.folder / name
