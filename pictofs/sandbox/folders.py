"""Folder paths: how they are written, and how a folder comes to be. The root `/` has no row."""

from __future__ import annotations

import uuid

from pictofs.sandbox.errors import RefusalError
from pictofs.sandbox.store import Store, pack

PATH_LIMIT_CHARS = 1024


def normal(path: str) -> str:
    """`/a/b` for every way to write it. Raises RefusalError(422) when it is no folder path."""
    segments = [segment for segment in path.split("/") if segment]
    for segment in segments:
        if segment in (".", "..") or not segment.strip() or not is_clean(segment):
            raise RefusalError(422, f"{path!r} is not a valid directory path.")
    if len(path) > PATH_LIMIT_CHARS:
        raise RefusalError(422, f"A directory path has at most {PATH_LIMIT_CHARS} characters.")
    return "/" + "/".join(segments)


def is_clean(name: str) -> bool:
    """No control characters, backslashes or lone surrogates."""
    return not any(c < " " or c in "\x7f\\" or "\ud800" <= c <= "\udfff" for c in name)


def parent(path: str) -> str:
    return path.rpartition("/")[0] or "/"


def join(directory: str, filename: str) -> str:
    return f"{directory.rstrip('/')}/{filename}"


def ensure(store: Store, dataset_id: str, path: str) -> None:
    """Create the folder and its parents where they are missing."""
    while path != "/":
        now = store.now()
        created = store.execute(
            "INSERT OR IGNORE INTO directories (id, dataset_id, path, created_at, updated_at)"
            " VALUES (?, ?, ?, ?, ?)",
            str(uuid.uuid4()),
            dataset_id,
            pack(path),
            now,
            now,
        )
        if not created:
            return
        path = parent(path)


def touch(store: Store, dataset_id: str, *paths: str) -> None:
    """Images came to or left these folders."""
    for path in set(paths):
        store.execute(
            "UPDATE directories SET updated_at = ? WHERE dataset_id = ? AND path = ?",
            store.now(),
            dataset_id,
            pack(path),
        )
