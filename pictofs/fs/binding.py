"""Finding FUSE: a Python binding, together with a libfuse that it can speak to. Their only importer.

Owns the choice and what to say when there is none; what is done with a binding is in `fs/fuse`.
"""

from __future__ import annotations

import ctypes
import logging
import os
from pathlib import Path
from typing import Any, Literal, NamedTuple

__all__ = ["Binding", "FuseUnavailableError", "Library", "load"]

logger = logging.getLogger(__name__)

Binding = Literal["auto", "mfusepy", "fusepy"]

_NO_LIBRARY = (
    "FUSE is not installed: install it with `apt install fuse3` (or what your distribution calls it)"
)
_NO_DEVICE = (
    "/dev/fuse is missing: load the kernel's module with `modprobe fuse`, "
    "or start the container with `--device /dev/fuse`"
)


class FuseUnavailableError(Exception):
    """No FUSE on this machine; the message is a sentence that says what to install."""


class Library(NamedTuple):
    """A binding and its libfuse."""

    module: Any  # fuse (fusepy) or mfusepy
    version: tuple[int, int]  # of libfuse


def load(binding: Binding) -> Library:
    """Import a binding together with a libfuse that it can speak to.

    A binding takes its library while it is imported, so the choice is made here: mfusepy where libfuse 3
    loads, else fusepy on libfuse 2. FUSE_LIBRARY_PATH, which both bindings know, overrides the library.
    """
    if not Path("/dev/fuse").exists():
        raise FuseUnavailableError(_NO_DEVICE)
    forced = os.environ.get("FUSE_LIBRARY_PATH")
    found = [forced] if forced else ["libfuse3.so.4", "libfuse3.so.3", "libfuse.so.2"]
    available = [(name, version) for name in found if (version := _libfuse_version(name)) is not None]
    candidates: list[tuple[str, str, tuple[int, int]]] = []
    for name, version in available:
        speakers = ["mfusepy"] if version[0] == 3 else ["fusepy", "mfusepy"]  # fusepy would crash on 3
        candidates += [(speaker, name, version) for speaker in speakers if binding in ("auto", speaker)]
    for speaker, name, version in candidates:
        os.environ["FUSE_LIBRARY_PATH"] = name
        try:
            module = _imported(speaker)
        except (ImportError, OSError, AttributeError) as exc:
            logger.debug("%s does not load with %s: %s", speaker, name, exc)
            continue
        finally:
            if forced is None:
                del os.environ["FUSE_LIBRARY_PATH"]
        logger.debug("FUSE: %s on %s %d.%d", speaker, name, *version)
        return Library(module, version)
    if available:
        raise FuseUnavailableError(f"the Python package {binding} does not work with {available[0][0]}")
    raise FuseUnavailableError(_NO_LIBRARY)


def _imported(speaker: str) -> Any:
    if speaker == "mfusepy":
        import mfusepy

        return mfusepy
    import fuse

    return fuse


def _libfuse_version(name: str) -> tuple[int, int] | None:
    try:
        number = int(ctypes.CDLL(name).fuse_version())
    except (OSError, AttributeError):
        return None
    major, minor = divmod(number, 10 if number < 100 else 100)
    return (major, minor) if major in (2, 3) else None
