"""The table of the API: method, path, weakest role, known query and body keys, handler."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pictofs.sandbox import batch, datasets, directories, images, labels, uploads
from pictofs.sandbox.calls import (
    Call,
    Key,
    filled_text,
    flag,
    fraction,
    integer,
    list_of,
    mapping,
    objects,
    one_of,
    optional,
    page,
    read_keys,
    text,
)

PAGE_CAP = 1000
"""Most rows of a list; a larger limit is quietly this one, and has_more says the rest."""
DEFAULT_PAGE = 100


@dataclass(frozen=True)
class ApiRoute:
    """One line of the table. `body` None: no body is read."""

    method: str
    path: str
    handler: Callable[[Call], Any]
    role: str = "viewer"
    query: Mapping[str, Key] = field(default_factory=dict)
    body: Mapping[str, Key] | None = None
    staged: str = ""
    """The body key of the images to be registered ('.': the body is one), so that HEIC is converted first."""

    @property
    def is_write(self) -> bool:
        return self.method in ("POST", "PUT", "PATCH", "DELETE")


def _update_fields(value: Any) -> dict[str, Any]:
    keys = {
        "status": optional(one_of(*images.STATUSES)),
        "display_name": optional(text),
        "is_archived": optional(flag),
    }
    return read_keys(keys, mapping(value), "body")


_PAGE = {
    "limit": optional(page(1, PAGE_CAP), DEFAULT_PAGE),
    "offset": optional(page(0), 0),
}
_CLASSES = list_of(mapping, 0, 1000)
_DATASET_FIELDS = {
    "readme": optional(text),
    "description": optional(text),
    "annotation_types": optional(list_of(one_of("bbox", "box", "polygon", "polyline", "keypoint"), 0, 10)),
    "classes": optional(_CLASSES),
}
_UPLOAD = {
    "filename": Key(filled_text),
    "directory_path": optional(text, "/"),
    "content_type": Key(filled_text),
}
_PIXELS = optional(integer(1, 10**7))
_REGISTER = {
    **_UPLOAD,
    "file_size": Key(integer(1)),
    "width": _PIXELS,
    "height": _PIXELS,
}
_IDS = Key(list_of(filled_text, 1, batch.IDS_CAP))
_BATCH = {"dataset_name": Key(filled_text), "image_ids": _IDS}
_TARGET = {"target_directory_path": optional(text, "/")}
_LABELS = Key(list_of(labels.label, 0, 10_000))
_STATUS_FILTER = optional(one_of(*images.STATUSES))


def _in_dataset(**keys: Key) -> dict[str, Key]:
    return {"dataset": Key(filled_text), **keys}


_LIST_IMAGES = {
    **_in_dataset(),
    **_PAGE,
    "directory_path": optional(text),
    "filename": optional(text),
    "status": _STATUS_FILTER,
    "split": optional(one_of(*images.SPLITS)),
    "include_archived": optional(flag, False),
    "min_confidence_lt": optional(fraction),
}
_INCLUDE_IMAGES = {
    "include_images": optional(flag, False),
    "images_limit": optional(page(1, datasets.LISTED_IMAGES_CAP), PAGE_CAP),
    "images_offset": optional(page(0), 0),
}
_DOWNLOAD = {
    "mode": optional(one_of("full", "images_only", "annotations_only"), "full"),
    "limit": optional(page(1, datasets.LISTED_IMAGES_CAP), datasets.LISTED_IMAGES_CAP),
    "status_filter": _STATUS_FILTER,
}
_COPY = {
    **_BATCH,
    **_TARGET,
    "duplicate_handling": optional(one_of("rename", "skip", "overwrite"), "rename"),
    "copy_annotations": optional(flag, False),
}

R = ApiRoute
ROUTES = (
    R("GET", "/organizations/me", datasets.organization),
    # Datasets. {dataset} is a name or an id.
    R("GET", "/datasets/", datasets.list_, query={**_PAGE, "archived": optional(flag, False)}),
    R("POST", "/datasets/", datasets.create, "member", body={"name": Key(filled_text), **_DATASET_FIELDS}),
    R("GET", "/datasets/{dataset}", images.dataset_with_images, query=_INCLUDE_IMAGES),
    R(
        "PATCH",
        "/datasets/{dataset}",
        datasets.update,
        "member",
        body={"new_name": optional(filled_text), **_DATASET_FIELDS, "classes_base": optional(_CLASSES)},
    ),
    R("DELETE", "/datasets/{dataset}", datasets.delete, "admin"),
    R("GET", "/datasets/{dataset}/download", images.download, query=_DOWNLOAD),
    R("POST", "/datasets/{dataset}/archive", datasets.archive, "admin"),
    R("POST", "/datasets/{dataset}/unarchive", datasets.unarchive, "admin"),
    R("GET", "/datasets/{dataset}/storage", datasets.storage_status),
    R("POST", "/datasets/{dataset}/storage/freeze", datasets.freeze, "admin"),
    R("POST", "/datasets/{dataset}/storage/restore", datasets.restore, "admin"),
    # Directories.
    R("GET", "/directories/{dataset}", directories.list_, query={"parent_path": optional(text)}),
    R("GET", "/directories/{dataset}/tree", directories.tree),
    R(
        "POST",
        "/directories/",
        directories.create,
        "member",
        body={"dataset": Key(filled_text), "directory_path": Key(filled_text)},
    ),
    R(
        "GET",
        "/directories/{dataset}/{path:path}/stats",
        directories.stats,
        query={"include_subdirectories": optional(flag, True)},
    ),
    R(
        "PATCH",
        "/directories/{dataset}/{path:path}/rename",
        directories.rename,
        "member",
        body={"new_name": Key(filled_text)},
    ),
    R(
        "DELETE",
        "/directories/{dataset}/{path:path}",
        directories.delete,
        "member",
        query={"cascade": optional(flag, False)},
    ),
    # Images.
    R("GET", "/images/", images.list_, query=_LIST_IMAGES),
    R("POST", "/images/upload-url", uploads.upload_url, "member", body=_in_dataset(**_UPLOAD)),
    R("POST", "/images/register", uploads.register, "member", body=_in_dataset(**_REGISTER), staged="."),
    R(
        "POST",
        "/images/bulk-upload-url",
        uploads.bulk_upload_url,
        "member",
        body=_in_dataset(images=Key(objects(_UPLOAD, 1, uploads.BULK_CAP))),
    ),
    R(
        "POST",
        "/images/bulk-register",
        uploads.bulk_register,
        "member",
        body=_in_dataset(images=Key(objects(_REGISTER, 1, uploads.BULK_CAP))),
        staged="images",
    ),
    R(
        "POST",
        "/images/bulk-tag",
        images.bulk_tag,
        "member",
        body=_in_dataset(image_ids=_IDS, tags=Key(list_of(filled_text, 1, 100)), add=optional(flag, True)),
    ),
    R("GET", "/images/{image_id:uuid}", images.original_by_id),
    R("GET", "/images/{image_id:uuid}/metadata", images.metadata_by_id),
    R("GET", "/images/{image_id:uuid}/thumbnail", images.thumbnail),
    R(
        "POST",
        "/images/{dataset}/{path:path}/split",
        images.set_split,
        "member",
        body={"split": optional(one_of(*images.SPLITS))},
    ),
    R(
        "POST",
        "/images/{dataset}/{path:path}/review",
        images.review,
        "member",
        body={"action": Key(one_of("approve", "request_changes")), "note": optional(text)},
    ),
    R("GET", "/images/{dataset}/{path:path}/metadata", images.metadata_by_path),
    R("GET", "/images/{dataset}/{path:path}", images.original_by_path),
    R(
        "DELETE",
        "/images/{dataset}/{path:path}",
        images.delete,
        "annotator",
        query={"permanent": optional(flag, False)},
    ),
    # Batches.
    R("POST", "/batch/images/move", batch.move, "member", body={**_BATCH, **_TARGET}),
    R("POST", "/batch/images/copy", batch.copy, "member", body=_COPY),
    R(
        "POST",
        "/batch/images/copy-to-dataset",
        batch.copy_to_dataset,
        "member",
        body={**_BATCH, **_TARGET, "target_dataset_name": Key(filled_text)},
    ),
    R(
        "POST",
        "/batch/images/delete",
        batch.delete,
        "annotator",
        body={**_BATCH, "permanent": optional(flag, False)},
    ),
    R(
        "PATCH",
        "/batch/images/update",
        batch.update,
        "annotator",
        body={**_BATCH, "updates": Key(_update_fields)},
    ),
    # Labels.
    R(
        "POST",
        "/annotations/bulk",
        labels.bulk_save,
        "annotator",
        body={
            "saves": Key(objects({"image_id": Key(filled_text), "annotations": _LABELS}, 1, labels.BULK_CAP))
        },
    ),
    R("GET", "/annotations/{dataset}/{path:path}", labels.get),
    R(
        "POST",
        "/annotations/{dataset}/{path:path}",
        labels.save,
        "annotator",
        body={"annotations": _LABELS},
    ),
    R("DELETE", "/annotations/{dataset}/{path:path}", labels.delete, "admin"),
)
