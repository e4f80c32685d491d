"""Uploading local files through the bulk routes: two API requests and one PUT per file, for a whole batch.

Each file has an outcome of its own. A request that the service refuses because of one of its files is halved
until the culprit stands alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pictofs import imagefile, namespace
from pictofs.api.answers import says_taken
from pictofs.api.errors import (
    ApiError,
    ConflictError,
    PictographError,
    ServerError,
    StorageError,
    ValidationError,
)
from pictofs.api.models import Image, NewImage, RegisterResult, UploadFailure

if TYPE_CHECKING:
    from pictofs.api.images import Images

# The service takes 500. Smaller batches keep signed URLs (15 minutes) from expiring before their turn on a
# slow line, and let progress be seen; they cost 2 requests per 100 files.
FILES_PER_BATCH = 100
BYTES_PER_BATCH = 256 * 1024 * 1024
# A line slower than this is taken for a broken one.
_SLOWEST_BYTES_PER_S = 32 * 1024
_TIMEOUT_FLOOR_S = 60.0

Outcome: TypeAlias = Image | PictographError | OSError
"""The registered image, or why there is none."""
Place: TypeAlias = tuple[str, str]
"""Folder and file name."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine, and the image it is to become."""

    path: Path
    image: NewImage


def describe(path: str | os.PathLike[str], folder_path: str) -> LocalFile:
    """Look at a file that is to be uploaded into a folder (`/`, `/a/b`). A picture that cannot be measured
    has no width and height; whether it is one is the service's to say.

    Raises:
        ValidationError: an extension that the service does not take (status 0).
        ApiError: status 413, more than 50 MB.
        OSError: no such file, or it cannot be read.
    """
    path = Path(path).expanduser()
    try:
        content_type = imagefile.content_type_for(path.name)
    except ValueError as error:
        raise ValidationError(f"{path.name}: {error}", status=0) from None
    size_bytes = path.stat().st_size
    if size_bytes > imagefile.MAX_FILE_BYTES:
        raise ApiError(f"{path.name} is larger than the service takes (50 MB)", status=413)
    found = imagefile.inspect(path, path.name)
    folder = namespace.join(namespace.components(folder_path))
    return LocalFile(path, NewImage(path.name, folder, content_type, size_bytes, found.width, found.height))


def place_of(image: NewImage | Image | UploadFailure) -> Place:
    return image.directory_path, image.filename


def timeout_s(size_bytes: int) -> float:
    """How long an upload of that size may take in all."""
    return _TIMEOUT_FLOOR_S + size_bytes / _SLOWEST_BYTES_PER_S


def upload_files(
    images: Images,
    dataset: str,
    files: Sequence[LocalFile],
    *,
    max_workers: int,
    taken: Set[Place] = frozenset(),
    on_done: Callable[[LocalFile, Outcome], None] | None = None,
) -> list[Outcome]:
    """Upload `files`; their outcomes in the same order.

    A file whose place is in `taken`, or was taken by an earlier one, is a ConflictError at once: its bytes
    must not reach the storage object of the image that is there. `on_done` hears of each file.
    """
    outcomes: dict[int, Outcome] = {}

    def finish(at: int, outcome: Outcome) -> None:
        outcomes[at] = outcome
        if on_done is not None:
            on_done(files[at], outcome)

    places = set(taken)
    wanted: list[int] = []
    for at, file in enumerate(files):
        place = place_of(file.image)
        if place in places:
            finish(at, ConflictError(f"{place[1]} already exists in {place[0]}", status=0))
        else:
            places.add(place)
            wanted.append(at)
    for batch in _batches(files, wanted):
        landed = _upload_batch(images, dataset, [files[at] for at in batch], max_workers)
        for at, outcome in zip(batch, landed, strict=True):
            finish(at, outcome)
    return [outcomes[at] for at in range(len(files))]


def _batches(files: Sequence[LocalFile], wanted: Sequence[int]) -> Iterator[list[int]]:
    """`wanted` in order, cut where a batch is full."""
    batch: list[int] = []
    size_bytes = 0
    for at in wanted:
        file_bytes = files[at].image.file_size
        if batch and (len(batch) >= FILES_PER_BATCH or size_bytes + file_bytes > BYTES_PER_BATCH):
            yield batch
            batch, size_bytes = [], 0
        batch.append(at)
        size_bytes += file_bytes
    if batch:
        yield batch


