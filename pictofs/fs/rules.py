"""What is refused, what is held, and how the drive was asked to behave. docs/SEMANTICS.md has the table.

A refusal carries its reason, since an errno alone says little; `fs/complaints` logs it.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pictofs import imagefile, namespace
from pictofs.api.models import Dataset
from pictofs.transfer.journal import Journal, State, Upload


@dataclass(frozen=True, slots=True)
class Policy:
    """How the drive was asked to behave. Waits are seconds."""

    read_only: bool = False
    sync: bool = False
    overwrite: bool = False
    upload_wait_s: float = 300.0

    def check_change(self, path: str, dataset: Dataset | None = None) -> None:
        """Raises OSError(EROFS) on a read-only mount, and in a dataset that is in cold storage."""
        if self.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), path)
        if dataset is not None and dataset.is_frozen:
            raise refusal(errno.EROFS, path, f"dataset {dataset.name} is in cold storage; restore it first")


def refusal(number: int, path: str, why: str) -> OSError:
    """An error to raise whose reason does not fit an errno: `fs/complaints` says it in the log, once."""
    return OSError(number, why, path)


def check_name(path: str, filename: str) -> None:
    """Raises OSError(EINVAL) for a final name that the service would not take (415 in the wire contract)."""
    if namespace.is_working_name(filename):
        return
    if PurePosixPath(filename).suffix.lower() not in imagefile.EXTENSIONS:
        known = " ".join(sorted(imagefile.EXTENSIONS))
        raise refusal(errno.EINVAL, path, f"the service takes only images: {known}")


def server_name(path: str, name: str) -> str:
    """The service's form of a new name.

    Raises:
        OSError: ENAMETOOLONG past 255 bytes, EINVAL when it is not UTF-8.
    """
    if not namespace.fits(name):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), path)
    try:
        return namespace.to_server(name)
    except ValueError as error:
        raise refusal(errno.EINVAL, path, str(error)) from None


def judge(path: Path, filename: str, size_bytes: int) -> tuple[State, str | None, int | None, int | None]:
    """Whether a file goes up or is held, why, and its oriented width and height in pixels."""
    if namespace.is_working_name(filename):
        return State.HELD, "a working name: uploaded once it is renamed to an image name", None, None
    if size_bytes == 0:
        return State.HELD, "the file is empty", None, None
    seen = imagefile.inspect(path, filename)
    if seen.problem is not None:
        return State.HELD, seen.problem, None, None
    return State.QUEUED, None, seen.width, seen.height


def may_stay_here(upload: Upload) -> bool:
    """Whether a held file is in order as it is: a working name, or a file that was only touched."""
    return upload.state is State.HELD and (
        upload.size_bytes == 0 or namespace.is_working_name(upload.filename)
    )


def await_upload(journal: Journal, path: str, upload: Upload, timeout_s: float) -> None:
    """Wait until an upload is registered.

    Raises:
        OSError: EINVAL when it is held, the refusal's errno when it failed, EIO when time is up.
    """
    if may_stay_here(upload):
        return
    if upload.state is State.HELD:
        raise refusal(errno.EINVAL, path, upload.reason or "it is held")
    outcome = journal.wait(upload.id, timeout_s)
    if not outcome.landed:
        raise refusal(
            outcome.errno or errno.EIO, path, outcome.reason or "the upload goes on, but not within the wait"
        )
