"""The client in the shapes that cache, transfer and fs ask for. No decisions, only translation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from pictofs.api.budget import Reason, because
from pictofs.api.client import Client
from pictofs.api.errors import NotFoundError, StorageError
from pictofs.api.models import (
    BatchResult,
    Dataset,
    Directory,
    DownloadItem,
    Image,
    NewImage,
    RegisterResult,
)
from pictofs.cache.links import SignedLinks
from pictofs.transfer.download import ByteStream
from pictofs.transfer.records import Batch, ChangeKind

LINK_EXPIRED = 403
"""What storage answers to a signed URL after its time (wire contract)."""


class DatasetNames:
    """Names by id: the batch routes know datasets by name only. The last listing tells; else it is asked."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._names: dict[str, str] = {}

    def learn(self, datasets: Sequence[Dataset]) -> None:
        """Take in a fresh listing."""
        self._names = {dataset.id: dataset.name for dataset in datasets}

    def name(self, dataset_id: str, *, anew: bool = False) -> str:
        """A dataset's name; asked for when it is not known, or `anew`."""
        if anew or dataset_id not in self._names:
            self._names[dataset_id] = self._client.datasets.get(dataset_id).name
        return self._names[dataset_id]

    def ask(self, dataset_id: str, request: Callable[[str], BatchResult]) -> BatchResult:
        """Send a request by name; once more under its new name if somebody has renamed the dataset."""
        known = self._names.get(dataset_id)
        if known is not None:
            try:
                return request(known)
            except NotFoundError:
                self._names.pop(dataset_id, None)
        return request(self.name(dataset_id, anew=True))


class Service:
    """What the drive asks while a program waits.

    Args:
        hasty: the client for bytes, with little patience: who reads them goes on after a break by itself.
        count: how many images a dataset has, by its id, None where that is not known. Asks nobody.
    """

    def __init__(
        self,
        client: Client,
        names: DatasetNames,
        *,
        hasty: Client,
        count: Callable[[str], int | None] = lambda _dataset_id: None,
    ) -> None:
        self._client = client
        self._hasty = hasty
        self._names = names
        self._links = SignedLinks(self.links, count=count)

    # cache.metadata.MetadataSource

    def datasets(self) -> Sequence[Dataset]:
        datasets = self._client.datasets.list()
        self._names.learn(datasets)
        return datasets

    def contents(self, dataset_id: str) -> tuple[Dataset, Iterable[Image]]:
        # The counters of the first page: what changes while the others are asked for moves them again.
        pages = self._client.datasets.iter_contents(dataset_id, with_urls=False)
        dataset, first = next(pages)
        return dataset, chain(first, chain.from_iterable(images for _, images in pages))

    def folder(self, dataset_id: str, path: str) -> Iterable[Image]:
        rows = self._client.images.iter(dataset_id, directory_path=path)
        return (image.without_urls() for image in rows)

    def directories(self, dataset_id: str) -> Sequence[Directory]:
        return self._client.directories.list(dataset_id)

    def image(self, image_id: str) -> Image:
        return self._client.images.get(image_id)

    # fs.vfs.Remote

    def create_dataset(self, name: str) -> Dataset:
        return self._client.datasets.create(name)

    def rename_dataset(self, dataset_id: str, new_name: str) -> Dataset:
        return self._client.datasets.rename(dataset_id, new_name)

    def archive_dataset(self, dataset_id: str) -> Dataset:
        return self._client.datasets.archive(dataset_id)

    def rename_directory(self, dataset_id: str, path: str, new_name: str) -> Directory:
        return self._client.directories.rename(dataset_id, path, new_name)

    def set_status(self, dataset_id: str, image_id: str, status: str) -> BatchResult:
        return self._names.ask(
            dataset_id, lambda name: self._client.batch.update(name, [image_id], status=status)
        )

    def set_split(self, image: Image, split: str | None) -> None:
        self._client.images.set_split(image, split)

    def tag(self, image: Image, tags: Sequence[str], *, add: bool) -> int:
        return self._client.images.bulk_tag(image.dataset_id, [image.id], tags, add=add)

    def delete_permanently(self, dataset_id: str, image_id: str) -> BatchResult:
        return self._names.ask(
            dataset_id, lambda name: self._client.batch.delete(name, [image_id], permanent=True)
        )

    # mount.archive.ArchiveSource

    def dataset(self, dataset_id: str) -> Dataset:
        return self._client.datasets.get(dataset_id)

    def archived_datasets(self) -> Sequence[Dataset]:
        return self._client.datasets.list(archived=True)

    def archived_images(
        self, dataset_id: str, folder: str | None = None, filename: str | None = None
    ) -> Iterator[Image]:
        images = self._client.images.iter(
            dataset_id, directory_path=folder, filename=filename, include_archived=True
        )
        return (image for image in images if image.is_archived)

    def restore(self, dataset_id: str, image_ids: Sequence[str]) -> BatchResult:
        return self._names.ask(
            dataset_id, lambda name: self._client.batch.update(name, image_ids, is_archived=False)
        )

    def unarchive_dataset(self, dataset_id: str) -> Dataset:
        return self._client.datasets.unarchive(dataset_id)

    # Bytes

    def links(self, dataset_id: str) -> Sequence[DownloadItem]:
        return self._client.datasets.download_urls(dataset_id)

    @contextmanager
    def open_stream(self, image: Image, start: int, end: int) -> Iterator[ByteStream]:
        """An image's bytes `[start, end)`: by signed link where there is one. Without, through the API, and
        then up to the image's end: each further part would be another API request."""
        url = self._links.get(image)
        if url is not None:
            try:
                with self._hasty.images.storage_get(url, start, end - start) as stream:
                    yield stream
                    return
            except StorageError as error:
                if error.status != LINK_EXPIRED:
                    raise
                self._links.expire(image, url)
            url = self._links.get(image)
        opened = (
            self._hasty.images.open_original(image.id, start)
            if url is None
            else self._hasty.images.storage_get(url, start, end - start)
        )
        with opened as stream:
            yield stream

    def has_link(self, image: Image) -> bool:
        """Whether the image's bytes cost no API request of their own. Links are asked for if need be, to
        fetch ahead with them."""
        with because(Reason.PREFETCHING):
            return self._links.get(image, many=True) is not None

    def size(self, image: Image) -> int | None:
        """The size of an image that no listing knows, in bytes."""
        url = self._links.get(image, many=True)
        return self._client.images.storage_size(url) if url else None


