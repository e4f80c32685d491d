"""What the service answers, as frozen dataclasses, and how its JSON is read.

Field names and wire shapes are those of the official SDK (`pictograph` 1.69.146, `models/`). Unknown keys
are ignored and missing optional ones take their default, so that an addition to the API breaks nothing.
Sizes are bytes, times are timezone-aware UTC.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

Json = Mapping[str, Any]


def parse_time(value: str | None) -> datetime | None:
    """An ISO 8601 time of the service; naive ones are UTC. None stays None.

    Raises:
        ValueError: not an ISO 8601 time.
    """
    if not value:
        return None
    # Python 3.10 reads neither a trailing Z nor fractions of other than 3 or 6 digits.
    head, dot, tail = value.replace("Z", "+00:00").partition(".")
    if dot:
        digits = len(tail) - len(tail.lstrip("0123456789"))
        value = f"{head}.{tail[:digits][:6].ljust(6, '0')}{tail[digits:]}"
    else:
        value = head
    moment = datetime.fromisoformat(value)
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)


def _shared(value: Any) -> Any:
    """The one copy of a text that very many rows have; any other value as it is."""
    return sys.intern(value) if type(value) is str else value


@dataclass(frozen=True, slots=True)
class Organization:
    """Who the key belongs to, and the quota."""

    id: str
    name: str
    slug: str = ""
    subscription_tier: str = "free"
    max_images: int = 0
    max_storage_bytes: int = 0

    @classmethod
    def from_json(cls, data: Json) -> Organization:
        return cls(
            id=data["id"],
            name=data["name"],
            slug=data.get("slug") or "",
            subscription_tier=data.get("subscription_tier") or "free",
            max_images=data.get("max_images") or 0,
            max_storage_bytes=data.get("max_storage_bytes") or 0,
        )


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset: a folder under the mount's root. Counters leave archived images out."""

    id: str
    name: str
    organization_id: str | None = None
    description: str | None = None
    image_count: int = 0
    completed_image_count: int = 0
    archived_image_count: int = 0
    total_size: int = 0
    is_archived: bool = False
    storage_class: str = "standard"
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @property
    def is_frozen(self) -> bool:
        """In cold storage: it can be read, uploads into it are refused."""
        return self.storage_class == "coldline"

    @classmethod
    def from_json(cls, data: Json) -> Dataset:
        return cls(
            id=data["id"],
            name=data["name"],
            organization_id=data.get("organization_id"),
            description=data.get("description"),
            image_count=data.get("image_count") or 0,
            completed_image_count=data.get("completed_image_count") or 0,
            archived_image_count=data.get("archived_image_count") or 0,
            total_size=data.get("total_size") or 0,
            is_archived=bool(data.get("is_archived")),
            storage_class=data.get("storage_class") or "standard",
            created_at=parse_time(data.get("created_at")),
            updated_at=parse_time(data.get("updated_at")),
        )


@dataclass(frozen=True, slots=True)
class Directory:
    """A virtual folder. `full_path` looks like `/a/b`."""

    id: str
    dataset_id: str
    name: str
    full_path: str
    parent_directory_id: str | None = None
    image_count: int = 0
    nested_image_count: int = 0
    created_at: datetime | None = None
    updated_at: datetime | None = None

    @classmethod
    def from_json(cls, data: Json) -> Directory:
        return cls(
            id=data["id"],
            dataset_id=data.get("dataset_id") or data.get("project_id") or "",
            name=data["name"],
            full_path=data.get("full_path") or data["directory_path"],
            parent_directory_id=data.get("parent_directory_id"),
            image_count=data.get("image_count") or 0,
            nested_image_count=data.get("nested_image_count") or 0,
            created_at=parse_time(data.get("created_at")),
            updated_at=parse_time(data.get("updated_at")),
        )


