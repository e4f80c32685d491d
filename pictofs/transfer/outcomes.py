"""What became of images that were moved or copied: which name or id they have now, or whether they went.

The service's answer says how many had to take another name, not which; and a copy has an id that no answer
tells. The target folder's listing tells both: one request for a whole batch. When there was no answer, the
listing is asked whether the request had its effect; of a copy the bytes decide. Changes nothing.
"""

from __future__ import annotations

import enum
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import PurePosixPath
from typing import Protocol

from pictofs.api.errors import NotFoundError, PictographError
from pictofs.api.models import BatchResult, Image
from pictofs.transfer.records import Batch, Change, ChangeKind
from pictofs.transfer.refusals import is_final

__all__ = ["Outcomes", "OutcomesRemote", "Unknown"]

log = logging.getLogger(__name__)

# How far the service's clock and ours may differ when a time has to tell whether a copy is new.
_CLOCK_SKEW = timedelta(minutes=10)


_COPYING = (ChangeKind.TRANSFER, ChangeKind.COPY)


class Unknown(enum.Enum):
    """An image that was moved or copied, but nobody can say under which name or id."""

    UNKNOWN = enum.auto()
    MISSING = enum.auto()
    """A copy that the service says it made, or skipped without a word, and does not list."""


class OutcomesRemote(Protocol):
    """What is on the service. Raises api.errors."""

    def find(self, dataset_id: str, folder: str, filename: str | None) -> Sequence[Image]:
        """The live images of a folder: of that name, or with None all of them."""

    def read(self, image: Image) -> Iterator[bytes]:
        """An image's original bytes."""


class Outcomes:
    """See the module."""

    def __init__(self, remote: OutcomesRemote) -> None:
        self._remote = remote

    def of_answer(
        self, batch: Batch, changes: Sequence[Change], answer: BatchResult
    ) -> Mapping[int, Image | Unknown]:
        """What the changes of an answered batch made, by change id; nothing where nobody need know.

        Raises:
            PictographError: the copies of images that are still shown under provisional ids cannot be listed
                now; ask again.
        """
        moved = batch.kind is ChangeKind.MOVE and answer.renamed > 0
        if not changes or not (moved or batch.kind in _COPYING):
            return {}
        try:
            there = self._listing(batch)
        except PictographError as error:
            log.warning("what was moved to %s could not be listed: %s", batch.folder, error)
            if batch.kind is ChangeKind.COPY and not is_final(error):
                raise
            return dict.fromkeys((c.id for c in changes), Unknown.UNKNOWN)
        found: dict[int, Image | Unknown] = dict.fromkeys((c.id for c in changes), Unknown.UNKNOWN)
        if batch.kind is ChangeKind.MOVE:
            return {**found, **_by_id(there, changes)}
        for change in changes:
            copies = [image for image in there if _may_be_copy(change, image, batch)]
            plain = [image for image in copies if image.filename == change.filename]
            copies = plain if answer.renamed == 0 else copies
            if len(copies) == 1:
                found[change.id] = copies[0]
            elif batch.kind is ChangeKind.COPY and not any(_is_like(change, image) for image in there):
                found[change.id] = Unknown.MISSING
        return found

    def find_out(self, batch: Batch, changes: Sequence[Change]) -> Mapping[int, Image]:
        """Which changes of a batch have had their effect, with the images that they made. Of changes that can
        be repeated without harm it is not asked: none.

        Raises:
            PictographError: the service did not answer; nothing is known then.
        """
        if batch.kind is ChangeKind.MOVE:
            return _by_id(self._listing(batch), changes)
        if batch.kind not in _COPYING:
            return {}
        there = self._listing(batch)
        found: dict[int, Image] = {}
        for change in changes:
            for image in there:
                if image in found.values() or change.source is None or not _may_be_copy(change, image, batch):
                    continue
                if self._same_bytes(change.source, image):
                    found[change.id] = image
                    break
        return found

    def _listing(self, batch: Batch) -> Sequence[Image]:
        dataset_id = batch.dataset_id if batch.target_dataset_id is None else batch.target_dataset_id
        try:
            return self._remote.find(dataset_id, batch.folder, None)
        except NotFoundError:
            return ()  # no such folder, or no such dataset any more

    def _same_bytes(self, one: Image, other: Image) -> bool:
        try:
            return b"".join(self._remote.read(one)) == b"".join(self._remote.read(other))
        except NotFoundError:
            return False


def _by_id(images: Sequence[Image], changes: Sequence[Change]) -> dict[int, Image]:
    by_id = {image.id: image for image in images}
    return {c.id: by_id[c.image_id] for c in changes if c.image_id in by_id}


def _is_like(change: Change, image: Image) -> bool:
    """Whether an image has the name and the size of what was to be made."""
    wanted = change.image
    return wanted is not None and (image.filename, image.file_size) == (wanted.filename, wanted.file_size)


def _may_be_copy(change: Change, image: Image, batch: Batch) -> bool:
    """Whether an image may be what a copy made: its name, or that with a number, made since, as large and
    with as many labels."""
    source = change.source
    if source is None or image.id == source.id:
        return False
    name = PurePosixPath(change.filename)
    numbered = rf"{re.escape(name.stem)}-\d+{re.escape(name.suffix)}"
    if image.filename != change.filename and re.fullmatch(numbered, image.filename) is None:
        return False
    since = datetime.fromtimestamp(batch.created_ns / 1e9, tz=timezone.utc) - _CLOCK_SKEW
    if image.created_at is not None and image.created_at < since:
        return False
    known = source.file_size == 0 or image.file_size == 0 or source.file_size == image.file_size
    return known and image.annotation_count >= source.annotation_count