class Queue:
    """What the queues send: see transfer.upload.UploadRemote and transfer.changes.ChangeRemote."""

    def __init__(self, client: Client, names: DatasetNames) -> None:
        self._client = client
        self._names = names

    def upload_urls(self, dataset_id: str, images: Sequence[NewImage]) -> Sequence[str]:
        return self._client.images.bulk_upload_urls(dataset_id, images)

    def put(self, url: str, path: Path, content_type: str, timeout_s: float) -> None:
        self._client.images.put_file(url, path, content_type, timeout_s=timeout_s)

    def register(self, dataset_id: str, images: Sequence[NewImage], idempotency_key: str) -> RegisterResult:
        return self._client.images.bulk_register(dataset_id, images, idempotency_key=idempotency_key)

    def find(self, dataset_id: str, folder: str, filename: str | None) -> Sequence[Image]:
        with because(Reason.UPLOADING):
            return list(self._client.images.iter(dataset_id, directory_path=folder, filename=filename))

    def archive(self, dataset_id: str, image_ids: Sequence[str]) -> BatchResult:
        return self._names.ask(dataset_id, lambda name: self._client.batch.delete(name, image_ids))

    def dataset_name(self, dataset_id: str, *, anew: bool = False) -> str:
        return self._names.name(dataset_id, anew=anew)

    def change_images(self, batch: Batch) -> BatchResult:
        routes, name, ids, key = self._client.batch, batch.dataset_name, batch.image_ids, batch.key
        if batch.kind is ChangeKind.ARCHIVE:
            return routes.delete(name, ids, idempotency_key=key)
        if batch.kind is ChangeKind.RESTORE:
            return routes.update(name, ids, is_archived=False, idempotency_key=key)
        if batch.kind is ChangeKind.MOVE:
            return routes.move(name, ids, batch.folder, idempotency_key=key)
        if batch.kind is ChangeKind.TRANSFER:
            target = batch.target_dataset_name
            return routes.copy_to_dataset(name, ids, target, batch.folder, idempotency_key=key)
        if batch.kind is ChangeKind.COPY:
            # A name that somebody else took is refused: what is sent twice can never be there twice.
            return routes.copy(
                name,
                ids,
                batch.folder,
                duplicate_handling="skip",
                copy_annotations=True,
                idempotency_key=key,
            )
        raise ValueError(f"{batch.kind} is not about images")

    def create_directory(self, dataset_id: str, path: str) -> Directory:
        return self._client.directories.create(dataset_id, path)

    def delete_directory(self, dataset_id: str, path: str) -> None:
        self._client.directories.delete(dataset_id, path)

    def read(self, image: Image) -> Iterator[bytes]:
        with because(Reason.UPLOADING):
            opened = self._client.images.open_original(image.id)
        with opened as stream:
            yield from stream
