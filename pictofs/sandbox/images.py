"""The rows of images: how they are found, listed, named, moved, archived; and the routes on single images."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import quote

from pictofs.sandbox import datasets
from pictofs.sandbox.calls import Call, Json, Original, Thumbnail
from pictofs.sandbox.errors import RefusalError, not_found
from pictofs.sandbox.folders import ensure, join, touch
from pictofs.sandbox.links import Links
from pictofs.sandbox.store import Store, pack, unpack

STATUSES = ("new", "annotate", "review", "complete")
SPLITS = ("train", "val", "test")
CONTENT_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".bmp": "image/bmp",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".gif": "image/gif",
    ".heic": "image/heic",
}
"""The extensions that the service takes."""


# ── rows ──


def as_json(links: Links, rows: Iterable[sqlite3.Row]) -> list[Json]:
    """The one shape in which every route answers with images."""
    answer = []
    for row in rows:
        directory, filename, image_id = unpack(row["directory"]), unpack(row["filename"]), row["id"]
        path = quote(join(directory, filename).lstrip("/"), safe="/", errors="surrogatepass")
        answer.append(
            {
                "id": image_id,
                "dataset_id": row["dataset_id"],
                "filename": filename,
                "display_name": row["display_name"],
                "status": row["status"],
                "split": row["split"],
                "annotation_count": row["annotation_count"],
                "min_confidence": row["min_confidence"],
                "file_size": row["file_size"],
                "width": row["width"],
                "height": row["height"],
                "content_type": row["content_type"],
                "directory_path": directory,
                "tags": json.loads(row["tags"]) if row["tags"] != "[]" else [],
                "is_archived": bool(row["is_archived"]),
                "image_url": links.api(f"/images/{image_id}"),
                "thumbnail_url": links.thumbnail(row["object_id"]),
                "annotation_url": links.api(f"/annotations/{row['dataset_id']}/{path}"),
                "created_at": row["created_at"],
            }
        )
    return answer


def insert(
    store: Store, dataset_id: str, directory: str, filename: str, object_id: str, **columns: Any
) -> sqlite3.Row:
    """A new image row; its folder comes with it."""
    ensure(store, dataset_id, directory)
    values = {
        "id": str(uuid.uuid4()),
        "dataset_id": dataset_id,
        "directory": pack(directory),
        "filename": pack(filename),
        "object_id": object_id,
        "created_at": store.now(),
        **columns,
    }
    store.execute(
        f"INSERT INTO images ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})",  # noqa: S608
        *values.values(),
    )
    row = store.row("SELECT * FROM images WHERE id = ?", values["id"])
    assert row is not None
    return row


def live(store: Store, dataset_id: str, directory: str, filename: str) -> sqlite3.Row | None:
    """The image that has this name now."""
    return store.row(
        "SELECT * FROM images WHERE dataset_id = ? AND is_archived = 0 AND directory = ? AND filename = ?",
        dataset_id,
        pack(directory),
        pack(filename),
    )


def free_name(store: Store, dataset_id: str, directory: str, filename: str, first: int) -> str:
    """The name itself, or the first of `stem-{first}.ext`, … that is free in the folder."""
    name, number = filename, first
    path = PurePosixPath(filename)
    while live(store, dataset_id, directory, name) is not None:
        name = f"{path.stem}-{number}{path.suffix}"
        number += 1
    return name


def taken(directory: str, filename: str) -> RefusalError:
    return RefusalError(
        409, f"An image named {filename!r} already exists in {directory!r}.", code="image_exists"
    )


def by_ids(store: Store, dataset_id: str, ids: Sequence[str]) -> tuple[list[sqlite3.Row], list[Json]]:
    """The rows of these images in the order asked, each once, and `failed` for those not in the dataset.

    Raises RefusalError(404) when none is.
    """
    wanted = list(dict.fromkeys(identity.lower() for identity in ids))
    found: dict[str, sqlite3.Row] = {}
    for start in range(0, len(wanted), 500):  # well below SQLite's bound on variables
        part = wanted[start : start + 500]
        rows = store.query(
            f"SELECT * FROM images WHERE dataset_id = ? AND id IN ({', '.join('?' * len(part))})",  # noqa: S608
            dataset_id,
            *part,
        )
        found |= {row["id"]: row for row in rows}
    if not found:
        raise RefusalError(404, "None of the images is in the dataset.")
    failed = [{"id": i, "reason": "Image not found in the dataset."} for i in wanted if i not in found]
    return [found[i] for i in wanted if i in found], failed


def move(store: Store, dataset_id: str, rows: Sequence[sqlite3.Row], target: str) -> int:
    """Put images into another folder of their dataset; returns how many had to take another name."""
    renamed = 0
    if rows:
        ensure(store, dataset_id, target)
    for row in rows:
        if unpack(row["directory"]) == target:
            continue
        filename = unpack(row["filename"])
        name = filename if row["is_archived"] else free_name(store, dataset_id, target, filename, first=1)
        renamed += name != filename
        store.execute(
            "UPDATE images SET directory = ?, filename = ? WHERE id = ?", pack(target), pack(name), row["id"]
        )
    touch(store, dataset_id, target, *(unpack(row["directory"]) for row in rows))
    return renamed


def set_archived(store: Store, dataset_id: str, rows: Sequence[sqlite3.Row], archived: bool) -> list[Json]:
    """Archive or restore; returns `failed` for names that another image took meanwhile."""
    failed = []
    for row in rows:
        directory, filename = unpack(row["directory"]), unpack(row["filename"])
        if bool(row["is_archived"]) == archived:
            continue
        if not archived and live(store, dataset_id, directory, filename) is not None:
            failed.append({"id": row["id"], "reason": taken(directory, filename).message})
            continue
        if not archived:
            ensure(store, dataset_id, directory)
        store.execute("UPDATE images SET is_archived = ? WHERE id = ?", archived, row["id"])
    touch(store, dataset_id, *(unpack(row["directory"]) for row in rows))
    datasets.touch(store, dataset_id)
    return failed


def delete_rows(store: Store, dataset_id: str, rows: Sequence[sqlite3.Row]) -> None:
    """For good; the bytes go with the last image that has them."""
    for row in rows:
        store.execute("DELETE FROM images WHERE id = ?", row["id"])
        store.discard_if_unused(row["object_id"])
    touch(store, dataset_id, *(unpack(row["directory"]) for row in rows))
    datasets.touch(store, dataset_id)


def at_path(call: Call, *, archived: bool = True) -> sqlite3.Row:
    """The image that the route's {dataset}/{path} names: the live one, else the newest archived one.

    A folder or a file name may itself hold a slash (hostile data), so every split of the path is tried.
    Raises RefusalError(404).
    """
    dataset_id = datasets.find(call.store, call.path["dataset"])["id"]
    path = "/" + call.path["path"]
    splits = [i for i, character in enumerate(path) if character == "/"]
    for is_archived in (0, 1) if archived else (0,):
        for split in reversed(splits):
            row = call.store.row(
                "SELECT * FROM images WHERE dataset_id = ? AND is_archived = ?"
                " AND directory = ? AND filename = ? ORDER BY seq DESC",
                dataset_id,
                is_archived,
                pack(path[:split] or "/"),
                pack(path[split + 1 :]),
            )
            if row is not None:
                return row
    raise not_found(f"Image {call.path['path']!r}")


def by_id(call: Call) -> sqlite3.Row:
    row = call.store.row("SELECT * FROM images WHERE id = ?", call.path["image_id"].lower())
    if row is None:
        raise not_found(f"Image {call.path['image_id']}")
    return row


# ── listings ──


def page(
    call: Call, dataset_id: str, filters: dict[str, Any], limit: int, offset: int
) -> tuple[list[sqlite3.Row], int]:
    """One page, newest first, and how many there are in all; `filters` as the list route's query has them."""
    conditions = ["dataset_id = ?"]
    values: list[Any] = [dataset_id]
    if not filters.get("include_archived"):
        conditions.append("is_archived = 0")
    for column, name in (("directory", "directory_path"), ("filename", "filename")):
        if filters.get(name) is not None:
            conditions.append(f"{column} = ?")
            values.append(pack(filters[name]))
    for column in ("status", "split"):
        if filters.get(column) is not None:
            conditions.append(f"{column} = ?")
            values.append(filters[column])
    if filters.get("min_confidence_lt") is not None:
        conditions.append("min_confidence < ?")
        values.append(filters["min_confidence_lt"])
    where = " AND ".join(conditions)
    total = call.store.scalar(f"SELECT COUNT(*) FROM images WHERE {where}", *values)  # noqa: S608
    rows = call.store.query(
        f"SELECT * FROM images WHERE {where} ORDER BY seq DESC LIMIT ? OFFSET ?",  # noqa: S608
        *values,
        limit,
        offset,
    )
    return rows, total


