"""Looking after uploads that do not go up by themselves: list, retry, discard.

`UploadDesk` works on a journal. The daemon answers the control socket with one, and the command line opens
one itself when nothing is mounted. Rows cross the socket as the JSON form of `UploadRow`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pictofs.transfer.records import State, Upload

MAX_ROWS = 50_000
"""What fits into one answer of the control socket with room to spare."""

STUCK = frozenset({State.HELD, State.FAILED})


class UploadsError(Exception):
    """What was asked for is not there. The message is a sentence."""


class JournalRows(Protocol):
    """The part of the journal that is needed here."""

    def pending(self) -> Sequence[Upload]: ...
    def retry(self, upload_ids: Iterable[int] | None, *, force: bool = False) -> Sequence[Upload]: ...
    def discard(self, upload_ids: Iterable[int]) -> Sequence[Upload]: ...


class SpoolPaths(Protocol):
    """The part of the spool that is needed here."""

    def path(self, name: str) -> Path: ...


@dataclass(frozen=True, slots=True)
class UploadRow:
    """A pending file as people see it.

    Attributes:
        path: relative to the mount's root.
        state: "held", "queued", "sending" or "failed".
        spool_path: where its bytes are; complete, and never changed in place.
    """

    id: int
    path: str
    state: str
    reason: str | None
    size_bytes: int
    mtime_ns: int
    attempts: int
    spool_path: str

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> UploadRow:
        return cls(**{field.name: data[field.name] for field in dataclasses.fields(cls)})


@dataclass(frozen=True, slots=True)
class Selection:
    """Which pending files are meant: by id, by path (a folder means all below it), or all that are stuck."""

    ids: tuple[int, ...] = ()
    paths: tuple[str, ...] = ()
    all: bool = False

    def to_json(self) -> dict[str, object]:
        return {"ids": list(self.ids), "paths": list(self.paths), "all": self.all}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Selection:
        """Raises:
        UploadsError: not a selection.
        """
        ids, paths = data.get("ids", []), data.get("paths", [])
        if not isinstance(ids, list) or not all(isinstance(item, int) for item in ids):
            raise UploadsError("ids must be a list of numbers")
        if not isinstance(paths, list) or not all(isinstance(item, str) for item in paths):
            raise UploadsError("paths must be a list of texts")
        return cls(tuple(ids), tuple(path.strip("/") for path in paths), bool(data.get("all")))


def list_rows(
    uploads: Iterable[Upload], spool: SpoolPaths, path_of: Callable[[Upload], str]
) -> list[UploadRow]:
    """Uploads as people see them, oldest first, at most MAX_ROWS."""
    ordered = sorted(uploads, key=lambda upload: upload.id)
    return [
        UploadRow(
            id=upload.id,
            path=path_of(upload),
            state=upload.state.value,
            reason=upload.reason,
            size_bytes=upload.size_bytes,
            mtime_ns=upload.mtime_ns,
            attempts=upload.attempts,
            spool_path=str(spool.path(upload.spool_name)),
        )
        for upload in ordered[:MAX_ROWS]
    ]


class UploadDesk:
    """List, retry and discard the rows of one journal.

    Args:
        path_of: where an upload is found, relative to the mount's root.
    """

    def __init__(self, journal: JournalRows, spool: SpoolPaths, path_of: Callable[[Upload], str]) -> None:
        self._journal = journal
        self._spool = spool
        self._path_of = path_of

    def rows(self) -> list[UploadRow]:
        """Every pending file, oldest first, at most MAX_ROWS."""
        return self._listed(self._journal.pending())

    def total(self) -> int:
        """How many files are pending, also those beyond MAX_ROWS."""
        return len(self._journal.pending())

    def stuck(self, selection: Selection) -> list[UploadRow]:
        """The held and failed files that are meant.

        Raises:
            UploadsError: an id or a path means nothing that is held or failed.
        """
        return self._listed(self._selected(selection))

    def retry(self, selection: Selection, *, force: bool) -> list[UploadRow]:
        """Queue failed files again, and with `force` held ones too. Returns those queued.

        Raises:
            UploadsError: nothing of that kind is stuck, or none of it can be queued.
        """
        chosen = self._selected(selection)
        queued = self._journal.retry([upload.id for upload in chosen], force=force)
        if chosen and not queued:
            raise UploadsError(
                "what you chose is held under a working name: rename it to an image's name"
                if force
                else "what you chose is held, not failed: mend or rename it, or send it as it is with --force"
            )
        return self._listed(queued)

    def discard(self, selection: Selection) -> list[UploadRow]:
        """Forget held and failed files, with their bytes. Returns those discarded.

        Raises:
            UploadsError: nothing of that kind is stuck.
        """
        chosen = self._selected(selection)
        return self._listed(self._journal.discard([upload.id for upload in chosen]))

    def _listed(self, uploads: Iterable[Upload]) -> list[UploadRow]:
        return list_rows(uploads, self._spool, self._path_of)

    def _selected(self, selection: Selection) -> list[Upload]:
        stuck = {upload.id: upload for upload in self._journal.pending() if upload.state in STUCK}
        if selection.all:
            return list(stuck.values())
        chosen: dict[int, Upload] = {}
        for number in selection.ids:
            if number not in stuck:
                raise UploadsError(
                    f"no held or failed file has the id {number}; `pictofs uploads list` shows them"
                )
            chosen[number] = stuck[number]
        places = {upload.id: self._path_of(upload) for upload in stuck.values()} if selection.paths else {}
        for path in selection.paths:
            below = path + "/" if path else ""
            meant = [
                stuck[number] for number, place in places.items() if place == path or place.startswith(below)
            ]
            if not meant:
                raise UploadsError(
                    f"nothing at {path} is held or failed; `pictofs uploads list` shows what is"
                )
            chosen.update((upload.id, upload) for upload in meant)
        return sorted(chosen.values(), key=lambda upload: upload.id)
