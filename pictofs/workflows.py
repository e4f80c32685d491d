"""Whole jobs on top of the client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pictofs import imagefile
from pictofs.api.client import Client
from pictofs.api.errors import ConflictError, NotFoundError, PictographError
from pictofs.api.models import Image
from pictofs.api.uploads import LocalFile, Outcome, describe, place_of, upload_files

Progress = Callable[[int, int, str], None]
"""Called with (files done, files in all, the file's name) after each file, whatever became of it."""


@dataclass(frozen=True, slots=True)
class FailedFile:
    """A file that was not uploaded, and why in words."""

    path: Path
    reason: str


@dataclass(slots=True)
class UploadReport:
    """What became of a folder.

    Attributes:
        images_attempted: files with an image's extension that were found.
        images_uploaded: those that are new on the service.
        images_skipped: those whose name was there already.
        failures: the others, and subfolders that could not be read.
    """

    dataset_name: str
    images_attempted: int = 0
    images_uploaded: int = 0
    images_skipped: int = 0
    failures: list[FailedFile] = field(default_factory=list)

    @property
    def success(self) -> bool:
        """Whether there was something to do and all of it is on the service now, new or from before."""
        return self.images_attempted > 0 and not self.failures


def upload_dataset_from_folder(
    client: Client,
    name: str,
    folder: str | os.PathLike[str],
    *,
    organize_by_class: bool = True,
    parallel: bool = True,
    max_workers: int = 8,
    progress: Progress | None = None,
    skip_existing: bool = True,
    create_if_missing: bool = True,
) -> UploadReport:
    """Upload every image below `folder` into the dataset `name`, in order of their paths.

    With `organize_by_class` the first subfolder becomes the image's folder (`cars/red/x.jpg` lands in
    `/cars`), without it all land in the root: as the official SDK maps them. A link to a file counts as a
    file, one to a folder is not followed. A name that exists in its folder, or that an earlier file of this
    run has taken, is skipped, or with `skip_existing` False a failure; its bytes are not sent. One failing
    file stops no other.

    Raises:
        FileNotFoundError: `folder` is no folder.
        NotFoundError: no such dataset, and `create_if_missing` is False.
        PictographError: the dataset cannot be read or created.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"not a folder: {root}")
    try:
        dataset, existing = client.datasets.contents(name)
    except NotFoundError:
        if not create_if_missing:
            raise
        dataset, existing = client.datasets.create(name), []
    report = UploadReport(name)
    paths = sorted(_image_paths(root, report.failures))
    report.images_attempted = len(paths)
    run = _Run(report, progress, skip_existing)

    files: list[LocalFile] = []
    for path in paths:
        try:
            files.append(describe(path, virtual_directory_for(path.relative_to(root), organize_by_class)))
        except (PictographError, OSError) as error:
            run.note(path, error)
    upload_files(
        client.images,
        dataset.id,
        files,
        taken={place_of(image) for image in existing},
        max_workers=max_workers if parallel else 1,
        on_done=lambda file, outcome: run.note(file.path, outcome),
    )
    return report


def virtual_directory_for(relative: Path, organize_by_class: bool) -> str:
    """The folder (`/`, `/cars`) for a file at `relative` below the uploaded one."""
    return f"/{relative.parts[0]}" if organize_by_class and len(relative.parts) > 1 else "/"


class _Run:
    """Counts outcomes into the report and tells the caller of each."""

    def __init__(self, report: UploadReport, progress: Progress | None, skip_existing: bool) -> None:
        self._report = report
        self._progress = progress
        self._skip_existing = skip_existing
        self._done = 0

    def note(self, path: Path, outcome: Outcome) -> None:
        if isinstance(outcome, Image):
            self._report.images_uploaded += 1
        elif isinstance(outcome, ConflictError) and self._skip_existing:
            self._report.images_skipped += 1
        else:
            self._report.failures.append(FailedFile(path, str(outcome)))
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._report.images_attempted, path.name)


def _image_paths(root: Path, failures: list[FailedFile]) -> Iterator[Path]:
    """Files with an image's extension; a folder that cannot be read goes into `failures`."""

    def unreadable(error: OSError) -> None:
        failures.append(FailedFile(Path(error.filename), error.strerror or str(error)))

    for folder, _, names in os.walk(root, onerror=unreadable):
        for name in names:
            path = Path(folder, name)
            if path.suffix.lower() in imagefile.EXTENSIONS and path.is_file():
                yield path