def _upload_batch(
    images: Images, dataset: str, batch: Sequence[LocalFile], max_workers: int
) -> list[Outcome]:
    urls = _url_or_refusal(images, dataset, [file.image for file in batch])

    def put(at: int) -> Outcome | None:
        """None when the bytes are there."""
        url = urls[at]
        if not isinstance(url, str):
            return url
        try:
            _put(images, dataset, batch[at], url)
        except (PictographError, OSError) as error:
            return error
        return None

    pool = ThreadPoolExecutor(max_workers=max(1, min(max_workers, len(batch))))
    try:
        outcomes = [*pool.map(put, range(len(batch)))]
    finally:
        # On Ctrl-C too: not to send the rest of the batch first.
        pool.shutdown(cancel_futures=True)
    sent = [at for at, outcome in enumerate(outcomes) if outcome is None]
    registered = _register(images, dataset, [batch[at].image for at in sent])
    for at, outcome in zip(sent, registered, strict=True):
        outcomes[at] = outcome
    return [outcome for outcome in outcomes if outcome is not None]


def _put(images: Images, dataset: str, file: LocalFile, url: str) -> None:
    limit_s = timeout_s(file.image.file_size)
    try:
        images.put_file(url, file.path, file.image.content_type, timeout_s=limit_s)
    except StorageError as error:
        if error.status != 403:
            raise
        # It expired while others had their turn.
        url = images.upload_url(dataset, file.image)
        images.put_file(url, file.path, file.image.content_type, timeout_s=limit_s)


def _url_or_refusal(
    images: Images, dataset: str, wanted: Sequence[NewImage]
) -> Sequence[str | PictographError]:
    try:
        return images.bulk_upload_urls(dataset, wanted)
    except PictographError as error:
        refusal = error
    if len(wanted) == 1 or not _is_about_a_file(refusal):
        return [refusal] * len(wanted)
    middle = len(wanted) // 2
    return [
        *_url_or_refusal(images, dataset, wanted[:middle]),
        *_url_or_refusal(images, dataset, wanted[middle:]),
    ]


def _register(images: Images, dataset: str, sent: Sequence[NewImage]) -> Sequence[Outcome]:
    if not sent:
        return []
    try:
        return _matched(sent, images.bulk_register(dataset, sent))
    except PictographError as error:
        refusal = error
    if len(sent) == 1 or not _is_about_a_file(refusal):
        return [refusal] * len(sent)
    middle = len(sent) // 2
    return [*_register(images, dataset, sent[:middle]), *_register(images, dataset, sent[middle:])]


def _is_about_a_file(error: PictographError) -> bool:
    """Whether fewer files might fare better: not so for a bad key, a quota, a server in trouble."""
    return isinstance(error, (ValidationError, ConflictError)) or (
        isinstance(error, ApiError) and error.status == 413
    )


def _matched(sent: Sequence[NewImage], result: RegisterResult) -> list[Outcome]:
    """The answer by file. It is in no promised order, and the service may have changed a name (HEIC becomes
    PNG): what is left over on both sides belongs together when it is equally many."""
    refused = {place_of(failure): failure for failure in result.failed}
    landed = {place_of(image): image for image in result.succeeded}
    outcomes: list[Outcome | None] = []
    for wanted in sent:
        place = place_of(wanted)
        if place in refused:
            outcomes.append(_refusal(refused[place]))
        else:
            outcomes.append(landed.pop(place, None))
    renamed = [*landed.values()]
    if len(renamed) != outcomes.count(None):
        renamed = []
    missing = ServerError("the service did not say what became of this file", status=0)
    return [outcome or (renamed.pop(0) if renamed else missing) for outcome in outcomes]


def _refusal(failure: UploadFailure) -> ApiError:
    kind = ConflictError if says_taken(failure.error) else ValidationError
    return kind(failure.error or "refused", status=0)
