"""Datasets, directories and batch changes: one method per route, as the official SDK sends it (1.69.146).

`dataset` is a name or an id throughout, except in `Batch`, where the service documents names. Each method
raises the exceptions of `pictofs.api.errors`; what is said below is only what is particular.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from pictofs.api.models import BatchResult, Dataset, Directory, DownloadItem, Image
from pictofs.api.transport import Transport

DATASETS_PER_PAGE = 1000
IMAGES_PER_LISTING = 10_000
"""Most image rows, or signed URLs, that the service puts into one answer."""


_NO_URLS = {"image_url": None, "thumbnail_url": None, "annotation_url": None}


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


R = TypeVar("R", bound=_Identified)
Page = tuple[list[R], "bool | None"]
"""The rows of one page, and whether there are more, None when the service did not say."""


def paged(fetch: Callable[[int, int], Page[R]], page_size: int) -> Iterator[R]:
    """Every row of a listing, each id once: rows move between pages when somebody adds one meanwhile.

    `fetch(offset, limit)` gets one page. What the service says about more pages holds, since it may give
    fewer rows than asked for; only where it says nothing, a short page is the last.
    """
    offset = 0
    seen: set[str] = set()
    while True:
        rows, has_more = fetch(offset, page_size)
        for row in rows:
            if row.id not in seen:
                seen.add(row.id)
                yield row
        offset += len(rows)
        if not rows or has_more is False or (has_more is None and len(rows) < page_size):
            return


def page_of(parse: Callable[[Mapping[str, Any]], R]) -> Callable[[Any], Page[R]]:
    """A parser for the `{"data": […], "pagination": {…}}` that list routes answer."""

    def parse_page(body: Any) -> Page[R]:
        has_more = (body.get("pagination") or {}).get("has_more")
        return [parse(row) for row in body["data"]], has_more if isinstance(has_more, bool) else None

    return parse_page


def nothing(_body: object) -> None:
    """The parser for answers of which only the status matters."""


class Datasets:
    """`client.datasets`, also known as `client.projects`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, archived: bool = False) -> list[Dataset]:
        """All datasets, or all archived ones, through as many pages as it takes."""

        def fetch(offset: int, limit: int) -> Page[Dataset]:
            query: dict[str, object] = {"limit": limit, "offset": offset}
            if archived:
                query["archived"] = True
            return self._transport.call("GET", "/datasets/", page_of(Dataset.from_json), query=query)

        return [*paged(fetch, DATASETS_PER_PAGE)]

    def get(self, dataset: str) -> Dataset:
        return self._transport.call("GET", "/datasets/{dataset}", _dataset, dataset=dataset)

    def contents(self, dataset: str) -> tuple[Dataset, Sequence[Image]]:
        """A dataset and all its images, archived ones left out: the cheapest listing there is, one request
        for 10,000 images."""
        pages = [*self.iter_contents(dataset)]
        images = {image.id: image for _, rows in pages for image in rows}
        return pages[-1][0], [*images.values()]

    def iter_contents(
        self, dataset: str, *, with_urls: bool = True
    ) -> Iterator[tuple[Dataset, Sequence[Image]]]:
        """`contents` page by page, at least one: the dataset as it was then, and up to 10,000 images. An
        image that moved between pages comes twice. URLs take as much memory as all the rest."""
        offset = 0
        while True:
            query = {"include_images": True, "images_limit": IMAGES_PER_LISTING, "images_offset": offset}
            found, rows = self._transport.call(
                "GET",
                "/datasets/{dataset}",
                _dataset_with_images,
                query=query,
                each=_image_or_other if with_urls else _slim_image_or_other,
                dataset=dataset,
            )
            yield found, rows
            offset += len(rows)
            # This route has no `has_more`. A full page may be the last, then the count tells; a page that is
            # short of it may be one that the service cut, so the empty one after it decides.
            full = len(rows) >= IMAGES_PER_LISTING
            if not rows or (offset == found.image_count if full else offset >= found.image_count):
                return

    def create(self, name: str) -> Dataset:
        return self._transport.call("POST", "/datasets/", _dataset, body={"name": name})

    def rename(self, dataset: str, new_name: str) -> Dataset:
        return self._transport.call(
            "PATCH", "/datasets/{dataset}", _dataset, body={"new_name": new_name}, dataset=dataset
        )

    def archive(self, dataset: str) -> Dataset:
        """Hide it; `unarchive` brings it back."""
        return self._transport.call("POST", "/datasets/{dataset}/archive", _dataset, dataset=dataset)

    def unarchive(self, dataset: str) -> Dataset:
        return self._transport.call("POST", "/datasets/{dataset}/unarchive", _dataset, dataset=dataset)

    def delete(self, dataset: str) -> None:
        """For good, with all images."""
        self._transport.call("DELETE", "/datasets/{dataset}", nothing, dataset=dataset)

    def download_urls(self, dataset: str) -> Sequence[DownloadItem]:
        """Signed storage URLs for the originals of up to 10,000 images, in one request. There is no second
        page: what a larger dataset has beyond is not in it."""
        query = {"mode": "images_only", "limit": IMAGES_PER_LISTING}
        return self._transport.call(
            "GET", "/datasets/{dataset}/download", _download_items, query=query, dataset=dataset
        )