def list_(call: Call) -> Json:
    dataset_id = datasets.find(call.store, call.query["dataset"])["id"]
    limit, offset = call.query["limit"], call.query["offset"]
    rows, total = page(call, dataset_id, call.query, limit, offset)
    return {"data": as_json(call.links, rows), "pagination": datasets.pagination(limit, offset, total)}


def dataset_with_images(call: Call) -> Json:
    answer = datasets.one_as_json(call, call.path["dataset"])
    if call.query["include_images"]:
        limit, offset = call.query["images_limit"], call.query["images_offset"]
        rows, _ = page(call, answer["data"]["id"], {}, limit, offset)
        answer["data"]["images"] = as_json(call.links, rows)
    return answer


def download(call: Call) -> Json:
    """Signed URLs for a dataset's images, newest first; there is no offset."""
    row = datasets.find(call.store, call.path["dataset"])
    filters = {"status": call.query["status_filter"]}
    rows, _ = page(call, row["id"], filters, call.query["limit"], 0)
    mode = call.query["mode"]
    items = []
    for image_row, image in zip(rows, as_json(call.links, rows), strict=True):
        item = {key: image[key] for key in ("id", "filename", "directory_path", "file_size", "status")}
        item["image_url"] = item["annotation_url"] = None
        if mode != "annotations_only":
            item["image_url"] = call.links.object(image_row["object_id"], image["filename"])
        if mode != "images_only":
            item["annotation_url"] = image["annotation_url"]
        items.append(item)
    return {"data": {"id": row["id"], "name": unpack(row["name"]), "items": items, "total_items": len(items)}}


