"""Transactions of the journal: first the database, then the rows in memory, never one without the other.

The only module that speaks SQL to the journal. It knows how rows are stored, not which changes make sense:
that is `Journal`.

Lock order: `Ledger._write` (one transaction at a time, held across the fsync), then `Ledger.changed` (the
rows in memory; held for moments only, so look-ups never wait for the disk).
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import errno
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pictofs.api.models import Image, NewImage
from pictofs.transfer.mirror import Mirror
from pictofs.transfer.records import (
    TRANSITIONS,
    Batch,
    Change,
    ChangeKind,
    Registration,
    State,
    Upload,
)
from pictofs.transfer.schema import open_database, read_database

__all__ = ["Ledger", "Transaction"]

_ROW_COLUMNS = tuple(column.name for column in dataclasses.fields(Upload))
_PUT_ROW = (
    f"INSERT INTO uploads ({', '.join(_ROW_COLUMNS)}) VALUES ({', '.join('?' * len(_ROW_COLUMNS))}) "  # noqa: S608
    f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{c} = excluded.{c}' for c in _ROW_COLUMNS if c != 'id')}"
)
_CHANGE_COLUMNS = tuple(column.name for column in dataclasses.fields(Change))
_ADD_CHANGE = (
    f"INSERT INTO changes ({', '.join(_CHANGE_COLUMNS)}) "  # noqa: S608
    f"VALUES ({', '.join('?' * len(_CHANGE_COLUMNS))})"
)
_PUT_BATCH = "INSERT INTO batches (key, body, created_ns) VALUES (?, ?, ?)"
_DROP_ANSWERED_BATCHES = (
    "DELETE FROM batches WHERE id NOT IN (SELECT batch_id FROM changes WHERE batch_id IS NOT NULL)"
)
_PUT_REGISTRATION = "INSERT INTO registrations (key, dataset_id, body, created_ns) VALUES (?, ?, ?, ?)"
_PUT_MTIME = "INSERT OR REPLACE INTO image_mtimes (image_id, mtime_ns) VALUES (?, ?)"
_DROP_ANSWERED = (
    "DELETE FROM registrations WHERE id NOT IN "
    "(SELECT registration_id FROM uploads WHERE registration_id IS NOT NULL)"
)


class Transaction:
    """Changes under way. Reads see the rows as they were before; writes reach memory after the commit."""

    def __init__(self, database: sqlite3.Connection, mirror: Mirror) -> None:
        self._database = database
        self._mirror = mirror
        self.changes: list[Upload | _Dropped | Change | _DroppedChange] = []  # in order
        self.mtimes: dict[str, int | None] = {}  # None: forgotten

    def insert_row(self, row: Upload) -> Upload:
        """A new row; `row.id` is ignored. Raises FileExistsError when the place shows one already."""
        values = _row_values(row)
        values[0] = None
        try:
            row_id = self._database.execute(_PUT_ROW, values).lastrowid
        except sqlite3.IntegrityError as error:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), row.path) from error
        assert row_id is not None
        row = dataclasses.replace(row, id=row_id)
        self.changes.append(row)
        return row

    def update_rows(self, rows: Iterable[Upload]) -> None:
        """Put new values in the place of rows. A forbidden change of state is a bug: ValueError."""
        rows = list(rows)
        for row in rows:
            before = self._mirror.rows[row.id].state
            if row.state is not before and row.state not in TRANSITIONS[before]:
                raise ValueError(f"{before} → {row.state} of upload {row.id}")
        self._database.executemany(_PUT_ROW, [_row_values(row) for row in rows])
        self.changes += rows

    def update_row(self, row: Upload) -> Upload:
        """`update_rows` of one row, which is returned."""
        self.update_rows([row])
        return row

    def drop_rows(self, rows: Iterable[Upload]) -> None:
        """Delete rows."""
        ids = [row.id for row in rows]
        self._database.executemany("DELETE FROM uploads WHERE id = ?", [(upload_id,) for upload_id in ids])
        self.changes += map(_Dropped, ids)

    def insert_registration(
        self, key: str, dataset_id: str, members: list[tuple[Upload, NewImage]], created_ns: int
    ) -> Registration:
        """Keep a request; its rows must then be updated to name it."""
        body = json.dumps([{"upload_id": row.id, **dataclasses.asdict(image)} for row, image in members])
        number = self._database.execute(_PUT_REGISTRATION, (key, dataset_id, body, created_ns)).lastrowid
        assert number is not None
        ids, images = tuple(row.id for row, _ in members), tuple(image for _, image in members)
        return Registration(number, key, dataset_id, ids, images, created_ns)

    def drop_answered_registrations(self) -> None:
        """Delete the registrations that no row waits for any more."""
        self._database.execute(_DROP_ANSWERED)

    def insert_change(self, change: Change) -> Change:
        """A new change; `change.id` is ignored."""
        values = [_stored(getattr(change, column)) for column in _CHANGE_COLUMNS]
        values[0] = None
        number = self._database.execute(_ADD_CHANGE, values).lastrowid
        assert number is not None
        change = dataclasses.replace(change, id=number)
        self.changes.append(change)
        return change

    def assign_batch(self, changes: Iterable[Change], batch_id: int | None) -> None:
        """Make changes part of a request, or of none again."""
        changes = [dataclasses.replace(change, batch_id=batch_id) for change in changes]
        self._database.executemany(
            "UPDATE changes SET batch_id = ? WHERE id = ?", [(batch_id, change.id) for change in changes]
        )
        self.changes += changes

    def drop_changes(self, change_ids: Iterable[int]) -> None:
        """Delete changes; those that are gone already are passed over."""
        ids = list(change_ids)
        self._database.executemany("DELETE FROM changes WHERE id = ?", [(change_id,) for change_id in ids])
        self.changes += map(_DroppedChange, ids)

    def insert_batch(self, batch: Batch) -> Batch:
        """Keep a request; `batch.id` is ignored. Its changes must then be assigned to it."""
        fields = {**dataclasses.asdict(batch), "kind": batch.kind.value}
        for column in ("id", "key", "created_ns"):
            del fields[column]
        values = (batch.key, json.dumps(fields), batch.created_ns)
        number = self._database.execute(_PUT_BATCH, values).lastrowid
        assert number is not None
        return dataclasses.replace(batch, id=number)

    def drop_answered_batches(self) -> None:
        """Delete the batches that no change waits for any more."""
        self._database.execute(_DROP_ANSWERED_BATCHES)

    def set_mtime(self, image_id: str, mtime_ns: int) -> None:
        """Keep the modification time of an image or folder."""
        self._database.execute(_PUT_MTIME, (_stored(image_id), mtime_ns))
        self.mtimes[image_id] = mtime_ns

    def drop_mtimes(self, image_ids: Iterable[str]) -> None:
        """Forget the modification times of images."""
        ids = list(image_ids)
        self._database.executemany(
            "DELETE FROM image_mtimes WHERE image_id = ?", [(_stored(i),) for i in ids]
        )
        self.mtimes.update(dict.fromkeys(ids))


@dataclasses.dataclass(frozen=True, slots=True)
class _Dropped:
    id: int


@dataclasses.dataclass(frozen=True, slots=True)
class _DroppedChange:
    id: int


class Ledger:
    """The journal's file and its rows in memory.

    Attributes:
        changed: guards `mirror` and `mtimes`, and is notified after every commit.
        mirror: the rows; to be read with `changed` held.
        mtimes: modification times by image id.
        is_new: whether the file was made just now.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Args:
            read_only: for a look without the state lock; a transaction is EIO then.

        Raises: those of `schema.open_database` or `read_database`.
        """
        if read_only:
            self._database, self.is_new = read_database(path), False
        else:
            self._database, self.is_new = open_database(path)
        self._path = path
        self._write = threading.Lock()
        self._open = True
        self.changed = threading.Condition()
        self.mirror = Mirror()
        self.mtimes: dict[str, int] = {}
        self._load()

    @contextlib.contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[Transaction]:
        """One transaction; committed at the end of the block, rolled back when it raises.

        Args:
            durable: fsync before returning. Otherwise the change survives the death of this process at
                once, a power cut only after the next durable one: for what costs nothing to lose.

        Raises:
            OSError: ENOSPC or EIO, nothing has changed then; EBADF once closed.
        """
        with self._write:
            if not self._open:
                raise OSError(errno.EBADF, "the journal is closed", str(self._path))
            transaction = Transaction(self._database, self.mirror)
            try:
                if not durable:
                    self._database.execute("PRAGMA synchronous = NORMAL")
                try:
                    self._database.execute("BEGIN IMMEDIATE")
                    yield transaction
                    self._database.execute("COMMIT")
                finally:
                    if self._database.in_transaction:
                        self._database.execute("ROLLBACK")
                    if not durable:
                        self._database.execute("PRAGMA synchronous = FULL")
            except sqlite3.Error as error:
                raise self._os_error(error) from error
            with self.changed:
                self._apply(transaction)
                self.changed.notify_all()

    def registrations(self) -> list[Registration]:
        """The requests whose answer is not recorded, oldest first."""
        with self._write:
            rows = self._database.execute("SELECT * FROM registrations ORDER BY id").fetchall()
        return [_registration_of(row) for row in rows]

    def batches(self) -> list[Batch]:
        """The requests for changes whose answer is not recorded, oldest first."""
        with self._write:
            rows = self._database.execute("SELECT * FROM batches ORDER BY id").fetchall()
        return [_batch_of(row) for row in rows]

    def close(self) -> None:
        """Closes the file; every later transaction is EBADF."""
        with self._write:
            if self._open:
                self._open = False
                self._database.close()

    def _apply(self, transaction: Transaction) -> None:
        for change in transaction.changes:
            if isinstance(change, Upload):
                self.mirror.put(change)
            elif isinstance(change, _Dropped):
                self.mirror.drop(change.id)
            elif isinstance(change, Change):
                self.mirror.put_change(change)
            else:
                self.mirror.drop_change(change.id)
        for image_id, mtime_ns in transaction.mtimes.items():
            if mtime_ns is None:
                self.mtimes.pop(image_id, None)
            else:
                self.mtimes[image_id] = mtime_ns

    def _load(self) -> None:
        for row in self._database.execute("SELECT * FROM uploads ORDER BY id"):
            self.mirror.put(_upload_of(row))
        for row in self._database.execute("SELECT * FROM changes ORDER BY id"):
            self.mirror.put_change(_change_of(row))
        times = self._database.execute("SELECT image_id, mtime_ns FROM image_mtimes")
        self.mtimes = {_loaded(image_id): mtime_ns for image_id, mtime_ns in times}

    def _os_error(self, error: sqlite3.Error) -> OSError:
        is_full = "disk is full" in str(
            error
        )  # SQLITE_FULL; errors carry their code from Python 3.11 on only
        number = errno.ENOSPC if is_full else errno.EIO
        return OSError(number, f"{os.strerror(number)} (journal: {error})", str(self._path))


def _row_values(row: Upload) -> list[Any]:
    return [_stored(getattr(row, column)) for column in _ROW_COLUMNS]


def _stored(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, str) and not _is_unicode(value):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, Image):
        fields = dataclasses.asdict(value)
        return json.dumps({**fields, "created_at": value.created_at and value.created_at.isoformat()})
    return value


def _loaded(value: Any) -> Any:
    return value.decode("utf-8", "surrogatepass") if isinstance(value, bytes) else value


def _is_unicode(text: str) -> bool:
    """Whether it can be TEXT; names with lone surrogates, which JSON can carry, are kept as a BLOB."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _upload_of(row: sqlite3.Row) -> Upload:
    fields = {column: _loaded(row[column]) for column in _ROW_COLUMNS}
    for flag in ("forced", "abandoned", "suspect", "old_archived"):
        fields[flag] = bool(fields[flag])
    fields["state"] = State(fields["state"])
    for image in ("image", "supersedes"):
        fields[image] = _image_of(fields[image])
    return Upload(**fields)


def _change_of(row: sqlite3.Row) -> Change:
    fields = {column: _loaded(row[column]) for column in _CHANGE_COLUMNS}
    return Change(**{**fields, "kind": ChangeKind(fields["kind"]), "image": _image_of(fields["image"])})


def _image_of(text: str | None) -> Image | None:
    return Image.from_json(json.loads(text)) if text is not None else None


def _batch_of(row: sqlite3.Row) -> Batch:
    fields = json.loads(row["body"])
    fields["kind"] = ChangeKind(fields["kind"])
    for ids in ("change_ids", "image_ids"):
        fields[ids] = tuple(fields[ids])
    return Batch(id=row["id"], key=row["key"], created_ns=row["created_ns"], **fields)


def _registration_of(row: sqlite3.Row) -> Registration:
    members = json.loads(row["body"])
    ids = tuple(member.pop("upload_id") for member in members)
    images = tuple(NewImage(**member) for member in members)
    return Registration(row["id"], row["key"], row["dataset_id"], ids, images, row["created_ns"])
