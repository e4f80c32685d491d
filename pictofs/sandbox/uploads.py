"""Bringing images in: signed URLs to PUT to, and registering what was PUT."""

from __future__ import annotations

import sqlite3
from pathlib import PurePosixPath
from typing import Any

from pictofs.sandbox import datasets, images
from pictofs.sandbox.calls import Call, Converted, Json
from pictofs.sandbox.errors import RefusalError
from pictofs.sandbox.folders import is_clean, normal, touch
from pictofs.sandbox.links import staging_key

MAX_FILE_BYTES = 50 * 1024 * 1024
FILENAME_LIMIT_CHARS = 255
BULK_CAP = 500
"""Most files in one bulk request, as on the service."""


def sanitised(filename: str) -> str:
    """The name under which the service keeps a file.

    Raises RefusalError: 415 for its extension, 422 when it is too long.
    """
    name = "".join(
        character if character != "/" and is_clean(character) else "_" for character in filename
    ).strip()
    suffix = PurePosixPath(name).suffix
    if suffix.lower() not in images.CONTENT_TYPES:
        known = " ".join(images.CONTENT_TYPES)
        raise RefusalError(415, f"Unsupported file extension {suffix!r} of {filename!r}. Supported: {known}.")
    if len(name) > FILENAME_LIMIT_CHARS:
        raise RefusalError(422, f"A file name has at most {FILENAME_LIMIT_CHARS} characters.")
    return name


def staging_key_of(dataset_id: str, item: dict[str, Any]) -> str:
    return staging_key(dataset_id, normal(item["directory_path"]), sanitised(item["filename"]))


def upload_url(call: Call) -> Json:
    row = datasets.find(call.store, call.body["dataset"])
    datasets.refuse_coldline(row)
    answer = _upload_url(call, row, call.body)
    datasets.Room(call).refuse_beyond(0)
    return {"data": {**answer, "expires_in_minutes": call.links.ttl_minutes}}


def bulk_upload_url(call: Call) -> Json:
    row = datasets.find(call.store, call.body["dataset"])
    datasets.refuse_coldline(row)
    answers = [_upload_url(call, row, item) for item in call.body["images"]]
    datasets.Room(call).refuse_beyond(0)
    return {"data": {"upload_urls": answers}}


def register(call: Call) -> Json:
    row = datasets.find(call.store, call.body["dataset"])
    datasets.refuse_coldline(row)
    image = _register(call, row, call.body, datasets.Room(call))
    _touch(call, row, [image])
    return {"data": images.as_json(call.links, [image])[0]}


def bulk_register(call: Call) -> Json:
    row = datasets.find(call.store, call.body["dataset"])
    datasets.refuse_coldline(row)
    room = datasets.Room(call)
    registered, failed = [], []
    for item in call.body["images"]:
        try:
            registered.append(_register(call, row, item, room))
        except RefusalError as refusal:
            place = {key: item[key] for key in ("filename", "directory_path")}
            failed.append({**place, "error": refusal.message})
    _touch(call, row, registered)
    succeeded = images.as_json(call.links, registered)
    return {"data": {"succeeded": succeeded, "failed": failed, "count": len(succeeded)}}


def _upload_url(call: Call, dataset: sqlite3.Row, item: dict[str, Any]) -> Json:
    filename, directory = sanitised(item["filename"]), normal(item["directory_path"])
    key = staging_key(dataset["id"], directory, filename)
    url = call.links.upload(key, filename, _image_type(item["content_type"]))
    return {"filename": filename, "directory_path": directory, "upload_url": url}


def _register(call: Call, dataset: sqlite3.Row, item: dict[str, Any], room: datasets.Room) -> sqlite3.Row:
    """One image, or RefusalError with nothing left behind."""
    asked = call.faults.refusal_of(item["filename"])
    if asked is not None:
        raise RefusalError(asked.status, asked.message)
    filename, directory = sanitised(item["filename"]), normal(item["directory_path"])
    content_type = _image_type(item["content_type"])
    if item["file_size"] > MAX_FILE_BYTES:
        raise RefusalError(
            413, f"{filename!r} has {item['file_size']} bytes; at most {MAX_FILE_BYTES} are allowed."
        )
    key = staging_key(dataset["id"], directory, filename)
    is_heic = PurePosixPath(filename).suffix.lower() == ".heic"
    final_name = str(PurePosixPath(filename).with_suffix(".png")) if is_heic else filename
    if images.live(call.store, dataset["id"], directory, final_name) is not None:
        raise images.taken(directory, final_name)
    adopted = call.store.files.adopt_staged(key)
    if adopted is None:
        raise RefusalError(400, f"No uploaded file found for {filename!r}: PUT it to its upload_url first.")
    object_id, size_bytes = adopted.object_id, adopted.size_bytes
    width, height = item["width"], item["height"]
    try:
        if size_bytes != item["file_size"]:
            raise RefusalError(
                400,
                f"file_size of {filename!r} is {item['file_size']}, but {size_bytes} bytes were uploaded.",
            )
        if is_heic:
            picture = call.converted.get(key, Converted(None))
            if picture.object_id is None:
                raise RefusalError(422, f"{filename!r} is not a readable HEIC image.")
            call.store.files.discard_object(object_id)
            object_id, size_bytes = picture.object_id, picture.size_bytes
            width, height, content_type = picture.width, picture.height, "image/png"
        room.refuse_beyond(size_bytes)
    except RefusalError:
        call.store.files.discard_object(object_id)
        raise
    call.store.discard_on_rollback(object_id)
    call.store.on_commit(lambda: call.store.files.release_staged(key, adopted.inode))
    row = images.insert(
        call.store,
        dataset["id"],
        directory,
        final_name,
        object_id,
        file_size=size_bytes,
        width=width,
        height=height,
        content_type=content_type,
    )
    room.take(size_bytes)
    return row


def _image_type(content_type: str) -> str:
    """Raises RefusalError(415) for what is no image the service takes."""
    if content_type not in images.CONTENT_TYPES.values():
        raise RefusalError(415, f"Unsupported content type {content_type!r}.")
    return content_type


def _touch(call: Call, dataset: sqlite3.Row, registered: list[sqlite3.Row]) -> None:
    if registered:
        datasets.touch(call.store, dataset["id"])
        touch(call.store, dataset["id"], *(row["directory"].decode() for row in registered))