class Directories:
    """`client.directories`: virtual folders. Paths look like `/a/b`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, dataset: str, parent_path: str | None = None) -> Sequence[Directory]:
        """All folders of a dataset, or the direct children of `parent_path` ("" for the root)."""
        query = {} if parent_path is None else {"parent_path": parent_path}
        return self._transport.call(
            "GET",
            "/directories/{dataset}",
            lambda body: [Directory.from_json(row) for row in body],
            query=query,
            dataset=dataset,
        )

    def create(self, dataset: str, path: str) -> Directory:
        """With its parents. One that exists is returned."""
        body = {"dataset": dataset, "directory_path": path}
        return self._transport.call("POST", "/directories/", _directory, body=body)

    def rename(self, dataset: str, path: str, new_name: str) -> Directory:
        """In place, with everything below it. `new_name` is one name, not a path."""
        return self._transport.call(
            "PATCH",
            "/directories/{dataset}/{directory_path}/rename",
            _directory,
            body={"new_name": new_name},
            dataset=dataset,
            directory_path=path,
        )

    def delete(self, dataset: str, path: str, *, cascade: bool = False) -> None:
        """An empty one. With `cascade` its images move up first."""
        self._transport.call(
            "DELETE",
            "/directories/{dataset}/{directory_path}",
            nothing,
            query={"cascade": cascade},
            dataset=dataset,
            directory_path=path,
        )


class Batch:
    """`client.batch`: one request for up to 10,000 image ids of one dataset.

    `dataset` should be the dataset's name. An image that cannot be processed is in the result's `failed`, not
    an exception. A caller that may repeat a request after a crash gives the same `idempotency_key` again.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def move(
        self,
        dataset: str,
        image_ids: Sequence[str],
        target_directory_path: str = "/",
        *,
        idempotency_key: str | None = None,
    ) -> BatchResult:
        """A name that is taken in the target gets `-{n}`; how many did is in `renamed`."""
        body = {"target_directory_path": target_directory_path}
        return self._send("POST", "/batch/images/move", dataset, image_ids, body, idempotency_key)

    def copy(
        self,
        dataset: str,
        image_ids: Sequence[str],
        target_directory_path: str = "/",
        *,
        duplicate_handling: str = "rename",
        copy_annotations: bool = False,
        idempotency_key: str | None = None,
    ) -> BatchResult:
        """Within the dataset. `duplicate_handling`: rename, skip or overwrite."""
        body = {
            "target_directory_path": target_directory_path,
            "duplicate_handling": duplicate_handling,
            "copy_annotations": copy_annotations,
        }
        return self._send("POST", "/batch/images/copy", dataset, image_ids, body, idempotency_key)

    def copy_to_dataset(
        self,
        dataset: str,
        image_ids: Sequence[str],
        target_dataset: str,
        target_directory_path: str = "/",
        *,
        idempotency_key: str | None = None,
    ) -> BatchResult:
        """Shares the stored bytes and carries the labels. `target_dataset` is a name."""
        body = {"target_dataset_name": target_dataset, "target_directory_path": target_directory_path}
        return self._send("POST", "/batch/images/copy-to-dataset", dataset, image_ids, body, idempotency_key)

    def delete(
        self,
        dataset: str,
        image_ids: Sequence[str],
        *,
        permanent: bool = False,
        idempotency_key: str | None = None,
    ) -> BatchResult:
        """Archive; with `permanent`, remove for good."""
        body = {"permanent": permanent}
        return self._send("POST", "/batch/images/delete", dataset, image_ids, body, idempotency_key)

    def update(
        self,
        dataset: str,
        image_ids: Sequence[str],
        *,
        status: str | None = None,
        display_name: str | None = None,
        is_archived: bool | None = None,
        idempotency_key: str | None = None,
    ) -> BatchResult:
        """What is None stays. `is_archived=False` restores from the archive."""
        fields = {"status": status, "display_name": display_name, "is_archived": is_archived}
        body = {"updates": {name: value for name, value in fields.items() if value is not None}}
        return self._send("PATCH", "/batch/images/update", dataset, image_ids, body, idempotency_key)

    def _send(
        self,
        method: str,
        route: str,
        dataset: str,
        image_ids: Sequence[str],
        fields: Mapping[str, object],
        idempotency_key: str | None,
    ) -> BatchResult:
        body = {"dataset_name": dataset, "image_ids": [*image_ids], **fields}
        return self._transport.call(
            method, route, BatchResult.from_json, body=body, idempotency_key=idempotency_key
        )


def _dataset(body: Any) -> Dataset:
    return Dataset.from_json(body["data"])


def _dataset_with_images(body: Any) -> tuple[Dataset, list[Image]]:
    images: list[Image] = body["data"].get("images") or []
    if not all(isinstance(image, Image) for image in images):
        raise ValueError("an image has no filename")
    return _dataset(body), images


def _image_or_other(row: dict[str, Any]) -> object:
    """An image as soon as it is read, so that 10,000 rows are not in memory as JSON all at once."""
    return Image.from_json(row) if "filename" in row else row


def _slim_image_or_other(row: dict[str, Any]) -> object:
    return Image.from_json({**row, **_NO_URLS}) if "filename" in row else row


def _directory(body: Any) -> Directory:
    return Directory.from_json(body.get("data", body))


def _download_items(body: Any) -> list[DownloadItem]:
    # A row without a URL has no original to fetch.
    return [DownloadItem.from_json(row) for row in body["data"]["items"] if row.get("image_url")]
