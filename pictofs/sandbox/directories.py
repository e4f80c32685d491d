"""The routes of virtual folders. A path is `/a/b`; the root `/` has no row."""

from __future__ import annotations

import sqlite3
from typing import Any

from pictofs.sandbox import datasets, images
from pictofs.sandbox.calls import Call, Json
from pictofs.sandbox.errors import RefusalError
from pictofs.sandbox.folders import ensure, join, normal, parent, touch
from pictofs.sandbox.store import Store, pack, unpack

# ── routes ──


def list_(call: Call) -> Json:
    tree = _Tree(call.store, datasets.find(call.store, call.path["dataset"])["id"])
    wanted = call.query["parent_path"]
    if wanted is None:
        return [tree.row_as_json(row) for row in tree.rows]
    wanted = normal(wanted)
    return [tree.row_as_json(row) for row in tree.rows if parent(unpack(row["path"])) == wanted]


def tree(call: Call) -> Json:
    return _Tree(call.store, datasets.find(call.store, call.path["dataset"])["id"]).nested("/")


def stats(call: Call) -> Json:
    dataset_id = datasets.find(call.store, call.path["dataset"])["id"]
    path = unpack(_find(call.store, dataset_id, call.path["path"])["path"])
    below = call.query["include_subdirectories"]
    found = _images_in(call.store, dataset_id, path, below)
    inside = [row for row in _rows(call.store, dataset_id) if unpack(row["path"]).startswith(path + "/")]
    by_status: dict[str, int] = {}
    for row in found:
        by_status[row["status"]] = by_status.get(row["status"], 0) + 1
    return {
        "total_directories": len(inside) if below else 0,
        "total_images": len(found),
        "total_size_bytes": sum(row["file_size"] or 0 for row in found),
        "directories_by_status": by_status,
    }


def create(call: Call) -> Json:
    row = datasets.find(call.store, call.body["dataset"])
    path = normal(call.body["directory_path"])
    if path == "/":
        raise RefusalError(422, "The root directory always exists; name a directory below it.")
    ensure(call.store, row["id"], path)
    return {"data": _canonical(call.store, row["id"], path)}


def rename(call: Call) -> Json:
    store = call.store
    dataset_id = datasets.find(store, call.path["dataset"])["id"]
    old = unpack(_find(store, dataset_id, call.path["path"])["path"])
    name = call.body["new_name"]
    if "/" in name or normal(name) == "/":
        raise RefusalError(422, f"{name!r} is not a single directory name.")
    new = join(parent(old), name)
    if new == old:
        return {"data": _canonical(store, dataset_id, old)}
    if store.row("SELECT 1 FROM directories WHERE dataset_id = ? AND path = ?", dataset_id, pack(new)):
        raise RefusalError(409, f"A directory {new!r} already exists.", code="directory_exists")
    for table, column in (("directories", "path"), ("images", "directory")):
        moved = store.query(
            f"SELECT DISTINCT {column} AS path FROM {table}"  # noqa: S608
            f" WHERE dataset_id = ? AND ({column} = ? OR ({column} >= ? AND {column} < ?))",
            dataset_id,
            pack(old),
            *_below(old),
        )
        for row in moved:
            store.execute(
                f"UPDATE {table} SET {column} = ? WHERE dataset_id = ? AND {column} = ?",  # noqa: S608
                pack(new) + row["path"][len(pack(old)) :],
                dataset_id,
                row["path"],
            )
    touch(store, dataset_id, new)
    return {"data": _canonical(store, dataset_id, new)}


def delete(call: Call) -> Json:
    store = call.store
    dataset_id = datasets.find(store, call.path["dataset"])["id"]
    row = _find(store, dataset_id, call.path["path"])
    path = unpack(row["path"])
    if store.row(
        "SELECT 1 FROM directories WHERE dataset_id = ? AND path >= ? AND path < ?", dataset_id, *_below(path)
    ):
        raise RefusalError(400, f"Directory {path!r} has subdirectories.", code="directory_not_empty")
    inside = _images_in(store, dataset_id, path, below=False)
    if inside and not call.query["cascade"]:
        raise RefusalError(
            400, f"Directory {path!r} holds {len(inside)} image(s).", code="directory_not_empty"
        )
    images.move(store, dataset_id, inside, parent(path))
    store.execute("DELETE FROM directories WHERE id = ?", row["id"])
    return {"data": {"id": row["id"], "directory_path": path, "deleted": True, "images_moved": len(inside)}}


