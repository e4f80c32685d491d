"""What the journal keeps, as frozen values: rows and their lifecycle, registrations, changes, outcomes.

Pure. A row is never changed: the journal puts a new value in its place.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pictofs.api.models import Image, NewImage
from pictofs.cache.provisional import provisional_id

__all__ = [
    "TRANSITIONS",
    "Again",
    "Batch",
    "Change",
    "ChangeKind",
    "Fate",
    "Key",
    "Member",
    "NewUpload",
    "Outcome",
    "Refused",
    "Registration",
    "State",
    "Tally",
    "Upload",
    "UploadGoneError",
    "archiving",
    "copying",
    "moving",
    "server_path",
]

Key = tuple[str, str, str]
"""A place on the service: dataset id, folder ("/" or "/a/b"), file name, all in the service's form."""


class State(enum.Enum):
    """A row's life. HELD and FAILED wait for a person or a program, the others for the uploader."""

    HELD = "held"  # a working name, an empty file or no readable image: stays here until something changes
    QUEUED = "queued"  # to be uploaded
    SENDING = "sending"  # claimed: between its upload URL and the answer to its registration
    DONE = "done"  # registered; the row goes once the rest of the program has taken the image over
    FAILED = "failed"  # finally refused; bytes and reason are kept


TRANSITIONS: Mapping[State, frozenset[State]] = {
    # rename and rewrite may move a row that is not in flight between these three
    State.HELD: frozenset({State.QUEUED, State.FAILED}),
    State.QUEUED: frozenset({State.HELD, State.SENDING, State.FAILED}),
    State.FAILED: frozenset({State.HELD, State.QUEUED}),
    # what happened to a claimed row; back to QUEUED after trouble that passes
    State.SENDING: frozenset({State.QUEUED, State.DONE, State.FAILED}),
    # then the row is deleted
    State.DONE: frozenset(),
}


class UploadGoneError(FileNotFoundError):
    """The row is no more: it landed or was forgotten since it was looked up. Look again."""


@dataclass(frozen=True, slots=True)
class NewUpload:
    """What `Journal.add` and `replace` commit. The spool file's bytes are durable before.

    Attributes:
        dataset_id, folder, filename: where it goes, in the service's form.
        spool_name: the spool file that holds its bytes.
        size_bytes: their number, never changed afterwards.
        mtime_ns: modification time, ns since 1970.
        width, height: pixels after EXIF orientation, None when undecodable.
        state: QUEUED or HELD.
        reason: why it is held.
        replaces_image_id: an uploaded image at this place, to be archived once these bytes are in storage.
        supersedes: an image at another place that these bytes are a copy of; see `Upload.supersedes`.
    """

    dataset_id: str
    folder: str
    filename: str
    spool_name: str
    size_bytes: int
    mtime_ns: int
    width: int | None = None
    height: int | None = None
    state: State = State.QUEUED
    reason: str | None = None
    replaces_image_id: str | None = None
    supersedes: Image | None = None


@dataclass(frozen=True, slots=True)
class Upload:
    """One row: a file that is not on the service yet. The first fields are those of `NewUpload`.

    Attributes:
        id: never used again for another row.
        errno: the errno that stands for a failure, None unless FAILED.
        attempts: how often it was claimed.
        forced: a person asked for it to be sent although it was held.
        abandoned: its file was removed, renamed or rewritten while in flight: not shown, and archived
            should it land.
        suspect: a registration of it went unanswered for good, so that a name found taken may be taken by
            itself.
        old_archived: the image it replaces is archived, or may be.
        created_ns: when it was first committed, ns since 1970.
        registration_id: the registration it is part of; set only while SENDING.
        image: what it became; set exactly when DONE.
        supersedes: the image, of another name or place, that it is a copy of: hidden as long as this row is
            shown, and archived after it has landed.
    """

    id: int
    dataset_id: str
    folder: str
    filename: str
    spool_name: str
    size_bytes: int
    mtime_ns: int
    width: int | None
    height: int | None
    state: State
    reason: str | None
    created_ns: int
    errno: int | None = None
    attempts: int = 0
    forced: bool = False
    abandoned: bool = False
    suspect: bool = False
    replaces_image_id: str | None = None
    old_archived: bool = False
    registration_id: int | None = None
    image: Image | None = None
    supersedes: Image | None = None

    @property
    def key(self) -> Key:
        """Its place on the service."""
        return self.dataset_id, self.folder, self.filename

    @property
    def path(self) -> str:
        """Its place in the dataset, for people."""
        return server_path(self.folder, self.filename)

    @property
    def in_flight(self) -> bool:
        """Whether the uploader has it: it may be or become an image on the service."""
        return self.state in (State.SENDING, State.DONE)