@dataclass(frozen=True, slots=True)
class Image:
    """An image. `file_size` is 0 when the service does not know it; `width` and `height` are pixels
    after EXIF orientation, None when unknown."""

    id: str
    filename: str
    dataset_id: str = ""
    directory_path: str = "/"
    file_size: int = 0
    width: int | None = None
    height: int | None = None
    content_type: str | None = None
    status: str = "new"
    split: str | None = None
    tags: tuple[str, ...] = ()
    annotation_count: int = 0
    min_confidence: float | None = None
    is_archived: bool = False
    image_url: str | None = None
    thumbnail_url: str | None = None
    annotation_url: str | None = None
    created_at: datetime | None = None

    @classmethod
    def from_json(cls, data: Json) -> Image:
        return cls(
            id=data["id"],
            filename=data["filename"],
            dataset_id=_shared(data.get("dataset_id") or ""),
            directory_path=_shared(data.get("directory_path") or "/"),
            file_size=data.get("file_size") or 0,
            width=data.get("width"),
            height=data.get("height"),
            content_type=_shared(data.get("content_type")),
            status=_shared(data.get("status") or "new"),
            split=_shared(data.get("split")),
            tags=tuple(map(_shared, data.get("tags") or ())),
            annotation_count=data.get("annotation_count") or 0,
            min_confidence=data.get("min_confidence"),
            is_archived=bool(data.get("is_archived")),
            image_url=data.get("image_url"),
            thumbnail_url=data.get("thumbnail_url"),
            annotation_url=data.get("annotation_url"),
            created_at=parse_time(data.get("created_at")),
        )

    def without_urls(self) -> Image:
        """The same without its URLs, which expire within minutes and take as much memory as all the rest."""
        if self.image_url is self.thumbnail_url is self.annotation_url is None:
            return self
        return replace(self, image_url=None, thumbnail_url=None, annotation_url=None)


@dataclass(frozen=True, slots=True)
class BatchFailure:
    """One image that a batch request left out."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What became of a batch request; images not in `failed` were processed."""

    success: bool
    processed: int
    failed: tuple[BatchFailure, ...] = ()
    affected_directories: tuple[str, ...] = ()
    renamed: int = 0
    operation: str | None = None

    @classmethod
    def from_json(cls, data: Json) -> BatchResult:
        return cls(
            success=bool(data["success"]),
            processed=data["processed"],
            failed=tuple(BatchFailure(f["id"], f["reason"]) for f in data.get("failed") or ()),
            affected_directories=tuple(data.get("affected_directories") or ()),
            renamed=data.get("renamed") or 0,
            operation=data.get("operation"),
        )


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to be uploaded, as the upload-url and register routes want it described.

    `file_size` in bytes; `width` and `height` in pixels after EXIF orientation, None when undecodable.
    """

    filename: str
    directory_path: str
    content_type: str
    file_size: int
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class UploadFailure:
    """One image that bulk-register refused, with the service's words."""

    filename: str
    directory_path: str
    error: str


@dataclass(frozen=True, slots=True)
class RegisterResult:
    """What bulk-register answered. The registered images are the truth: the service may have changed
    a name. Neither list is promised to be in request order."""

    succeeded: tuple[Image, ...]
    failed: tuple[UploadFailure, ...]

    @classmethod
    def from_json(cls, data: Json) -> RegisterResult:
        return cls(
            succeeded=tuple(Image.from_json(i) for i in data.get("succeeded") or ()),
            failed=tuple(
                UploadFailure(f["filename"], f.get("directory_path") or "/", str(f.get("error", "")))
                for f in data.get("failed") or ()
            ),
        )


@dataclass(frozen=True, slots=True)
class DownloadItem:
    """One row of a dataset's download listing: a signed storage URL for an image's bytes."""

    id: str
    filename: str
    file_size: int
    image_url: str

    @classmethod
    def from_json(cls, data: Json) -> DownloadItem:
        return cls(
            id=data["id"],
            filename=data["filename"],
            file_size=data.get("file_size") or 0,
            image_url=data["image_url"],
        )
