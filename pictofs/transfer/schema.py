"""The journal's file: its tables, how it is opened, and how an older one is brought up to date.

Owns the format (docs/FORMATS.md restates it) and touches nothing but the database file. Times are ns since
1970. Booleans are 0 or 1. A name from the service that is not Unicode (a lone surrogate in its JSON) is kept
as a BLOB, UTF-8 with the surrogate passed through; every other text is TEXT.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = [
    "UPGRADES",
    "VERSION",
    "JournalDamagedError",
    "JournalError",
    "JournalTooNewError",
    "open_database",
    "read_database",
]

VERSION = 2
"""`PRAGMA user_version` of the tables below. Raise it with every change, and give UPGRADES the step."""

_APPLICATION_ID = 0x50696374  # "Pict": tells our file from any other database

# The write-ahead log is folded back after so many pages (of 4 KB), so that it stays near 2 MB; see
# spool.JOURNAL_RESERVE_BYTES, which must have room for it.
_CHECKPOINT_PAGES = 500

_BUSY_TIMEOUT_S = 5.0  # only a foreign tool that reads the file can hold it; the state lock keeps us apart

_BATCHES = """CREATE TABLE batches (
    -- One request for changes of one kind, in the journal before it is sent. Deleted with its answer.
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    key             TEXT NOT NULL,     -- Idempotency-Key; the service forgets it after 24 h
    body            TEXT NOT NULL,     -- JSON object: the other fields of records.Batch
    created_ns      INTEGER NOT NULL
)"""

_CHANGES = """CREATE TABLE changes (
    -- What is to become of an image or a folder, in this order. Deleted when the service has answered.
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    kind            TEXT NOT NULL
                    CHECK (kind IN ('archive', 'restore', 'move', 'transfer', 'copy', 'mkdir', 'rmdir')),
    dataset_id      TEXT NOT NULL,
    folder          TEXT NOT NULL,     -- the image's place, the service's form; of a folder its own path
    filename        TEXT NOT NULL,     -- '' of a folder
    path            TEXT NOT NULL,     -- what people call it
    image_id        TEXT,              -- NULL of a folder
    target_dataset_id TEXT,            -- where the image goes; NULL unless move, transfer or copy
    target_folder   TEXT,
    image           TEXT,              -- JSON of api.models.Image shown meanwhile; NULL unless transfer, copy
    batch_id        INTEGER REFERENCES batches (id),  -- NULL before it is sent
    CHECK ((image_id IS NULL) = (kind IN ('mkdir', 'rmdir'))),
    CHECK ((target_folder IS NULL) = (kind NOT IN ('move', 'transfer', 'copy')))
)"""

_TABLES = f"""
CREATE TABLE registrations (
    -- One bulk-register request, durable before it is sent. Deleted with its last row's answer.
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    key             TEXT NOT NULL,     -- Idempotency-Key; the service forgets it after 24 h
    dataset_id      TEXT NOT NULL,
    body            TEXT NOT NULL,     -- JSON array, in order: upload_id and the fields of NewImage
    created_ns      INTEGER NOT NULL
);
CREATE TABLE uploads (
    -- One file that is not on the service yet. Its bytes are in the spool, durable before the row.
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    dataset_id      TEXT NOT NULL,
    folder          TEXT NOT NULL,     -- the service's form: "/" or "/a/b"
    filename        TEXT NOT NULL,     -- the service's form
    spool_name      TEXT NOT NULL,     -- file in the spool; no two rows share one
    size_bytes      INTEGER NOT NULL,  -- equals the spool file's length
    mtime_ns        INTEGER NOT NULL,  -- modification time as programs see it
    width           INTEGER,           -- pixels after EXIF orientation; NULL: undecodable, or held
    height          INTEGER,
    state           TEXT NOT NULL CHECK (state IN ('held', 'queued', 'sending', 'done', 'failed')),
    reason          TEXT,              -- why held or failed; of a queued row the last trouble, or NULL
    errno           INTEGER,           -- NULL unless failed
    attempts        INTEGER NOT NULL,  -- how often it was claimed
    forced          INTEGER NOT NULL,  -- 1: sent although it was held, because a person asked
    abandoned       INTEGER NOT NULL,  -- 1: only while sending or done; not shown, archived should it land
    suspect         INTEGER NOT NULL,  -- 1: an earlier registration may have had an effect after all
    replaces_image_id TEXT,            -- uploaded image of the same place, archived before this is registered
    old_archived    INTEGER NOT NULL,  -- 1: that image is archived, or may be
    created_ns      INTEGER NOT NULL,
    registration_id INTEGER REFERENCES registrations (id),  -- NULL unless sending
    image           TEXT,              -- JSON of api.models.Image; NULL unless done
    supersedes      TEXT,              -- JSON of the image, of another name or place, that this is a copy of:
                                       -- hidden meanwhile, archived after this has landed; or NULL
    CHECK (registration_id IS NULL OR state = 'sending'),
    CHECK ((image IS NULL) = (state <> 'done')),
    CHECK (abandoned = 0 OR state IN ('sending', 'done'))
);
-- At most one row is shown at a place.
CREATE UNIQUE INDEX uploads_by_place ON uploads (dataset_id, folder, filename) WHERE abandoned = 0;
{_BATCHES};
{_CHANGES};
CREATE TABLE image_mtimes (
    -- Modification times of uploaded images and of folders; kept for good.
    image_id        TEXT PRIMARY KEY,
    mtime_ns        INTEGER NOT NULL
) WITHOUT ROWID;
"""

Upgrade = Callable[[sqlite3.Connection], None]


def _to_2(database: sqlite3.Connection) -> None:
    """Removals become changes, which know folders, moves and requests as well."""
    database.execute(_BATCHES)
    database.execute(_CHANGES)
    database.execute(
        "INSERT INTO changes (id, kind, dataset_id, folder, filename, path, image_id) "
        "SELECT id, action, dataset_id, folder, filename, path, image_id FROM removals ORDER BY id"
    )
    database.execute("DROP TABLE removals")
    database.execute("ALTER TABLE uploads ADD COLUMN supersedes TEXT")


UPGRADES: Mapping[int, Upgrade] = {1: _to_2}
"""From version n to n + 1, by n; each runs in one transaction together with the new version number."""


class JournalError(Exception):
    """The journal cannot be opened; the message is a sentence for people. Nothing was changed."""


class JournalTooNewError(JournalError):
    """It was written by a later release."""


class JournalDamagedError(JournalError):
    """It is no journal, or not one that can be read."""


def read_database(path: Path) -> sqlite3.Connection:
    """The journal's database for a look, while a mount may be at work on it.

    Raises:
        JournalError: it is damaged, or of another release: only a mount brings an older one up to date.
        OSError: there is none.
    """
    if path.stat().st_size == 0:
        raise _damaged(path, "it is empty")
    try:
        database = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, timeout=_BUSY_TIMEOUT_S
        )
    except sqlite3.Error as error:
        raise _damaged(path, str(error)) from error
    try:
        database.row_factory = sqlite3.Row
        found = _check(database, path, VERSION)
        if found < VERSION:
            raise JournalError(
                f"The upload journal {path} has an older format ({found}); mounting updates it."
            )
    except sqlite3.DatabaseError as error:
        database.close()
        raise _damaged(path, str(error)) from error
    except BaseException:
        database.close()
        raise
    return database


def open_database(
    path: Path, *, version: int = VERSION, upgrades: Mapping[int, Upgrade] = UPGRADES
) -> tuple[sqlite3.Connection, bool]:
    """The journal's database, made (0600) if missing, brought up to date if older. The state lock is held.

    Returns:
        A connection without implicit transactions, usable from any thread under the caller's lock; and
        whether it was empty, that is made just now.

    Raises:
        JournalTooNewError, JournalDamagedError: as they say; the file is left as it is.
        OSError: the file cannot be made.
    """
    # SQLite gives its companions (-wal, -shm) the permissions of the file itself.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    _sync_folder(path.parent)
    try:
        database = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=_BUSY_TIMEOUT_S
        )
    except sqlite3.Error as error:
        raise _damaged(path, str(error)) from error
    try:
        database.row_factory = sqlite3.Row
        found = _check(database, path, version)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("PRAGMA foreign_keys = ON")
        database.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        if found == 0:
            _create(database)
        else:
            _upgrade(database, path, found, version, upgrades)
    except sqlite3.DatabaseError as error:
        database.close()
        raise _damaged(path, str(error)) from error
    except BaseException:
        database.close()
        raise
    return database, found == 0


def _check(database: sqlite3.Connection, path: Path, version: int) -> int:
    """The version found, 0 for a file without tables."""
    found: int = database.execute("PRAGMA user_version").fetchone()[0]
    tables: int = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if tables == 0:
        return 0
    if database.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID or found == 0:
        raise _damaged(path, "it is not a journal of pictofs")
    if found > version:
        raise JournalTooNewError(
            f"The upload journal {path} was written by a later version of pictofs (format {found}; this one "
            f"knows up to {version}). Install that version again to go on with the pending uploads."
        )
    problem: str = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise _damaged(path, problem)
    return found


def _create(database: sqlite3.Connection) -> None:
    database.executescript(
        f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {_APPLICATION_ID};"
        f"PRAGMA user_version = {VERSION}; COMMIT;"
    )


def _upgrade(
    database: sqlite3.Connection, path: Path, found: int, version: int, upgrades: Mapping[int, Upgrade]
) -> None:
    for step in range(found, version):
        if step not in upgrades:
            raise _damaged(path, f"there is no way up from format {step}")
        database.execute("BEGIN IMMEDIATE")
        try:
            upgrades[step](database)
            database.execute(f"PRAGMA user_version = {step + 1}")
            database.execute("COMMIT")
        except BaseException:
            if database.in_transaction:
                database.execute("ROLLBACK")
            raise


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _damaged(path: Path, problem: str) -> JournalDamagedError:
    return JournalDamagedError(
        f"The upload journal {path} cannot be read ({problem}). The bytes of pending uploads are untouched "
        f"in the spool beside it. Move the journal away and mount again: they are then set aside in the "
        f"folder `rescued`, without their names."
    )