@dataclass(frozen=True, slots=True)
class Registration:
    """A bulk-register request as it was, or will be, sent. Sent again, it is the very same.

    Attributes:
        key: its idempotency key.
        upload_ids, images: its body, in order; rows that are settled already stay in it.
        created_ns: when it was journaled, ns since 1970.
    """

    id: int
    key: str
    dataset_id: str
    upload_ids: tuple[int, ...]
    images: tuple[NewImage, ...]
    created_ns: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a row is parked: words for people, and the errno for programs that wait."""

    reason: str
    errno: int


@dataclass(frozen=True, slots=True)
class Again:
    """Why a row goes back to the queue, and for how long it rests there.

    Attributes:
        suspect: it may be on the service after all; see `Upload.suspect`.
    """

    reason: str | None = None
    delay_s: float = 0.0
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """A claimed row, and how the service is told of it."""

    upload: Upload
    file: NewImage


class ChangeKind(enum.Enum):
    """What is to become of an image or a folder on the service."""

    ARCHIVE = "archive"  # an image
    RESTORE = "restore"  # an image: back from the archive
    MOVE = "move"  # an image, to another folder of its dataset
    TRANSFER = "transfer"  # an image, to another dataset: copied there; then its source is to be archived
    COPY = "copy"  # an image, into another folder of its dataset
    MKDIR = "mkdir"
    RMDIR = "rmdir"  # an empty folder


@dataclass(frozen=True, slots=True)
class Change:
    """Something to be done on the service. Nothing is uploaded to a place that it mentions before it is done.

    Attributes:
        id: 0 before it is in the journal; later changes have greater ones.
        dataset_id, folder, filename: the image's place, in the service's form; of a folder its own path, and
            no name.
        path: what people call it, for messages.
        image_id: None of a folder.
        target_dataset_id, target_folder: where the image goes, under the same name; set of MOVE, TRANSFER and
            COPY.
        image: what is shown in the target until it is there. Of TRANSFER the image as it was, of COPY the
            copy under a provisional id, None of the others.
        batch_id: the request that it is part of, None before it is sent.
    """

    id: int
    kind: ChangeKind
    dataset_id: str
    folder: str
    filename: str
    path: str
    image_id: str | None = None
    target_dataset_id: str | None = None
    target_folder: str | None = None
    image: Image | None = None
    batch_id: int | None = None

    @property
    def places(self) -> tuple[Key, ...]:
        """The places on the service that it empties or fills; none of a folder."""
        if self.image_id is None:
            return ()
        source = (self.dataset_id, self.folder, self.filename)
        if self.target_dataset_id is None or self.target_folder is None:
            return (source,)
        return source, (self.target_dataset_id, self.target_folder, self.filename)

    @property
    def shown_id(self) -> str | None:
        """The id under which what it makes of an image is shown until the service has answered."""
        return self.image.id if self.kind is ChangeKind.COPY and self.image is not None else self.image_id

    @property
    def source(self) -> Image | None:
        """The image whose bytes are those of `image`."""
        if self.image is None or self.image_id is None:
            return None
        return replace(self.image, id=self.image_id, directory_path=self.folder)

    @property
    def folders(self) -> tuple[tuple[str, str], ...]:
        """The folders, with their datasets, that it needs, makes or removes."""
        if self.target_dataset_id is None or self.target_folder is None:
            return ((self.dataset_id, self.folder),)
        return (self.dataset_id, self.folder), (self.target_dataset_id, self.target_folder)


def archiving(image: Image, path: str | None = None) -> Change:
    """The wish to archive an image; `path` is what people call it."""
    path = path or server_path(image.directory_path, image.filename)
    return Change(
        0, ChangeKind.ARCHIVE, image.dataset_id, image.directory_path, image.filename, path, image.id
    )


def moving(image: Image, dataset_id: str, folder: str, path: str) -> Change:
    """The wish to have an image in another folder, of its dataset or of another; `path` is what people call
    it now."""
    moves = image.dataset_id == dataset_id
    return Change(
        0,
        ChangeKind.MOVE if moves else ChangeKind.TRANSFER,
        image.dataset_id,
        image.directory_path,
        image.filename,
        path,
        image.id,
        target_dataset_id=dataset_id,
        target_folder=folder,
        image=None if moves else image,
    )


def copying(image: Image, size_bytes: int, folder: str, path: str) -> Change:
    """The wish to have a copy of an image in another folder of its dataset; `path` is what people call it.
    Its labels and its status come along, split and tags do not."""
    copy = replace(
        image, id=provisional_id(), directory_path=folder, file_size=size_bytes, split=None, tags=()
    )
    return Change(
        0,
        ChangeKind.COPY,
        image.dataset_id,
        image.directory_path,
        image.filename,
        path,
        image.id,
        target_dataset_id=image.dataset_id,
        target_folder=folder,
        image=copy.without_urls(),
    )


@dataclass(frozen=True, slots=True)
class Batch:
    """One request for changes of one kind, as it was, or will be, sent. Sent again, it is the very same.

    Attributes:
        key: its idempotency key.
        dataset_name, target_dataset_name: the batch routes know datasets by name; "" where no name is sent.
        folder: where images go to; of a folder itself its path.
        change_ids, image_ids: in order; no image ids of a folder.
        created_ns: when it was journaled, ns since 1970.
    """

    id: int
    key: str
    kind: ChangeKind
    dataset_id: str
    dataset_name: str
    target_dataset_id: str | None
    target_dataset_name: str
    folder: str
    change_ids: tuple[int, ...]
    image_ids: tuple[str, ...]
    created_ns: int


class Fate(enum.Enum):
    """How waiting for an upload ended."""

    LANDED = "landed"
    FAILED = "failed"
    HELD = "held"
    FORGOTTEN = "forgotten"  # removed or discarded
    TIMEOUT = "timeout"  # still under way


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `Journal.wait` found. `image` is set when it landed, `reason` when it did not."""

    fate: Fate
    image: Image | None = None
    reason: str | None = None
    errno: int | None = None

    @property
    def landed(self) -> bool:
        """Whether the image is on the service."""
        return self.fate is Fate.LANDED


@dataclass(slots=True)
class Tally:
    """A number of files and of their bytes."""

    files: int = field(default=0)
    bytes: int = field(default=0)


def server_path(folder: str, filename: str) -> str:
    """`/a/b` and `x.jpg` as `/a/b/x.jpg`."""
    return f"{folder.rstrip('/')}/{filename}"
