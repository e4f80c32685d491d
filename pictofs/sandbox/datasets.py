"""The routes of datasets, and the organization that owns them."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Mapping
from typing import Any

from pictofs.sandbox.calls import UUID, Call, Json
from pictofs.sandbox.errors import RefusalError, not_found
from pictofs.sandbox.store import Store, pack, unpack

LISTED_IMAGES_CAP = 10_000
"""Most image rows in one answer of include_images and of download, as on the service."""
NAME_LIMIT_CHARS = 255
TIER_QUOTAS = {
    "free": (1_000, 5 * 2**30),
    "core": (50_000, 100 * 2**30),
    "pro": (250_000, 500 * 2**30),
    "team": (1_000_000, 2 * 2**40),
    "enterprise": (10_000_000, 20 * 2**40),
}
"""max_images and max_storage_bytes of each plan: plausible, the service does not publish them."""
PALETTE = ("#e6194b", "#3cb44b", "#ffe119", "#4363d8", "#f58231", "#911eb4", "#46f0f0", "#f032e6")
"""Given to classes written without a colour."""

COUNTERS = """
SELECT dataset_id, SUM(is_archived = 0) AS image_count,
       SUM(is_archived = 0 AND status = 'complete') AS completed_image_count,
       SUM(is_archived = 1) AS archived_image_count,
       SUM(CASE WHEN is_archived = 0 THEN COALESCE(file_size, 0) ELSE 0 END) AS total_size
