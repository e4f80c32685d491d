"""Finding FUSE: a Python binding, together with a libfuse that it can speak to. Their only importer.

Owns the choice, what to say when there is none, and how a binding is made to run our callbacks: of a binding
we use the structures, the options and the main loop. What the callbacks do is in `fs/fuse`.
"""

from __future__ import annotations

import ctypes
import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

__all__ = ["Binding", "FuseUnavailableError", "Library", "load", "run", "view_of_buffer"]

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


# --- what a binding runs ----------------------------------------------------------------------

Call = Callable[[str, tuple[Any, ...]], int]
"""Serves a callback, by its name in libfuse's struct, with its arguments: 0, a count, or an errno negated."""

_gil_ensure = ctypes.PYFUNCTYPE(ctypes.c_int)(("PyGILState_Ensure", ctypes.pythonapi))
_view_of_memory = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)(
    ("PyMemoryView_FromMemory", ctypes.pythonapi)
)
_PYBUF_READ, _PYBUF_WRITE = 0x100, 0x200  # from CPython's headers
_this_thread = threading.local()


def run(library: Library, operations: object, call: Call, mountpoint: str, arguments: dict[str, Any]) -> None:
    """Mount, and serve until libfuse's loop ends.

    Args:
        operations: which callbacks there are: its methods. They are not called, `call` is.
        arguments: of the binding's `FUSE`; what it does not know goes to libfuse as `-o`.

    Raises:
        RuntimeError: libfuse's status, if it is not 0.
    """
    _drive_class(library)(operations, call, _MountPoint(mountpoint), **arguments)


def view_of_buffer(address: int, size: int, *, writable: bool = False) -> memoryview:
    """A buffer of libfuse's, of `size` bytes: valid during the callback that was given it."""
    view: memoryview = _view_of_memory(address, size, _PYBUF_WRITE if writable else _PYBUF_READ)
    return view


class _MountPoint(str):
    """A path that becomes the bytes it was decoded from; fusepy would fail on those that are no UTF-8."""

    def encode(self, encoding: str = "utf-8", errors: str = "surrogateescape") -> bytes:  # noqa: ARG002
        return os.fsencode(str(self))


def _drive_class(library: Library) -> Any:
    class Drive(library.module.FUSE):  # type: ignore[misc, name-defined]
        def __init__(self, operations: object, call: Call, mountpoint: str, **arguments: Any) -> None:
            self._call = call
            # Bindings call their method `rename`, `rename_fuse_2` or `rename_fuse_3`.
            self._names = {
                alias: name
                for name, *_ in library.module.fuse_operations._fields_
                for alias in (name, f"{name}_fuse_2", f"{name}_fuse_3")
            }
            super().__init__(operations, mountpoint, **arguments)

        def copy_file_range(self) -> None:
            """Only named by mfusepy, which has the callback in its struct and no method for it."""

        def _wrapper(self, func: Any, *args: Any) -> int:
            """Every callback of both bindings passes here."""
            if not hasattr(_this_thread, "pinned"):
                # Otherwise one of libfuse's threads loses its Python state after each call: what is in
                # threading.local, and two thirds of the speed with parallel clients.
                _this_thread.pinned = True
                _gil_ensure()
            return self._call(self._names[func.__name__], args)

    return Drive
