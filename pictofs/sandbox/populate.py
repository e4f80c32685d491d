"""Filling a dataset without uploading, for tests: many images at once, and names no server should send."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from typing import Any

from pictofs.sandbox import datasets, folders, images, pictures
from pictofs.sandbox.store import Store, pack

KNOWN = {
    "dataset", "folders", "images", "size_bytes", "distinct", "prefix", "raw_images", "raw_directories"
}  # fmt: skip
SHARED_TILES = 16
"""Distinct pictures among rows that share their objects."""


def populate(store: Store, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the dataset `dataset`, created if missing; all keys but that one are optional.

        images: N            generated JPEGs, `{prefix}00000.jpg` …, spread evenly over
        folders: M           folders `/folder-00` …; 0: all in the root
        size_bytes: S        exact size of each; left out: about 700 bytes
        distinct: true       each with bytes (and an object) of its own; else a few objects are shared
        raw_images: [{filename, directory_path?, file_size?, content_base64?, width?, height?, content_type?,
                      status?, split?, tags?, is_archived?}]
                             taken as they are, hostile names and duplicates too
        raw_directories: [path, …]                    likewise

    Returns {"dataset_id", "images": how many rows, "raw_image_ids": in order}.
    Raises ValueError, TypeError or KeyError for a request that makes no sense.
    """
    if unknown := sorted(set(wanted) - KNOWN):
        raise ValueError(f"unknown key(s): {', '.join(unknown)}; known: {', '.join(sorted(KNOWN))}")
    with store.transaction():
        row = store.row("SELECT id FROM datasets WHERE name = ?", pack(wanted["dataset"]))
        dataset_id = row["id"] if row else datasets.insert(store, wanted["dataset"])
        count = int(wanted.get("images", 0))
        _add_generated(store, dataset_id, wanted, count)
        for path in wanted.get("raw_directories", ()):
            _add_raw_directory(store, dataset_id, path)
        raw_ids = [_add_raw_image(store, dataset_id, item) for item in wanted.get("raw_images", ())]
        datasets.touch(store, dataset_id)
    return {"dataset_id": dataset_id, "images": count + len(raw_ids), "raw_image_ids": raw_ids}


def _add_generated(store: Store, dataset_id: str, wanted: Mapping[str, Any], count: int) -> None:
    folder_count = int(wanted.get("folders", 0))
    places = [f"/folder-{number:02d}" for number in range(folder_count)] or ["/"]
    for place in places:
        folders.ensure(store, dataset_id, place)
    width, height = pictures.TILE_SIZE_PX
    shared: dict[int, tuple[str, int]] = {}
    rows = []
    for number in range(count):
        salt = number if wanted.get("distinct") else number % SHARED_TILES
        if salt not in shared:
            data = pictures.tile(salt)
            if wanted.get("size_bytes") or wanted.get("distinct"):
                data = pictures.padded(data, int(wanted.get("size_bytes") or len(data) + 64), salt)
            object_id = store.files.add_object(data)
            store.discard_on_rollback(object_id)
            shared[salt] = (object_id, len(data))
        object_id, size_bytes = shared[salt]
        place = places[number % len(places)]
        name = f"{wanted.get('prefix', 'image-')}{number:05d}.jpg"
        rows.append(
            (
                str(uuid.uuid4()),
                dataset_id,
                pack(place),
                pack(name),
                object_id,
                size_bytes,
                width,
                height,
                store.now(),
            )
        )
    store.connection.executemany(
        "INSERT INTO images (id, dataset_id, directory, filename, object_id, file_size, width, height,"
        " content_type, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'image/jpeg', ?)",
        rows,
    )


def _add_raw_directory(store: Store, dataset_id: str, path: str) -> None:
    now = store.now()
    store.execute(
        "INSERT OR IGNORE INTO directories (id, dataset_id, path, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?)",
        str(uuid.uuid4()),
        dataset_id,
        pack(path),
        now,
        now,
    )


def _add_raw_image(store: Store, dataset_id: str, item: Mapping[str, Any]) -> str:
    data = base64.b64decode(item["content_base64"]) if "content_base64" in item else pictures.tile(1)
    object_id = store.files.add_object(data)
    store.discard_on_rollback(object_id)
    columns = {name: item[name] for name in ("width", "height", "status", "split") if name in item}
    identity = str(uuid.uuid4())
    values = {
        "id": identity,
        "dataset_id": dataset_id,
        "directory": pack(item.get("directory_path", "/")),
        "filename": pack(item["filename"]),
        "object_id": object_id,
        "file_size": item.get("file_size", len(data)),
        "content_type": item.get("content_type", "image/jpeg"),
        "tags": json.dumps(item.get("tags", [])),
        "is_archived": bool(item.get("is_archived", False)),
        "is_raw": True,
        "created_at": store.now(),
        **columns,
    }
    unknown = set(item) - {*values, "directory_path", "content_base64"}
    if unknown or columns.get("status", "new") not in images.STATUSES:
        raise ValueError(f"a raw image with an unknown key or status: {sorted(unknown)} {columns}")
    store.execute(
        f"INSERT INTO images ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",  # noqa: S608
        *values.values(),
    )
    return identity
