"""Where the drive is not a local disk, in one table: docs/SEMANTICS.md as rows that a test can ask.

A row names calls, errnos that they are refused with, and when. Whether a file that was closed a moment ago is
an image by now is often not known; then each row is asked for both.
"""

from __future__ import annotations

import enum
import errno
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from pictofs.imagefile import EXTENSIONS
from pictofs.namespace import is_working_name


class Thing(enum.Enum):
    """What is at a path."""

    NOTHING = "nothing"
    FOLDER = "folder"
    LOCAL = "a file that is not uploaded"
    IMAGE = "an uploaded image"


FILES = (Thing.LOCAL, Thing.IMAGE)


@dataclass(frozen=True, slots=True)
class Call:
    """One call and what it meets: `path` is `source`, and for a rename `new` is `target`.

    Attributes:
        is_busy: a file in the folder at `path` is open, or on its way to the service.
    """

    name: str
    path: str
    source: Thing
    new: str = ""
    target: Thing = Thing.NOTHING
    is_busy: bool = False

    @property
    def made(self) -> str:
        """The path that the call would make or write."""
        return self.new if self.name == "rename" else self.path

    @property
    def is_dataset(self) -> bool:
        return self.path.count("/") == 1


@dataclass(frozen=True, slots=True)
class Difference:
    """A call that works on a local disk and is refused here. `always` is False where timing decides."""

    why: str
    errnos: frozenset[int]
    applies: Callable[[Call], bool]
    always: bool = True


def _writes(call: Call) -> bool:
    return call.name in ("write", "truncate")


def _makes_file(call: Call) -> bool:
    if call.name == "rename":
        return call.source in FILES
    return call.name == "write" and call.source is Thing.NOTHING


def _is_image_name(path: str) -> bool:
    name = PurePosixPath(path)
    return is_working_name(name.name) or name.suffix.lower() in EXTENSIONS


def _moves_image(call: Call) -> bool:
    return call.name == "rename" and call.source is Thing.IMAGE and call.path != call.new


def _moves_folder(call: Call) -> bool:
    return call.name == "rename" and call.source is Thing.FOLDER and call.path != call.new


def _dataset(path: str) -> str:
    return path.split("/")[1]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _name(path: str) -> str:
    return path.rpartition("/")[2]


DIFFERENCES = (
    Difference(
        "an uploaded image is never changed in place",
        frozenset({errno.EEXIST}),
        lambda call: _writes(call) and call.source is Thing.IMAGE,
    ),
    Difference(
        "an uploaded image is never replaced",
        frozenset({errno.EEXIST}),
        lambda call: (
            call.name == "rename"
            and call.source in FILES
            and call.target is Thing.IMAGE
            and call.path != call.new
        ),
    ),
    Difference(
        "an image does not replace a file that is not uploaded",
        frozenset({errno.EEXIST, errno.EPERM}),
        lambda call: _moves_image(call) and call.target is Thing.LOCAL,
    ),
    Difference(
        "the service takes only images",
        frozenset({errno.EINVAL}),
        lambda call: _makes_file(call) and not _is_image_name(call.made),
    ),
    Difference(
        "a file needs a dataset",
        frozenset({errno.EPERM, errno.EINVAL}),
        lambda call: _makes_file(call) and call.made.count("/") == 1,
    ),
    Difference(
        "a dataset does not replace another, not even an empty one",
        frozenset({errno.ENOTEMPTY}),
        lambda call: _moves_folder(call) and call.target is Thing.FOLDER and call.new.count("/") == 1,
    ),
    Difference(
        "a dataset is no folder of another, and a folder no dataset",
        frozenset({errno.EPERM}),
        lambda call: _moves_folder(call) and call.is_dataset != (call.new.count("/") == 1),
    ),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The errnos that a call may be refused with although a local disk would not; whether it must be."""

    errnos: frozenset[int]
    certain: bool


def verdict(
    name: str,
    path: str,
    sources: Iterable[Thing],
    new: str = "",
    targets: Iterable[Thing] = (Thing.NOTHING,),
    *,
    is_busy: bool = False,
) -> Verdict:
    """Ask the table for every combination of what may be at the two paths."""
    errnos: frozenset[int] = frozenset()
    certain = True
    for source, target in itertools.product(sources, targets):
        call = Call(name, path, source, new, target, is_busy)
        rows = [row for row in DIFFERENCES if row.applies(call)]
        errnos = errnos.union(*(row.errnos for row in rows))
        certain = certain and any(row.always for row in rows)
    return Verdict(errnos, certain)
