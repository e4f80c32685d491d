"""Which image of a bulk-register answer is which file. Pure.

The answer's order is not promised, and the service may have changed names: sanitised, or .heic stored as
.png. So a file and an image belong together when that is the only possibility; what is not certain is left
open, for `evidence` to find out. Never one image for two files.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pictofs.api.models import Image, NewImage, RegisterResult, UploadFailure
from pictofs.transfer.places import loose_key

__all__ = ["Matching", "is_converted", "match", "may_be"]


@dataclass(slots=True)
class Matching:
    """By upload id.

    Attributes:
        landed: the image that a file became.
        refused: the service's words about a file.
        unclear: the files of which the answer says nothing certain.
        strangers: images that were assigned to no file.
    """

    landed: dict[int, Image] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)
    unclear: list[int] = field(default_factory=list)
    strangers: list[Image] = field(default_factory=list)


def match(files: Mapping[int, NewImage], answer: RegisterResult, is_taken: Callable[[str], bool]) -> Matching:
    """Assign images and refusals to files.

    Args:
        files: what was asked to be registered, by upload id.
        is_taken: whether the image of this id belongs to another file already.
    """
    open_files = dict(files)
    images = {image.id: image for image in answer.succeeded if not is_taken(image.id)}
    failures = dict(enumerate(answer.failed))
    found = Matching()
    for same_place in (_exactly, _loosely):
        refused = _pairs(open_files, failures, same_place, lambda _file, _failure: True)
        landed = _pairs(open_files, images, same_place, may_be)
        # One place with an image and a refusal: two files were made alike, which is which is not said here.
        for upload_id in refused.keys() - landed.keys():
            found.refused[upload_id] = failures.pop(refused[upload_id]).error
            del open_files[upload_id]
        for upload_id in landed.keys() - refused.keys():
            found.landed[upload_id] = images.pop(landed[upload_id])
            del open_files[upload_id]
    for upload_id, image_id in _pairs(open_files, images, _by_size, may_be).items():
        found.landed[upload_id] = images.pop(image_id)
        del open_files[upload_id]
    if len(open_files) == len(failures) == 1 and not images:
        found.refused[open_files.popitem()[0]] = failures.popitem()[1].error
    found.unclear = list(open_files)
    found.strangers = list(images.values())
    return found


def is_converted(file: NewImage, image: Image) -> bool:
    """Whether the service keeps the file in another format, so that neither size nor bytes are comparable."""
    return file.filename.lower().endswith(".heic") and image.filename.lower().endswith(".png")


def may_be(file: NewImage, image: Image) -> bool:
    """Whether an image may hold the file's bytes, as far as its size tells."""
    return is_converted(file, image) or image.file_size in (0, file.file_size)


Place = Callable[[NewImage | Image | UploadFailure], Hashable]


def _exactly(item: NewImage | Image | UploadFailure) -> Hashable:
    return item.directory_path, item.filename


def _loosely(item: NewImage | Image | UploadFailure) -> Hashable:
    return loose_key(("", item.directory_path, item.filename))


def _by_size(item: NewImage | Image | UploadFailure) -> Hashable:
    assert not isinstance(item, UploadFailure)
    return item.directory_path, item.file_size


Item = TypeVar("Item", Image, UploadFailure)
Identity = TypeVar("Identity", str, int)


def _pairs(
    files: Mapping[int, NewImage],
    items: Mapping[Identity, Item],
    place: Place,
    fits: Callable[[NewImage, Item], bool],
) -> dict[int, Identity]:
    """The files and items that alone share a place, and fit."""
    files_at: dict[Hashable, list[int]] = {}
    for upload_id, file in files.items():
        files_at.setdefault(place(file), []).append(upload_id)
    items_at: dict[Hashable, list[Identity]] = {}
    for identity, item in items.items():
        items_at.setdefault(place(item), []).append(identity)
    return {
        ids[0]: items_at[where][0]
        for where, ids in files_at.items()
        if len(ids) == 1
        and len(items_at.get(where, ())) == 1
        and fits(files[ids[0]], items[items_at[where][0]])
    }
