"""The batch routes: up to 10,000 images of one dataset in one request, partial failure listed per image."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from pictofs.sandbox import datasets, images
from pictofs.sandbox.calls import Call, Json
from pictofs.sandbox.errors import RefusalError
from pictofs.sandbox.folders import normal, touch
from pictofs.sandbox.store import unpack

IDS_CAP = 10_000
"""Most image ids in one batch request, as on the service."""
CARRIED = ("file_size", "width", "height", "content_type")
"""What a copy has in common with its source."""
LABELS = ("annotations", "annotation_count", "min_confidence", "status")


def move(call: Call) -> Json:
    dataset_id, rows, failed = _chosen(call)
    target = normal(call.body["target_directory_path"])
    renamed = images.move(call.store, dataset_id, rows, target)
    return _result(rows, failed, "moved", target, renamed)


def copy(call: Call) -> Json:
    """Each copy is an object of its own and counts toward the quota."""
    store = call.store
    dataset_id, rows, failed = _chosen(call)
    datasets.refuse_coldline(datasets.find(store, dataset_id))
    target = normal(call.body["target_directory_path"])
    handling = call.body["duplicate_handling"]
    room = datasets.Room(call)
    copied = []
    for row in rows:
        filename = unpack(row["filename"])
        existing = images.live(store, dataset_id, target, filename)
        if existing is not None and handling == "skip":
            failed.append({"id": row["id"], "reason": images.taken(target, filename).message})
            continue
        if existing is not None and handling == "overwrite":
            if existing["id"] == row["id"]:
                failed.append({"id": row["id"], "reason": "An image cannot overwrite itself."})
                continue
            images.delete_rows(store, dataset_id, [existing])
        try:
            room.refuse_beyond(row["file_size"] or 0)
        except RefusalError as refusal:
            failed.append({"id": row["id"], "reason": refusal.message})
            continue
        name = images.free_name(store, dataset_id, target, filename, first=2)
        columns = CARRIED + LABELS if call.body["copy_annotations"] else CARRIED
        object_id = store.files.copy_object(row["object_id"])
        store.discard_on_rollback(object_id)
        images.insert(
            store, dataset_id, target, name, object_id, **{column: row[column] for column in columns}
        )
        room.take(row["file_size"] or 0)
        copied.append(row)
    touch(store, dataset_id, target)
    datasets.touch(store, dataset_id)
    return _result(copied, failed, "copied", target)


def copy_to_dataset(call: Call) -> Json:
    """The copies share the stored bytes and carry everything but the id."""
    store = call.store
    dataset_id, rows, failed = _chosen(call)
    target_row = datasets.find(store, call.body["target_dataset_name"])
    datasets.refuse_coldline(target_row)
    target = normal(call.body["target_directory_path"])
    renamed = 0
    for row in rows:
        filename = unpack(row["filename"])
        name = images.free_name(store, target_row["id"], target, filename, first=1)
        renamed += name != filename
        columns = {column: row[column] for column in (*CARRIED, *LABELS, "tags", "split", "display_name")}
        images.insert(store, target_row["id"], target, name, row["object_id"], is_counted=0, **columns)
    added = _add_missing_classes(call, datasets.find(store, dataset_id), target_row, rows)
    touch(store, target_row["id"], target)
    datasets.touch(store, target_row["id"])
    result = _result(rows, failed, "copied", target, renamed)
    result["affected_directories"] = [target]
    return {**result, "target_dataset": unpack(target_row["name"]), "classes_added": added}


def delete(call: Call) -> Json:
    permanent = call.body["permanent"]
    if permanent:
        call.require("admin")
    dataset_id, rows, failed = _chosen(call)
    if permanent:
        images.delete_rows(call.store, dataset_id, rows)
    else:
        images.set_archived(call.store, dataset_id, rows, True)
    return _result(rows, failed, "deleted" if permanent else "archived")


def update(call: Call) -> Json:
    updates = call.body["updates"]
    if all(value is None for value in updates.values()):
        raise RefusalError(422, "updates must hold at least one of status, display_name, is_archived.")
    dataset_id, rows, failed = _chosen(call)
    if updates["is_archived"] is not None:
        refused = images.set_archived(call.store, dataset_id, rows, updates["is_archived"])
        failed += refused
        refused_ids = {item["id"] for item in refused}
        rows = [row for row in rows if row["id"] not in refused_ids]
    for column in ("status", "display_name"):
        if updates[column] is not None:
            for row in rows:
                call.store.execute(f"UPDATE images SET {column} = ? WHERE id = ?", updates[column], row["id"])  # noqa: S608
    datasets.touch(call.store, dataset_id)
    return _result(rows, failed, "updated")


def _chosen(call: Call) -> tuple[str, list[sqlite3.Row], list[Json]]:
    """The dataset's id, the rows that the request names in it, and `failed` for the others."""
    dataset_id = datasets.find(call.store, call.body["dataset_name"])["id"]
    rows, failed = images.by_ids(call.store, dataset_id, call.body["image_ids"])
    return dataset_id, rows, failed


def _result(
    rows: list[sqlite3.Row], failed: list[Json], operation: str, target: str | None = None, renamed: int = 0
) -> dict[str, Any]:
    affected = {unpack(row["directory"]) for row in rows} | ({target} if target and rows else set())
    return {
        "success": bool(rows),
        "processed": len(rows),
        "failed": failed,
        "affected_directories": sorted(affected),
        "renamed": renamed,
        "operation": operation,
    }


def _add_missing_classes(
    call: Call, source: sqlite3.Row, target: sqlite3.Row, rows: list[sqlite3.Row]
) -> list[str]:
    """The classes that the copied labels use and the target lacks, added as the source defines them."""
    used = {label["name"] for row in rows for label in json.loads(row["annotations"])}
    present = json.loads(target["classes"])
    names = {item["name"] for item in present}
    missing = [item for item in json.loads(source["classes"]) if item["name"] in used - names]
    if missing:
        call.store.execute(
            "UPDATE datasets SET classes = ? WHERE id = ?", json.dumps(present + missing), target["id"]
        )
    return [item["name"] for item in missing]
