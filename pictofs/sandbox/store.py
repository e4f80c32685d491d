"""Everything the sandbox keeps: one SQLite file, and the stored objects as files beside it.

    sandbox.db      the rows, see SCHEMA
    staging/<key>   bytes that a signed URL brought and nobody registered yet; a later PUT replaces them
    objects/<id>    bytes of registered images; never changed, removed with the last image that has them
    thumbnails/<id> made on demand from objects; may be lost
    tmp/            files being written; emptied at every start

Threads: `Store` belongs to the one database thread of `api`, which serialises every write and makes one
request one transaction; `Files` may be used from any thread.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (
  name  TEXT PRIMARY KEY,            -- organization_id, signing_secret, created_at
  value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS datasets (
  id               TEXT PRIMARY KEY, -- UUID
  name             BLOB NOT NULL UNIQUE, -- packed text (see pack)
  readme           TEXT,             -- markdown; NULL: none
  description      TEXT,             -- NULL: none
  annotation_types TEXT NOT NULL,    -- JSON array of strings
  classes          TEXT NOT NULL,    -- JSON array of objects
  archived_at      TEXT,             -- ISO 8601 UTC; NULL: active
  storage_class    TEXT NOT NULL DEFAULT 'standard', -- standard | coldline (uploads refused)
  created_at       TEXT NOT NULL,    -- ISO 8601 UTC, microseconds
  updated_at       TEXT NOT NULL     -- moves with the row and with its counters, not with a label or a tag
);

CREATE TABLE IF NOT EXISTS directories (
  id         TEXT PRIMARY KEY,       -- UUID
  dataset_id TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE,
  path       BLOB NOT NULL,          -- packed text, '/a/b'; the root has no row
  created_at TEXT NOT NULL,
  updated_at TEXT NOT NULL,          -- moves when images come or go, or it is renamed
  UNIQUE (dataset_id, path)
);

CREATE TABLE IF NOT EXISTS images (
  seq              INTEGER PRIMARY KEY AUTOINCREMENT, -- order of creation; newest first is seq DESC
  id               TEXT NOT NULL UNIQUE, -- UUID
  dataset_id       TEXT NOT NULL REFERENCES datasets(id) ON DELETE CASCADE,
  directory        BLOB NOT NULL,    -- packed text, '/' or '/a/b'
  filename         BLOB NOT NULL,    -- packed text
  display_name     TEXT,             -- NULL: none
  object_id        TEXT NOT NULL,    -- file in objects/; several images may share one
  file_size        INTEGER,          -- bytes; NULL: unknown (only through /sandbox/populate)
  width            INTEGER,          -- pixels after EXIF orientation; NULL: unknown
  height           INTEGER,          -- pixels; NULL exactly when width is
  content_type     TEXT NOT NULL,    -- MIME type of the stored bytes
  status           TEXT NOT NULL DEFAULT 'new', -- new | annotate | review | complete
  split            TEXT,             -- train | val | test; NULL: unassigned
  tags             TEXT NOT NULL DEFAULT '[]', -- JSON array of strings
  annotations      TEXT NOT NULL DEFAULT '[]', -- JSON array of canonical annotations
  annotation_count INTEGER NOT NULL DEFAULT 0, -- length of annotations
  min_confidence   REAL,             -- smallest confidence in annotations; NULL: no annotations
  is_archived      INTEGER NOT NULL DEFAULT 0, -- 1: soft-deleted, keeps its name without claiming it
  is_raw           INTEGER NOT NULL DEFAULT 0, -- 1: from /sandbox/populate, exempt from the rule about names
  is_counted       INTEGER NOT NULL DEFAULT 1, -- 0: shares its bytes, does not count toward the quota
  created_at       TEXT NOT NULL     -- ISO 8601 UTC, microseconds, never twice the same
);
-- A live name is unique in its directory.
CREATE UNIQUE INDEX IF NOT EXISTS images_live_name ON images (dataset_id, directory, filename)
  WHERE is_archived = 0 AND is_raw = 0;
CREATE INDEX IF NOT EXISTS images_newest ON images (dataset_id, is_archived, seq);
CREATE INDEX IF NOT EXISTS images_place ON images (dataset_id, is_archived, directory, filename);
CREATE INDEX IF NOT EXISTS images_counters ON images (dataset_id, is_archived, status, file_size);
CREATE INDEX IF NOT EXISTS images_object ON images (object_id);

-- What counts toward the plan's quota: one row, kept by the triggers, since every upload asks.
CREATE TABLE IF NOT EXISTS usage (
  images INTEGER NOT NULL,           -- images with is_counted = 1, archived ones too
  bytes  INTEGER NOT NULL            -- sum of their file_size
);
INSERT INTO usage SELECT 0, 0 WHERE NOT EXISTS (SELECT 1 FROM usage);
CREATE TRIGGER IF NOT EXISTS images_counted AFTER INSERT ON images WHEN NEW.is_counted = 1 BEGIN
  UPDATE usage SET images = images + 1, bytes = bytes + COALESCE(NEW.file_size, 0);
END;
CREATE TRIGGER IF NOT EXISTS images_uncounted AFTER DELETE ON images WHEN OLD.is_counted = 1 BEGIN
  UPDATE usage SET images = images - 1, bytes = bytes - COALESCE(OLD.file_size, 0);
END;

CREATE TABLE IF NOT EXISTS answers (
  key         TEXT PRIMARY KEY,      -- Idempotency-Key of a write that was carried out
  fingerprint BLOB NOT NULL,         -- hash of method, path and body; another request is refused
  status      INTEGER NOT NULL,      -- HTTP status of the first answer
  body        BLOB NOT NULL,         -- its JSON
  created_at  TEXT NOT NULL          -- kept for 24 hours
) WITHOUT ROWID;
"""

