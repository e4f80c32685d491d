"""Names: what a name of the service looks like on the drive and back, and which names stay local.

Pure functions over strings. The service's names are data: they may hold slashes, NUL, lone surrogates or
300 characters. The drive's names are what a Linux file system can hold: at most 255 bytes of UTF-8 without
slash or NUL, and not `.` or `..`. Names that still collide are told apart by `with_id`.
"""

from __future__ import annotations

import re
from collections.abc import Collection

NAME_MAX_BYTES = 255
"""The longest file name Linux file systems and tools accept (NAME_MAX)."""

_ID_DIGITS = 8
"""How much of an id tells colliding names apart: enough within one folder, short enough to read."""

_TO_LOCAL = {"/": "\uff0f", "\0": "\u2400"}
_TO_SERVER = {local: server for server, local in _TO_LOCAL.items()}
_DOTS_TO_LOCAL = {".": "\uff0e", "..": "\uff0e\uff0e"}
_DOTS_TO_SERVER = {local: server for server, local in _DOTS_TO_LOCAL.items()}
_NAMELESS = "\u2423"  # an open box stands for the empty name
_SURROGATE = re.compile("[\ud800-\udfff]")

_WORKING = re.compile(
    r"""
      \.fuse_hidden.*            # libfuse: removed while open
    | \.goutputstream-.*         # GIO
    | \..+\.[A-Za-z0-9]{6}       # rsync: .name.XXXXXX
    | .+\.(part|partial|filepart|crdownload|tmp|swp|swx)   # browsers, Dolphin, wget, editors
    | .+~                        # editors' backups
    | .+_exiftool_tmp            # exiftool
    """,
    re.VERBOSE | re.IGNORECASE | re.DOTALL,
)


def to_local(name: str) -> str:
    """The drive's form of a name of the service. May exceed 255 bytes; see `fits`."""
    if not name:
        return _NAMELESS
    if name in _DOTS_TO_LOCAL:
        return _DOTS_TO_LOCAL[name]
    for server, local in _TO_LOCAL.items():
        name = name.replace(server, local)
    return _SURROGATE.sub("\ufffd", name)


def to_server(name: str) -> str:
    """The service's form of a name that a program used on the drive.

    Raises:
        ValueError: the name's bytes are not UTF-8 (they arrive as lone surrogates), so no JSON can
            carry it.
    """
    if _SURROGATE.search(name):
        raise ValueError("the name is not valid UTF-8")
    if name in _DOTS_TO_SERVER:
        return _DOTS_TO_SERVER[name]
    for local, server in _TO_SERVER.items():
        name = name.replace(local, server)
    return name


def fits(name: str) -> bool:
    """Whether a local name is within the 255 bytes a file name may have."""
    return len(name) * 4 <= NAME_MAX_BYTES or len(name.encode("utf-8", "surrogateescape")) <= NAME_MAX_BYTES


def are_local(names: Collection[str]) -> bool:
    """Whether all of these names of the service are the same on the drive, and fit. Quick for many."""
    text = "".join(names)
    return (
        not any(special in text for special in _TO_LOCAL)
        and not any(special in names for special in ("", *_DOTS_TO_LOCAL))
        and _SURROGATE.search(text) is None
        and (len(max(names, key=len, default="")) * 4 <= NAME_MAX_BYTES or all(map(fits, names)))
    )


def with_id(name: str, identity: str, *, whole: bool = False) -> str:
    """`name` with ` (<first 8 of the id>)` before its extension, shortened to fit 255 bytes.

    `whole` uses all of the id, for the day two ids begin alike.
    """
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension) > 16:
        stem, dot, extension = name, "", ""
    mark = f" ({identity if whole else identity[:_ID_DIGITS]})"
    mark = _SURROGATE.sub("\ufffd", mark.replace("/", _TO_LOCAL["/"]).replace("\0", _TO_LOCAL["\0"]))
    tail = f"{mark}{dot}{extension}".encode()
    head = stem.encode()[: max(0, NAME_MAX_BYTES - len(tail))].decode("utf-8", "ignore")
    return head + tail.decode()


def is_working_name(name: str) -> bool:
    """Whether programs use such a name for a file that is not finished yet (rsync, browsers, editors)."""
    return _WORKING.fullmatch(name) is not None


def components(directory_path: str | None) -> list[str]:
    """The folder names of a path of the service: `/a/b` → `["a", "b"]`; the root gives `[]`."""
    return [part for part in (directory_path or "").split("/") if part]


def join(parts: list[str]) -> str:
    """The path of the service for these folder names: `["a", "b"]` → `/a/b`; `[]` → `/`."""
    return "/" + "/".join(parts)


def parent(directory_path: str) -> str:
    """The path of the folder that holds this one; the root's is the root."""
    return join(components(directory_path)[:-1])


def is_within(path: str, folder: str) -> bool:
    """Whether a path of the service is this folder or below it."""
    return folder == "/" or path == folder or path.startswith(folder + "/")


def split_local(path: str) -> list[str]:
    """The names in an absolute path on the drive, counted from the mount's root."""
    return [part for part in path.split("/") if part]
