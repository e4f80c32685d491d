"""The routes of labels: enough for an image to have some."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from pictofs.sandbox import datasets, images
from pictofs.sandbox.calls import Call, Json
from pictofs.sandbox.errors import RefusalError
from pictofs.sandbox.store import unpack

GEOMETRY = {"bbox": "bounding_box", "polygon": "polygon", "polyline": "polyline", "keypoint": "keypoint"}
"""The key that a label of each type must have."""
BULK_CAP = 200
"""Most images in one bulk save, as on the service."""


def label(value: Any) -> dict[str, Any]:
    """A canonical annotation. Raises ValueError."""
    if not isinstance(value, dict) or not all(
        isinstance(value.get(key), str) for key in ("id", "name", "type")
    ):
        raise ValueError("must be objects with id, name and type")
    if not isinstance(value.get(GEOMETRY.get(value["type"], "")), dict):
        raise ValueError(f"type must be one of {', '.join(GEOMETRY)}, with its geometry")
    return value


def get(call: Call) -> Json:
    row = images.at_path(call)
    return {
        "image_id": row["id"],
        "filename": unpack(row["filename"]),
        "annotations": json.loads(row["annotations"]),
        "annotation_count": row["annotation_count"],
    }


def save(call: Call) -> Json:
    return _save(call, images.at_path(call), call.body["annotations"])


def delete(call: Call) -> Json:
    saved = _save(call, images.at_path(call), [])
    return {"image_id": saved["image_id"], "deleted_count": saved["previous_count"]}


def bulk_save(call: Call) -> Json:
    saved, failed = [], []
    for item in call.body["saves"]:
        row = call.store.row("SELECT * FROM images WHERE id = ?", item["image_id"].lower())
        try:
            if row is None:
                raise RefusalError(404, "Image not found in your organization.")
            saved.append(_save(call, row, item["annotations"]))
        except RefusalError as refusal:
            failed.append({"image_id": item["image_id"], "error": refusal.message})
    return {"saved": saved, "failed": failed}


def _save(call: Call, row: sqlite3.Row, labels: list[dict[str, Any]]) -> Json:
    """A dataset without classes takes any label, one with classes only its own."""
    classes = {item["name"] for item in json.loads(datasets.find(call.store, row["dataset_id"])["classes"])}
    unknown = sorted({item["name"] for item in labels} - classes) if classes else []
    if unknown:
        raise RefusalError(422, f"The dataset has no class {', '.join(unknown)}.")
    lowest = min((item.get("confidence", 1.0) for item in labels), default=None)
    call.store.execute(
        "UPDATE images SET annotations = ?, annotation_count = ?, min_confidence = ? WHERE id = ?",
        json.dumps(labels),
        len(labels),
        lowest,
        row["id"],
    )
    return {
        "image_id": row["id"],
        "previous_count": row["annotation_count"],
        "new_count": len(labels),
        "status": row["status"],
    }
