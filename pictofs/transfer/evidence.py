"""Finding out, never guessing: is this file on the service already?

Asked when a registration's answer was lost for good, or says a name is taken that we may have taken
ourselves. Listings say what is there; bytes say whose it is. Changes nothing, here or there.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Protocol

from pictofs.api.errors import NotFoundError
from pictofs.api.models import Image, NewImage
from pictofs.transfer.matching import is_converted, may_be
from pictofs.transfer.places import loose_key
from pictofs.transfer.records import Upload
from pictofs.transfer.spool import Spool

__all__ = ["Evidence", "EvidenceRemote", "Finding", "Verdict"]

_LIST_FOLDER_FROM = 3  # so many files of one folder are looked up with its listing instead of one by one

# How far the service's clock and ours may differ when a time has to tell whether an image is new.
_CLOCK_SKEW = timedelta(minutes=10)


class EvidenceRemote(Protocol):
    """What is on the service. Raises api.errors."""

    def find(self, dataset_id: str, folder: str, filename: str | None) -> Sequence[Image]:
        """The live images of a folder: of that name, or with None all of them."""

    def read(self, image: Image) -> Iterator[bytes]:
        """An image's original bytes."""


class Verdict(enum.Enum):
    """What was found out about a file."""

    OURS = "ours"  # it is there, and these are its bytes
    TAKEN = "taken"  # its name is taken by other bytes
    ABSENT = "absent"  # neither
    UNCLEAR = "unclear"  # an image is there of which nobody can say


@dataclass(frozen=True, slots=True)
class Finding:
    """`image` is set when the verdict is OURS."""

    verdict: Verdict
    image: Image | None = None


class Evidence:
    """Looks files up. Holds nothing but the listings of one examination at a time."""

    def __init__(self, remote: EvidenceRemote, spool: Spool) -> None:
        self._remote = remote
        self._spool = spool

    def examine(
        self,
        files: Sequence[tuple[Upload, NewImage]],
        *,
        strangers: Sequence[Image],
        is_taken: Callable[[str], bool],
        since_ns: int,
    ) -> dict[int, Finding]:
        """What became of files of one dataset, by upload id.

        Args:
            strangers: images that were registered in the same request, whose file is not known.
            is_taken: whether the image of this id is another file's.
            since_ns: when the registration in question was first sent.

        Raises:
            PictographError: the service did not answer; nothing is known then.
        """
        ours: set[str] = set()

        def is_free(image: Image) -> bool:
            return image.id not in ours and not is_taken(image.id)

        by_folder: dict[str, list[tuple[Upload, NewImage]]] = {}
        for upload, new in files:
            by_folder.setdefault(upload.folder, []).append((upload, new))
        findings: dict[int, Finding] = {}
        for folder_files in by_folder.values():
            listing = _Listing(self._remote, folder_files[0][0], whole=len(folder_files) >= _LIST_FOLDER_FROM)
            for upload, new in folder_files:
                finding = self._examine_one(upload, new, listing, strangers, is_free, since_ns)
                findings[upload.id] = finding
                if finding.image is not None:
                    ours.add(finding.image.id)
        return findings

    def _examine_one(
        self,
        upload: Upload,
        file: NewImage,
        listing: _Listing,
        strangers: Sequence[Image],
        is_free: Callable[[Image], bool],
        since_ns: int,
    ) -> Finding:
        for image in listing.named(file.filename):
            if is_free(image) and self._same_bytes(upload, file, image):
                return Finding(Verdict.OURS, image)
            return Finding(Verdict.TAKEN)
        near = [image for image in listing.all() if _is_near(file, image)]
        doubt = False
        for image in [*near, *strangers]:
            if not is_free(image):
                continue
            if is_converted(file, image):
                if not _is_near(file, image):
                    continue
                if image.created_at is None:
                    doubt = True
                elif image.created_at >= _moment(since_ns) - _CLOCK_SKEW:
                    return Finding(Verdict.OURS, image)
                else:
                    return Finding(Verdict.TAKEN)
            elif self._same_bytes(upload, file, image):
                return Finding(Verdict.OURS, image)
        return Finding(Verdict.UNCLEAR if doubt else Verdict.ABSENT)

    def _same_bytes(self, upload: Upload, file: NewImage, image: Image) -> bool:
        if not may_be(file, image) or is_converted(file, image):
            return False
        try:
            with self._spool.open(upload.spool_name) as ours:
                offset_bytes = 0
                for theirs in self._remote.read(image):
                    if ours.pread(len(theirs), offset_bytes) != theirs:
                        return False
                    offset_bytes += len(theirs)
                return offset_bytes == upload.size_bytes
        except (FileNotFoundError, NotFoundError):
            return False  # our bytes are lost, or theirs were removed while we looked


class _Listing:
    """One folder on the service, asked for as little as possible."""

    def __init__(self, remote: EvidenceRemote, upload: Upload, *, whole: bool) -> None:
        self._remote = remote
        self._dataset_id = upload.dataset_id
        self._folder = upload.folder
        self._all: Sequence[Image] | None = None
        if whole:
            self.all()

    def named(self, filename: str) -> list[Image]:
        images = self._all if self._all is not None else self._ask(filename)
        return [i for i in images if i.filename == filename and i.directory_path == self._folder]

    def all(self) -> Sequence[Image]:
        if self._all is None:
            self._all = self._ask(None)
        return self._all

    def _ask(self, filename: str | None) -> Sequence[Image]:
        try:
            return self._remote.find(self._dataset_id, self._folder, filename)
        except NotFoundError:
            return ()  # no such folder, or no such dataset any more


def _is_near(file: NewImage, image: Image) -> bool:
    """Whether the service may have made the image's name from the file's."""
    ours = loose_key(("", file.directory_path, file.filename))
    return ours == loose_key(("", image.directory_path, image.filename))


def _moment(time_ns: int) -> datetime:
    return datetime.fromtimestamp(time_ns / 1e9, tz=timezone.utc)
