"""Listings on the disk, so that the next mount answers at once, also without a connection.

A help only: what is missing, damaged, or of another version is ignored, and the service is asked instead. The
format is in docs/FORMATS.md; a file is written anew under another name and renamed, so it is whole or absent,
and what a power cut did to it shows in its checksum. What is written here may be older than what this machine
has changed since; `mark` says so before the change is shown, and lasts until the listing is written again.

No threads and no lock: `Keeper` decides what is written when, by one thread at a time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta, timezone
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, TypeVar, cast

from pictofs.api.models import Dataset, Directory, Image

log = logging.getLogger(__name__)

VERSION = 1
IMAGES_PER_LINE = 2000
"""Lines are read and written one by one: other threads wait for a line, not for a whole listing."""

_LISTING = "pictofs-listing"
_DATASETS = "pictofs-datasets"
_DATASETS_NAME = "datasets.json"
_SUFFIX = ".listing"
_MARK = ".changed"
_EPOCH = datetime.fromtimestamp(0, timezone.utc)
_MICROSECOND = timedelta(microseconds=1)

_COLUMNS = (
    "id",
    "filename",
    "directory_path",
    "file_size",
    "width",
    "height",
    "content_type",
    "status",
    "split",
    "tags",
    "annotation_count",
    "min_confidence",
    "created_at",
)
_SHARED_COLUMNS = ("directory_path", "content_type", "status", "split")
"""Few different values: one copy of each serves all images."""

_Row = TypeVar("_Row", Dataset, Directory)


@dataclass(frozen=True, slots=True)
class Saved:
    """A listing as it is on the disk.

    Attributes:
        dataset: the row, with its counters, that the listing was fetched with.
        directories: the rows of its folders from the same moment.
        listed: paths of the folders whose images are known; None: all of them.
        is_exact: False when it holds changes of this machine, so that the counters do not stand for it.
        is_outdated: changes of this machine were made after it was written. Set by `Listings.load` only.
    """

    dataset: Dataset
    directories: Sequence[Directory]
    images: Sequence[Image]
    listed: Sequence[str] | None = None
    is_exact: bool = True
    is_outdated: bool = False


class Listings:
    """A folder of listings, private to the user. A disk that fails is logged, never raised."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_failing = False

    # Datasets

    def datasets(self) -> list[Dataset] | None:
        """The datasets as last saved, or None."""
        found = _read(self._folder / _DATASETS_NAME, _DATASETS)
        if found is None:
            return None
        try:
            (rows,) = found
            return [_thaw(Dataset, row) for row in rows["datasets"]]
        except _MALFORMED as error:
            _ignored(self._folder / _DATASETS_NAME, error)
            return None

    def save_datasets(self, datasets: Iterable[Dataset]) -> None:
        """Keep the datasets, and drop the listings of all others."""
        rows = list(datasets)
        self._write(_DATASETS_NAME, _DATASETS, [{"datasets": [_frozen(row) for row in rows]}])
        wanted = {_name(row.id) for row in rows}
        for path in self._folder.glob(f"*{_SUFFIX}*"):
            if path.name.partition(".")[0] + _SUFFIX not in wanted:
                path.unlink(missing_ok=True)

    def forget_datasets(self) -> None:
        """Something has changed here: ask for the datasets again."""
        self._try(lambda: (self._folder / _DATASETS_NAME).unlink(missing_ok=True))

    # Listings

    def load(self, dataset_id: str) -> Saved | None:
        """What was saved of a dataset, or None."""
        path = self._folder / _name(dataset_id)
        found = _read(path, _LISTING)
        if found is None:
            return None
        try:
            saved = _saved(found)
        except _MALFORMED as error:
            _ignored(path, error)
            return None
        if saved.dataset.id != dataset_id:
            _ignored(path, "it is of another dataset")
            return None
        return replace(saved, is_outdated=self._mark(dataset_id).exists())

    def save(self, saved: Saved) -> bool:
        """Keep a listing; whether that worked. A mark stays, see `unmark`."""
        return self._write(_name(saved.dataset.id), _LISTING, _lines(saved))

    def mark(self, dataset_id: str) -> None:
        """What is saved of a dataset is older than what is about to change."""
        path = self._mark(dataset_id)

        def touch() -> None:
            self._make_folder()
            path.touch(mode=0o600)

        self._try(touch)

    def unmark(self, dataset_id: str) -> None:
        """What is saved holds all changes."""
        self._try(lambda: self._mark(dataset_id).unlink(missing_ok=True))

    def _mark(self, dataset_id: str) -> Path:
        return self._folder / (_name(dataset_id) + _MARK)

    # The disk

    def _write(self, name: str, kind: str, lines: Iterable[object]) -> bool:
        def write() -> None:
            self._make_folder()
            fresh = self._folder / f"{name}.new"
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            checksum = 0
            with open(descriptor, "wb") as file:  # noqa: PTH123  (Path.open takes no descriptor)
                for line in chain([{"format": kind, "version": VERSION}], lines):
                    data = json.dumps(line, separators=(",", ":")).encode() + b"\n"
                    checksum = zlib.crc32(data, checksum)
                    file.write(data)
                file.write(json.dumps({"crc32": checksum}).encode() + b"\n")
            fresh.replace(self._folder / name)

        return self._try(write)

    def _make_folder(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _try(self, work: Callable[[], None]) -> bool:
        """Do something that the drive can do without; whether it worked. Said once when it does not."""
        try:
            work()
        except OSError as error:
            if not self._is_failing:
                log.warning(
                    "Listings cannot be kept in %s (%s): the next mount asks for them again.",
                    self._folder,
                    error.strerror or error,
                )
            self._is_failing = True
        else:
            self._is_failing = False
        return not self._is_failing


# --- the format ------------------------------------------------------------------------------

_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def _name(dataset_id: str) -> str:
    """A file's name. Ids are data of the service: they may hold anything, so they are hashed."""
    return hashlib.sha256(dataset_id.encode("utf-8", "surrogatepass")).hexdigest()[:32] + _SUFFIX


def _read(path: Path, kind: str) -> list[Any] | None:
    """The lines between the first and the last of a file that is whole and of this version, else None."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _ignored(path, error)
        return None
    try:
        body, _, last = data.removesuffix(b"\n").rpartition(b"\n")
        body += b"\n"
        if json.loads(last) != {"crc32": zlib.crc32(body)}:
            _ignored(path, "its checksum is wrong")
            return None
        lines = body.splitlines()
        head = json.loads(lines[0])
        if head != {"format": kind, "version": VERSION}:
            _ignored(path, f"it is {head}")
            return None
        return [json.loads(line) for line in lines[1:]]
    except _MALFORMED as error:
        _ignored(path, error)
        return None


def _ignored(path: Path, why: object) -> None:
    log.info("%s is ignored, the service is asked instead: %s", path, why)


def _frozen(row: Dataset | Directory) -> dict[str, object]:
    """A row as JSON."""
    return {field.name: _plain(getattr(row, field.name)) for field in fields(row)}


def _plain(value: object) -> object:
    """A value as JSON has it: times in microseconds since 1970."""
    return (value - _EPOCH) // _MICROSECOND if isinstance(value, datetime) else value


def _thaw(kind: type[_Row], data: dict[str, Any]) -> _Row:
    """A row from JSON."""
    for name in ("created_at", "updated_at"):
        data[name] = _time(data[name])
    return kind(**data)


def _time(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else _EPOCH + timedelta(microseconds=microseconds)


def _lines(saved: Saved) -> Iterator[object]:
    yield {
        "dataset": _frozen(saved.dataset),
        "directories": [_frozen(row) for row in saved.directories],
        "listed": None if saved.listed is None else list(saved.listed),
        "is_exact": saved.is_exact,
    }
    rows = iter(saved.images)
    while part := list(islice(rows, IMAGES_PER_LINE)):
        yield {"count": len(part), **{name: _column(name, part) for name in _COLUMNS}}


def _column(name: str, images: list[Image]) -> object:
    """One attribute of some images: a list, or what all of them have as the only value of an object."""
    values = [_plain(getattr(image, name)) for image in images]
    return {"all": values[0]} if all(value == values[0] for value in values) else values


def _saved(lines: list[Any]) -> Saved:
    head, *parts = lines
    dataset = _thaw(Dataset, head["dataset"])
    images: list[Image] = []
    shared: dict[str | None, str | None] = {}
    for part in parts:
        given = {name: _values(part[name], part["count"]) for name in _COLUMNS}
        for name in _SHARED_COLUMNS:
            given[name] = [shared.setdefault(value, value) for value in given[name]]
        given["tags"] = map(tuple, given["tags"])
        given["created_at"] = map(_time, given["created_at"])
        given["dataset_id"] = repeat(dataset.id)
        columns = (given.get(field.name) or repeat(field.default) for field in fields(Image))
        images.extend(map(Image, *columns))
    return Saved(
        dataset,
        [_thaw(Directory, row) for row in head["directories"]],
        images,
        head["listed"],
        head["is_exact"],
    )


def _values(column: Any, count: int) -> Iterable[Any]:
    if isinstance(column, dict):
        return repeat(column["all"], count)
    if len(column) != count:
        raise ValueError("a column has another length")
    return cast("list[Any]", column)