# ── routes on one image ──


def original_by_id(call: Call) -> Original:
    return _original(by_id(call))


def original_by_path(call: Call) -> Original:
    return _original(at_path(call))


def metadata_by_id(call: Call) -> Json:
    return {"data": as_json(call.links, [by_id(call)])[0]}


def metadata_by_path(call: Call) -> Json:
    return {"data": as_json(call.links, [at_path(call)])[0]}


def thumbnail(call: Call) -> Thumbnail:
    return Thumbnail(by_id(call)["object_id"])


def delete(call: Call) -> Json:
    row = at_path(call)
    if call.query["permanent"]:
        call.require("admin")
        delete_rows(call.store, row["dataset_id"], [row])
    else:
        set_archived(call.store, row["dataset_id"], [row], True)
    operation = "deleted" if call.query["permanent"] else "archived"
    return {"data": {"id": row["id"], "filename": unpack(row["filename"]), "operation": operation}}


def set_split(call: Call) -> Json:
    row = at_path(call)
    call.store.execute("UPDATE images SET split = ? WHERE id = ?", call.body["split"], row["id"])
    return {"data": {"id": row["id"], "split": call.body["split"]}}


def review(call: Call) -> Json:
    row = at_path(call)
    status = "complete" if call.body["action"] == "approve" else "annotate"
    call.store.execute("UPDATE images SET status = ? WHERE id = ?", status, row["id"])
    datasets.touch(call.store, row["dataset_id"])
    return {"data": {"id": row["id"], "status": status}}


def bulk_tag(call: Call) -> Json:
    dataset_id = datasets.find(call.store, call.body["dataset"])["id"]
    rows, _ = by_ids(call.store, dataset_id, call.body["image_ids"])
    for row in rows:
        tags = [tag for tag in json.loads(row["tags"]) if tag not in call.body["tags"]]
        if call.body["add"]:
            tags = list(dict.fromkeys([*json.loads(row["tags"]), *call.body["tags"]]))
        call.store.execute("UPDATE images SET tags = ? WHERE id = ?", json.dumps(tags), row["id"])
    return {"data": {"processed": len(rows)}}


def _original(row: sqlite3.Row) -> Original:
    return Original(row["object_id"], unpack(row["filename"]), row["content_type"])
