"""`client.images`: look up, upload, download and delete images, and signed storage URLs.

One method per route, as the official SDK sends it (1.69.146), and what people want on top of them. Each
method raises the exceptions of `pictofs.api.errors`; what is said below is only what is particular.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from pictofs import namespace
from pictofs.api import uploads
from pictofs.api.errors import ConflictError, IncompleteTransferError, NetworkError
from pictofs.api.models import Image, NewImage, RegisterResult, UploadFailure
from pictofs.api.resources import Batch, Datasets, Page, nothing, page_of, paged
from pictofs.api.transport import Stream, Transport

IMAGES_PER_PAGE = 1000
"""The service's cap for one page of the list route."""
_PART_SUFFIX = ".part"


class Images:
    """Operations on single images, and on many through the bulk routes."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    # --- looking up --------------------------------------------------------------------------

    def get(self, image_id: str) -> Image:
        return self._transport.call("GET", "/images/{image}/metadata", _image, image=image_id)

    def list(
        self,
        dataset: str,
        directory_path: str | None = None,
        filename: str | None = None,
        status: str | None = None,
        split: str | None = None,
        include_archived: bool = False,
        limit: int = IMAGES_PER_PAGE,
        offset: int = 0,
    ) -> list[Image]:
        """One page, newest first. `directory_path` is that folder only, not those below it."""
        filters = _filters(directory_path, filename, status, split, include_archived)
        return self._page(dataset, filters, limit, offset)[0]

    def iter(
        self,
        dataset: str,
        directory_path: str | None = None,
        filename: str | None = None,
        status: str | None = None,
        split: str | None = None,
        include_archived: bool = False,
        page_size: int = IMAGES_PER_PAGE,
    ) -> Iterator[Image]:
        """All pages of `list`, as they are needed. For a whole dataset, `datasets.contents` is cheaper."""
        filters = _filters(directory_path, filename, status, split, include_archived)
        return paged(lambda offset, limit: self._page(dataset, filters, limit, offset), page_size)

    # --- uploading ---------------------------------------------------------------------------

    def upload(
        self,
        dataset_id: str,
        file_path: str | os.PathLike[str],
        folder_path: str = "/",
        idempotency_key: str | None = None,
    ) -> Image:
        """Upload one file under its own name, streamed from disk.

        With the `idempotency_key` of an earlier call that got through, the answer is that call's image.

        Raises:
            ValidationError: an extension that the service does not take.
            ApiError: status 413, more than 50 MB; nothing was sent.
            ConflictError: the name is taken in that folder.
            StorageError, NetworkError, OSError.
        """
        file = uploads.describe(file_path, folder_path)
        try:
            upload_url = self.upload_url(dataset_id, file.image)
        except ConflictError:
            if idempotency_key is None:
                raise
            # Perhaps taken by ourselves: registering under the same key gives the first answer again, or this
            # same refusal.
            return self.register(dataset_id, file.image, idempotency_key=idempotency_key)
        self.put_file(
            upload_url, file.path, file.image.content_type, timeout_s=uploads.timeout_s(file.image.file_size)
        )
        return self.register(dataset_id, file.image, idempotency_key=idempotency_key)

    def bulk_upload(
        self,
        dataset: str,
        paths: Sequence[str | os.PathLike[str]],
        folder_path: str = "/",
        max_workers: int = 8,
    ) -> RegisterResult:
        """Upload files into one folder with two API requests per batch. What could not be uploaded, for
        whatever reason, is in `failed`; one bad file stops no other.

        Raises:
            OSError, ValidationError, ApiError (413): a file that can never be uploaded; nothing was sent.
        """
        files = [uploads.describe(path, folder_path) for path in paths]
        outcomes = uploads.upload_files(self, dataset, files, max_workers=max_workers)
        return RegisterResult(
            succeeded=tuple(outcome for outcome in outcomes if isinstance(outcome, Image)),
            failed=tuple(
                UploadFailure(file.image.filename, file.image.directory_path, str(outcome))
                for file, outcome in zip(files, outcomes, strict=True)
                if not isinstance(outcome, Image)
            ),
        )

    def upload_url(self, dataset: str, image: NewImage) -> str:
        """A signed URL to PUT the bytes to, good for 15 minutes."""
        body = {"dataset": dataset, **_place(image)}
        return self._transport.call(
            "POST", "/images/upload-url", lambda answer: str(answer["data"]["upload_url"]), body=body
        )

    def register(self, dataset: str, image: NewImage, *, idempotency_key: str | None = None) -> Image:
        """Make an image of bytes that were PUT. The answer is the truth: the name may differ."""
        body = {"dataset": dataset, **_registration(image)}
        return self._transport.call(
            "POST", "/images/register", _image, body=body, idempotency_key=idempotency_key
        )

    def bulk_upload_urls(self, dataset: str, images: Sequence[NewImage]) -> Sequence[str]:
        """`upload_url` for up to 500, in the order of `images`."""

        def parse(answer: Any) -> list[str]:
            urls = [str(row["upload_url"]) for row in answer["data"]["upload_urls"]]
            if len(urls) != len(images):
                raise ValueError(f"{len(urls)} upload URLs for {len(images)} images")
            return urls

        body = {"dataset": dataset, "images": [_place(image) for image in images]}
        return self._transport.call("POST", "/images/bulk-upload-url", parse, body=body)

    def bulk_register(
        self, dataset: str, images: Sequence[NewImage], *, idempotency_key: str | None = None
    ) -> RegisterResult:
        """`register` for up to 500. What the service refuses is in `failed`."""
        body = {"dataset": dataset, "images": [_registration(image) for image in images]}
        return self._transport.call(
            "POST",
            "/images/bulk-register",
            lambda answer: RegisterResult.from_json(answer.get("data", answer)),
            body=body,
            idempotency_key=idempotency_key,
        )

    def put_file(
        self, upload_url: str, path: str | os.PathLike[str], content_type: str, *, timeout_s: float
    ) -> None:
        """Send a file to a signed URL; the bytes never pass through the API. `timeout_s` is for all of it.

        Raises:
            StorageError: 403 means that the URL has expired.
            RequestTimeoutError, NetworkError, IncompleteTransferError (the file shrank), OSError.
        """
        with Path(path).open("rb") as file:
            self._transport.put_file(upload_url, file, content_type, timeout_s=timeout_s)

    # --- downloading -------------------------------------------------------------------------

    def download(self, image_id: str, output_path: str | os.PathLike[str]) -> Path:
        """Fetch the original bytes into a file, whose path is returned; into a folder under the image's name.

        They arrive in `<output>.part`, which takes the file's place when it is complete and is gone
        otherwise. A transfer that breaks is resumed where it stopped.

        Raises:
            IncompleteTransferError: fewer or more bytes than announced.
            OSError: the file cannot be written.
        """
        output = Path(output_path).expanduser()
        if output.is_dir():
            output /= _local_name(self.get(image_id))
        output.parent.mkdir(parents=True, exist_ok=True)
        part = output.with_name(output.name + _PART_SUFFIX)
        # Whoever may write beside us must not be able to lead the bytes elsewhere with a link.
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(part, flags, 0o666)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
                self._receive(image_id, file)
            part.replace(output)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
        return output

    def open_original(self, image_id: str, offset: int = 0, length: int | None = None) -> Stream:
        """The original bytes through the API: one request each. `length` None is to the end. See `Stream` for
        a server that ignores the range."""
        return self._transport.open_route("/images/{image}", offset=offset, length=length, image=image_id)

    def storage_get(self, url: str, offset: int = 0, length: int | None = None) -> Stream:
        """The bytes behind a signed URL, at no cost to the budget. A URL that turns out to be the API's own
        (`Image.image_url`) is pinned to the configured host and gets the key.

        Raises:
            StorageError: 403 means that the URL has expired.
        """
        return self._transport.open_url(url, offset=offset, length=length)

    def storage_size(self, url: str) -> int | None:
        """Bytes behind a signed URL, None when storage does not tell. Raises as `storage_get`."""
        return self._transport.size_of(url)

    # --- changing ----------------------------------------------------------------------------

    def delete(self, image_id: str, permanent: bool = False) -> None:
        """Archive an image, or with `permanent` remove it for good.

        The service's route names an image by its path, so that this looks it up first (two requests). A name
        that makes the path ambiguous (`a/b.jpg` in the root is also `b.jpg` in `/a`) goes through the batch
        route, by id (three). For many images use `client.batch.delete`.

        Raises:
            NotFoundError: no such image, or the service left it out of the batch.
        """
        image = self.get(image_id)
        if _is_addressable(image):
            self._transport.call(
                "DELETE",
                "/images/{dataset}/{image_path}",
                nothing,
                query={"permanent": True} if permanent else None,
                dataset=image.dataset_id,
                image_path=_path_of(image),
            )
            return
        name = Datasets(self._transport).get(image.dataset_id).name
        result = Batch(self._transport).delete(name, [image_id], permanent=permanent)
        if result.failed:
            raise ConflictError(result.failed[0].reason, status=0)

    def bulk_tag(
        self, dataset: str, image_ids: Sequence[str], tags: Sequence[str], *, add: bool = True
    ) -> int:
        """Add or remove tags on many images; how many were touched."""
        body = {"dataset": dataset, "image_ids": [*image_ids], "tags": [*tags], "add": add}
        return self._transport.call(
            "POST",
            "/images/bulk-tag",
            lambda answer: int(answer.get("data", answer).get("processed", 0)),
            body=body,
        )

    def set_split(self, image: Image, split: str | None) -> None:
        """`train`, `val`, `test`, or None for none.

        Raises:
            ConflictError: the image's name cannot stand in a route; nothing was sent.
        """
        if not _is_addressable(image):
            raise ConflictError(f"the service's route cannot name {image.filename!r}", status=0)
        self._transport.call(
            "POST",
            "/images/{dataset}/{image_path}/split",
            nothing,
            body={"split": split},
            dataset=image.dataset_id,
            image_path=_path_of(image),
        )

    # --- inside ------------------------------------------------------------------------------

    def _page(self, dataset: str, filters: dict[str, object], limit: int, offset: int) -> Page[Image]:
        query = {"dataset": dataset, "limit": limit, "offset": offset, **filters}
        return self._transport.call("GET", "/images/", page_of(Image.from_json), query=query)

    def _receive(self, image_id: str, file: BinaryIO) -> None:
        """The whole original into `file`, resumed as often as the transport would repeat a request."""
        received = 0
        resumes_left = self._transport.policy.max_retries
        while True:
            with self.open_original(image_id, received) as stream:
                if stream.offset_bytes != received:
                    # The server ignored the range: from the start again.
                    received = stream.offset_bytes
                    file.seek(received)
                    file.truncate()
                try:
                    for chunk in stream:
                        file.write(chunk)
                        received += len(chunk)
                except (NetworkError, IncompleteTransferError):
                    resumes_left -= 1
                    if resumes_left < 0:
                        raise
                    continue
            expected = stream.total_bytes
            if expected is None:
                # Chunked transfer: the image's row knows; 0 there means that nobody does.
                expected = self.get(image_id).file_size or received
            if received != expected:
                raise IncompleteTransferError(f"image {image_id}", expected=expected, received=received)
            return


def _image(answer: Any) -> Image:
    return Image.from_json(answer["data"])


def _filters(
    directory_path: str | None,
    filename: str | None,
    status: str | None,
    split: str | None,
    include_archived: bool,
) -> dict[str, object]:
    """Only what is set: the service takes an empty filter for one."""
    wanted = {"directory_path": directory_path, "filename": filename, "status": status, "split": split}
    filters: dict[str, object] = {name: value for name, value in wanted.items() if value is not None}
    if include_archived:
        filters["include_archived"] = True
    return filters


def _place(image: NewImage) -> dict[str, object]:
    return {
        "filename": image.filename,
        "directory_path": image.directory_path,
        "content_type": image.content_type,
    }


def _registration(image: NewImage) -> dict[str, object]:
    return {
        **_place(image),
        "file_size": image.file_size,
        "width": image.width,
        "height": image.height,
    }


def _path_of(image: Image) -> str:
    return f"{image.directory_path}/{image.filename}"


def _is_addressable(image: Image) -> bool:
    """Whether the path in a route can only mean this image."""
    names = [*namespace.components(image.directory_path), image.filename]
    return "/" not in image.filename and not any(n in ("", ".", "..") or "\0" in n for n in names)


def _local_name(image: Image) -> str:
    """A name for one file in one folder, whatever the server says, with room for `.part`."""
    name = namespace.to_local(image.filename)
    return name if namespace.fits(name + _PART_SUFFIX) else namespace.with_id(name[:120], image.id)