# ── inside ──


def _below(path: str) -> tuple[bytes, bytes]:
    """The bounds, lower in and upper out, of the paths under a folder."""
    return pack(path) + b"/", pack(path) + b"0"  # "0" follows "/"


def _find(store: Store, dataset_id: str, path: str) -> sqlite3.Row:
    row = store.row(
        "SELECT * FROM directories WHERE dataset_id = ? AND path = ?", dataset_id, pack("/" + path.strip("/"))
    )
    if row is None:
        raise RefusalError(404, f"Directory {'/' + path.strip('/')!r} not found in the dataset.")
    return row


def _rows(store: Store, dataset_id: str) -> list[sqlite3.Row]:
    return store.query("SELECT * FROM directories WHERE dataset_id = ? ORDER BY path", dataset_id)


def _images_in(store: Store, dataset_id: str, path: str, below: bool) -> list[sqlite3.Row]:
    lower, upper = _below(path)
    return store.query(
        "SELECT * FROM images WHERE dataset_id = ? AND is_archived = 0"
        " AND (directory = ? OR (? AND directory >= ? AND directory < ?))",
        dataset_id,
        pack(path),
        below,
        lower,
        upper,
    )


class _Tree:
    """The folders of one dataset with their counts."""

    def __init__(self, store: Store, dataset_id: str) -> None:
        self._dataset_id = dataset_id
        self._organization_id = store.meta("organization_id")
        self.rows = _rows(store, dataset_id)
        self._ids = {unpack(row["path"]): row["id"] for row in self.rows}
        self._direct: dict[str, int] = {}
        self._nested: dict[str, int] = {}
        counted = store.query(
            "SELECT directory, COUNT(*) FROM images WHERE dataset_id = ? AND is_archived = 0"
            " GROUP BY directory",
            dataset_id,
        )
        for directory, count in counted:
            path = unpack(directory)
            self._direct[path] = count
            while path != "/":
                self._nested[path] = self._nested.get(path, 0) + count
                path = parent(path)

    def row_as_json(self, row: sqlite3.Row) -> dict[str, Any]:
        """As the reading routes write it, with the old key names."""
        path = unpack(row["path"])
        return {
            "id": row["id"],
            "project_id": self._dataset_id,
            "organization_id": self._organization_id,
            "name": path.rpartition("/")[2],
            "parent_directory_id": self._ids.get(parent(path)),
            "full_path": path,
            "image_count": self._direct.get(path, 0),
            "nested_image_count": self._nested.get(path, 0),
            "created_by": None,
            "created_at": row["created_at"],
            "updated_at": row["updated_at"],
        }

    def nested(self, path: str) -> list[Json]:
        children: dict[str, list[dict[str, Any]]] = {}
        for row in self.rows:
            item = self.row_as_json(row)
            if item["full_path"] != "/":  # only hostile data has a row for the root
                children.setdefault(parent(item["full_path"]), []).append(item)

        def below(above: str) -> list[Json]:
            return [
                {
                    **{
                        key: item[key]
                        for key in ("id", "name", "full_path", "image_count", "nested_image_count")
                    },
                    "children": below(item["full_path"]),
                }
                for item in children.get(above, [])
            ]

        return below(path)


def _canonical(store: Store, dataset_id: str, path: str) -> Json:
    """As the writing routes answer, with the new key names."""
    tree_ = _Tree(store, dataset_id)
    item = next(tree_.row_as_json(row) for row in tree_.rows if unpack(row["path"]) == path)
    item["dataset_id"] = item.pop("project_id")
    item["directory_path"] = item.pop("full_path")
    return item