ANSWER_LIFETIME = timedelta(hours=24)
"""The service deduplicates for 24 hours."""


def pack(text: str) -> bytes:
    """A name as it is stored: hostile ones hold lone surrogates, which SQLite's TEXT cannot."""
    return text.encode("utf-8", "surrogatepass")


def unpack(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


@dataclass(frozen=True)
class Adopted:
    """A staged file that became an object."""

    object_id: str
    size_bytes: int
    inode: int


class Files:
    """The stored bytes. Every file appears complete, by rename or link, and is never written again."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._staging = root / "staging"
        self._objects = root / "objects"
        self._thumbnails = root / "thumbnails"
        self._tmp = root / "tmp"
        for folder in (self._staging, self._objects, self._thumbnails, self._tmp):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in self._tmp.iterdir():
            leftover.unlink()

    def new_temporary(self) -> Path:
        return self._tmp / uuid.uuid4().hex

    def staged(self, key: str) -> Path:
        return self._staging / key

    def object(self, object_id: str) -> Path:
        return self._objects / object_id

    def thumbnail(self, object_id: str) -> Path:
        return self._thumbnails / object_id

    def adopt_staged(self, key: str) -> Adopted | None:
        """Link what is staged under `key` as a new object; None when nothing is.

        The link pins the bytes: a PUT that comes now replaces the staged name, not this object.
        """
        object_id = uuid.uuid4().hex
        try:
            os.link(self.staged(key), self.object(object_id))
        except FileNotFoundError:
            return None
        status = self.object(object_id).stat()
        return Adopted(object_id, status.st_size, status.st_ino)

    def release_staged(self, key: str, inode: int) -> None:
        """Its bytes are registered. What another PUT has put in their place since stays."""
        path = self.staged(key)
        with suppress(FileNotFoundError):
            if path.stat().st_ino == inode:
                path.unlink()

    def copy_object(self, object_id: str) -> str:
        """A second object with the same bytes."""
        copy_id = uuid.uuid4().hex
        os.link(self.object(object_id), self.object(copy_id))
        return copy_id

    def add_object(self, data: bytes, object_id: str | None = None) -> str:
        object_id = object_id or uuid.uuid4().hex
        temporary = self.new_temporary()
        temporary.write_bytes(data)
        temporary.rename(self.object(object_id))
        return object_id

    def discard_object(self, object_id: str) -> None:
        self.object(object_id).unlink(missing_ok=True)
        self.thumbnail(object_id).unlink(missing_ok=True)

    def object_ids(self) -> Iterator[str]:
        return (path.name for path in self._objects.iterdir())


class Store:
    """The rows, and the transaction around each request."""

    def __init__(self, root: Path) -> None:
        """Open or create the store under `root`. Raises OSError or sqlite3.Error when that fails."""
        root.mkdir(parents=True, exist_ok=True)
        self.files = Files(root)
        self.connection = sqlite3.connect(root / "sandbox.db", isolation_level=None, check_same_thread=False)
        self.connection.row_factory = sqlite3.Row
        self.connection.execute("PRAGMA journal_mode = WAL")
        # A killed process loses nothing with it, only a killed machine may; that is enough for a sandbox.
        self.connection.execute("PRAGMA synchronous = NORMAL")
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.connection.execute("PRAGMA cache_size = -65536")
        self.connection.executescript(SCHEMA)
        self._on_commit: list[Callable[[], None]] = []
        self._on_rollback: list[Callable[[], None]] = []
        self._last_time = datetime.min.replace(tzinfo=timezone.utc)
        self.is_new = self.meta("created_at") is None
        if self.is_new:
            with self.transaction():
                self.set_meta("created_at", self.now())
                self.set_meta("organization_id", str(uuid.uuid4()))
                self.set_meta("signing_secret", os.urandom(32).hex())
        self._remove_unreferenced_objects()

    def close(self) -> None:
        self.connection.close()

    def query(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        return self.connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> sqlite3.Row | None:
        found: sqlite3.Row | None = self.connection.execute(sql, values).fetchone()
        return found

    def scalar(self, sql: str, *values: Any) -> Any:
        found = self.connection.execute(sql, values).fetchone()
        return None if found is None else found[0]

    def execute(self, sql: str, *values: Any) -> int:
        """Run a change; returns how many rows it touched."""
        return self.connection.execute(sql, values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, for the rows and for what `on_commit` and `on_rollback` were told inside."""
        self.connection.execute("BEGIN IMMEDIATE")
        self._on_commit, self._on_rollback = [], []
        try:
            yield
        except BaseException:
            self.connection.execute("ROLLBACK")
            for action in self._on_rollback:
                action()
            raise
        self.connection.execute("COMMIT")
        for action in self._on_commit:
            action()

    def on_commit(self, action: Callable[[], None]) -> None:
        self._on_commit.append(action)

    def on_rollback(self, action: Callable[[], None]) -> None:
        self._on_rollback.append(action)

    def discard_if_unused(self, object_id: str) -> None:
        """Remove this object after the commit, unless an image still has it."""

        def discard() -> None:
            if self.scalar("SELECT 1 FROM images WHERE object_id = ? LIMIT 1", object_id) is None:
                self.files.discard_object(object_id)

        self.on_commit(discard)

    def discard_on_rollback(self, object_id: str) -> None:
        """This object is new: without the commit it goes."""
        self.on_rollback(lambda: self.files.discard_object(object_id))

    def now(self) -> str:
        """The time as the service writes it, later than any it gave before."""
        self._last_time = max(datetime.now(timezone.utc), self._last_time + timedelta(microseconds=1))
        return self._last_time.isoformat(timespec="microseconds")

    def meta(self, name: str) -> str | None:
        value: str | None = self.scalar("SELECT value FROM meta WHERE name = ?", name)
        return value

    def set_meta(self, name: str, value: str) -> None:
        self.execute("INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)", name, value)

    # ── answers kept for Idempotency-Key ──

    def kept_answer(self, key: str) -> sqlite3.Row | None:
        oldest = (datetime.now(timezone.utc) - ANSWER_LIFETIME).isoformat(timespec="microseconds")
        return self.row(
            "SELECT fingerprint, status, body FROM answers WHERE key = ? AND created_at > ?", key, oldest
        )

    def keep_answer(self, key: str, fingerprint: bytes, status: int, body: bytes) -> None:
        self.execute(
            "INSERT OR REPLACE INTO answers (key, fingerprint, status, body, created_at)"
            " VALUES (?, ?, ?, ?, ?)",
            key,
            fingerprint,
            status,
            body,
            self.now(),
        )

    def _remove_unreferenced_objects(self) -> None:
        """What a kill between linking an object and the commit, or after a commit, left behind."""
        known = {row[0] for row in self.connection.execute("SELECT DISTINCT object_id FROM images")}
        for object_id in list(self.files.object_ids()):
            if object_id not in known:
                self.files.discard_object(object_id)