FROM images INDEXED BY images_counters
"""
NO_IMAGES = {"image_count": 0, "completed_image_count": 0, "archived_image_count": 0, "total_size": 0}


# ── shared with the other routes ──


def find(store: Store, dataset: str) -> sqlite3.Row:
    """The dataset with this name or id. Raises RefusalError(404)."""
    row = (
        store.row("SELECT * FROM datasets WHERE id = ?", dataset.lower()) if UUID.fullmatch(dataset) else None
    )
    row = row or store.row("SELECT * FROM datasets WHERE name = ?", pack(dataset))
    if row is None:
        raise not_found(f"Dataset {dataset!r}")
    return row


def touch(store: Store, dataset_id: str) -> None:
    """Its counters moved."""
    store.execute("UPDATE datasets SET updated_at = ? WHERE id = ?", store.now(), dataset_id)


def refuse_coldline(row: sqlite3.Row) -> None:
    if row["storage_class"] == "coldline":
        raise RefusalError(
            409,
            f"Dataset {unpack(row['name'])!r} is in cold storage; restore it before uploading into it.",
            code="dataset_cold",
        )


def insert(store: Store, name: str, **columns: Any) -> str:
    """A new dataset under a name that is free; returns its id."""
    dataset_id = str(columns.get("id") or uuid.uuid4())
    now = store.now()
    store.execute(
        "INSERT INTO datasets"
        " (id, name, readme, description, annotation_types, classes, created_at, updated_at)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        dataset_id,
        pack(name),
        columns.get("readme"),
        columns.get("description"),
        json.dumps(columns.get("annotation_types") or ["bbox"]),
        json.dumps(_coloured(columns.get("classes") or [])),
        now,
        now,
    )
    return dataset_id


def as_json(store: Store, rows: list[sqlite3.Row]) -> list[Json]:
    if len(rows) == 1:
        counted = store.query(COUNTERS + "WHERE dataset_id = ?", rows[0]["id"])
    else:
        counted = store.query(COUNTERS + "GROUP BY dataset_id")
    counters = {row["dataset_id"]: row for row in counted}
    organization_id = store.meta("organization_id")
    return [
        {
            "id": row["id"],
            "organization_id": organization_id,
            "name": unpack(row["name"]),
            "description": row["description"],
            "readme": row["readme"],
            "annotation_types": json.loads(row["annotation_types"]),
            "classes": json.loads(row["classes"]),
            **{name: _counter(counters.get(row["id"]), name) for name in NO_IMAGES},
            "is_public": False,
            "is_archived": row["archived_at"] is not None,
            "archived_at": row["archived_at"],
            "storage_class": row["storage_class"],
            "created_at": row["created_at"],
            "updated_at": row["updated_at"],
        }
        for row in rows
    ]


def one_as_json(call: Call, dataset_id: str) -> Json:
    return {"data": as_json(call.store, [find(call.store, dataset_id)])[0]}


def pagination(limit: int, offset: int, total: int) -> Json:
    return {"limit": limit, "offset": offset, "total": total, "has_more": offset + limit < total}


def quota(call: Call) -> dict[str, Any]:
    """max_images, max_storage_bytes and what is used of both; copies that share bytes count once."""
    limits = call.faults.now.limits
    tier = limits.get("subscription_tier", "enterprise")
    max_images, max_storage_bytes = TIER_QUOTAS[tier]
    used = call.store.query("SELECT images, bytes FROM usage")[0]
    return {
        "subscription_tier": tier,
        "max_images": limits.get("max_images", max_images),
        "max_storage_bytes": limits.get("max_storage_bytes", max_storage_bytes),
        "used_images": used[0],
        "used_bytes": used[1],
    }


class Room:
    """What the plan still takes, counted down while one request adds images."""

    def __init__(self, call: Call) -> None:
        limits = quota(call)
        self._tier = limits["subscription_tier"]
        self._max_images, self._max_bytes = limits["max_images"], limits["max_storage_bytes"]
        self._images, self._bytes = limits["used_images"], limits["used_bytes"]

    def refuse_beyond(self, size_bytes: int) -> None:
        """Raises RefusalError(402) when one more image of this size does not fit."""
        if self._images + 1 > self._max_images:
            message = f"Image limit reached: the {self._tier} plan allows {self._max_images} images."
            raise RefusalError(402, message, code="image_limit_exceeded")
        if self._bytes + size_bytes > self._max_bytes:
            message = f"Storage limit reached: the {self._tier} plan allows {self._max_bytes} bytes."
            raise RefusalError(402, message, code="storage_limit_exceeded")

    def take(self, size_bytes: int) -> None:
        self._images += 1
        self._bytes += size_bytes


# ── routes ──


def organization(call: Call) -> Json:
    store, limits = call.store, quota(call)
    return {
        "organization": {
            "id": store.meta("organization_id"),
            "name": "Sandbox",
            "slug": "sandbox",
            "description": None,
            "is_public": False,
            "subscription_tier": limits["subscription_tier"],
            "max_users": 10,
            "max_images": limits["max_images"],
            "max_storage_bytes": limits["max_storage_bytes"],
            "credits_remaining": 1000,
            "credits_monthly_allowance": 1000,
            "member_count": 1,
            "pending_invite_count": 0,
            "created_at": store.meta("created_at"),
            "updated_at": store.meta("created_at"),
        }
    }


def list_(call: Call) -> Json:
    condition = "IS NOT NULL" if call.query["archived"] else "IS NULL"
    total = call.store.scalar(f"SELECT COUNT(*) FROM datasets WHERE archived_at {condition}")  # noqa: S608
    limit, offset = call.query["limit"], call.query["offset"]
    rows = call.store.query(
        f"SELECT * FROM datasets WHERE archived_at {condition} ORDER BY created_at DESC LIMIT ? OFFSET ?",  # noqa: S608
        limit,
        offset,
    )
    return {"data": as_json(call.store, rows), "pagination": pagination(limit, offset, total)}


def create(call: Call) -> Json:
    name = _dataset_name(call.store, call.body["name"])
    fields = {key: value for key, value in call.body.items() if key != "name"}
    return one_as_json(call, insert(call.store, name, **fields))


def update(call: Call) -> Json:
    row = find(call.store, call.path["dataset"])
    body = call.body
    changes: dict[str, Any] = {}
    if body["new_name"] is not None and body["new_name"] != unpack(row["name"]):
        changes["name"] = pack(_dataset_name(call.store, body["new_name"]))
    changes |= {key: body[key] for key in ("readme", "description") if body[key] is not None}
    if body["annotation_types"] is not None:
        changes["annotation_types"] = json.dumps(body["annotation_types"])
    if body["classes_base"] is not None and body["classes"] is None:
        raise RefusalError(422, "classes_base is the list that classes edits: send classes too.")
    if body["classes"] is not None:
        stored = json.loads(row["classes"])
        classes = body["classes"]
        if body["classes_base"] is not None:
            classes = _merged(stored, body["classes_base"], classes)
        changes["classes"] = json.dumps(_coloured(classes))
    if all(value is None for value in body.values()):
        raise RefusalError(422, "Nothing to update.")
    for column, value in changes.items():
        call.store.execute(f"UPDATE datasets SET {column} = ? WHERE id = ?", value, row["id"])  # noqa: S608
    touch(call.store, row["id"])
    return one_as_json(call, row["id"])


def archive(call: Call) -> Json:
    return _set_archived(call, True)


def unarchive(call: Call) -> Json:
    return _set_archived(call, False)


def delete(call: Call) -> Json:
    row = find(call.store, call.path["dataset"])
    objects = call.store.query("SELECT DISTINCT object_id FROM images WHERE dataset_id = ?", row["id"])
    images = call.store.scalar("SELECT COUNT(*) FROM images WHERE dataset_id = ?", row["id"])
    directories = call.store.scalar("SELECT COUNT(*) FROM directories WHERE dataset_id = ?", row["id"])
    call.store.execute("DELETE FROM datasets WHERE id = ?", row["id"])
    for item in objects:
        call.store.discard_if_unused(item["object_id"])
    return {
        "data": {
            "id": row["id"],
            "name": unpack(row["name"]),
            "deleted": True,
            "images_deleted": images,
            "directories_deleted": directories,
            "gcs_blobs_deleted": len(objects),
            "gcs_blobs_retained_for_forks": 0,
        }
    }


def storage_status(call: Call) -> Json:
    row = find(call.store, call.path["dataset"])
    return {"data": {"storage_class": row["storage_class"], "storage_state": "idle"}}


def freeze(call: Call) -> Json:
    return _set_storage_class(call, "coldline")


def restore(call: Call) -> Json:
    return _set_storage_class(call, "standard")


def _set_storage_class(call: Call, storage_class: str) -> Json:
    """The service takes minutes; here the move is over before it is answered."""
    row = find(call.store, call.path["dataset"])
    call.store.execute("UPDATE datasets SET storage_class = ? WHERE id = ?", storage_class, row["id"])
    touch(call.store, row["id"])
    return {"data": {"job_id": str(uuid.uuid4()), "storage_state": "idle", "quoted_micro_usd": None}}


def _set_archived(call: Call, wanted: bool) -> Json:
    row = find(call.store, call.path["dataset"])
    if wanted != (row["archived_at"] is not None):
        now = call.store.now()
        archived_at = now if wanted else None
        call.store.execute(
            "UPDATE datasets SET archived_at = ?, updated_at = ? WHERE id = ?", archived_at, now, row["id"]
        )
    return one_as_json(call, row["id"])


def _dataset_name(store: Store, name: str) -> str:
    """Raises RefusalError: 422 for a name that no dataset can have, 409 for one that is taken."""
    name = name.strip()
    if "/" in name or "\0" in name or len(name) > NAME_LIMIT_CHARS or not _is_unicode(name):
        raise RefusalError(
            422, f"{name!r} cannot be a dataset name: no '/', at most {NAME_LIMIT_CHARS} characters."
        )
    if store.row("SELECT 1 FROM datasets WHERE name = ?", pack(name)) is not None:
        raise RefusalError(409, f"A dataset named {name!r} already exists.", code="dataset_exists")
    return name


def _is_unicode(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


def _counter(row: sqlite3.Row | None, name: str) -> int:
    return 0 if row is None else row[name] or 0


def _coloured(classes: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**item, "color": item.get("color") or PALETTE[index % len(PALETTE)]}
        for index, item in enumerate(classes)
    ]


def _merged(
    stored: list[dict[str, Any]], base: list[dict[str, Any]], wanted: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """`stored` with the difference between `base` and `wanted` applied; a class is its name and type."""

    def keyed(classes: list[dict[str, Any]]) -> dict[tuple[Any, Any], dict[str, Any]]:
        return {(item.get("name"), item.get("type")): item for item in classes}

    old, new, result = keyed(base), keyed(wanted), keyed(stored)
    for key in old.keys() - new.keys():
        result.pop(key, None)
    result |= {key: item for key, item in new.items() if old.get(key) != item}
    return list(result.values())
