"""Talking to a running mount: one line of JSON each way over a Unix socket, and the records that say which
mounts of this user are running.

    → {"version": 1, "command": "status", "arguments": {}}
    ← {"version": 1, "ok": true, "result": …}
    ← {"version": 1, "ok": false, "error": "a sentence", "kind": "error"}

`kind` is "error", or "busy" when the mount point is in use. A connection may carry several requests, one
after the other. Nothing is streamed: who waits, polls.

In the runtime folder (0700) a mount owns `<digest>.sock` (0600) and `<digest>.json`, its `MountRecord`; the
digest is of the mount point's real path. The socket is what proves life: a record whose socket refuses is
the trace of a dead daemon, and is replaced by the next mount there.

Threads: one accepts, and each connection has its own. `_lock` guards `_connections`; handlers run without it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import json
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictofs.api.errors import PictographError
from pictofs.mount import mountinfo, problems

log = logging.getLogger(__name__)

VERSION = 1
MAX_REQUEST_BYTES = 1 << 20
"""A retry of 10,000 ids takes 80 KB; more than a MiB is no request of ours."""

MAX_ANSWER_BYTES = 32 << 20
"""A list of 50,000 uploads takes about 15 MB."""

MAX_CONNECTIONS = 16
"""Each costs a thread; a person has one or two."""

IDLE_TIMEOUT_S = 30.0
"""How long a connection may stay silent, or not take its answer, before it is closed."""

_SUN_PATH_BYTES = 107
"""What fits into sockaddr_un.sun_path beside its NUL; longer paths go through /proc/self/fd."""

Handler = Callable[[Mapping[str, Any]], object]


class ControlError(Exception):
    """The mount answered with an error, or not in a way we understand. The message is a sentence."""


class NotMountedError(ControlError):
    """No daemon listens there."""


class BusyError(ControlError):
    """The mount point is in use by a program. A handler raises it, and `call` raises it again."""


# --- which mounts are running ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MountRecord:
    """What a mount leaves in the runtime folder so that others find it.

    Attributes:
        mountpoint: its real path.
        pid: of the daemon.
        account: for people: organization and host.
        account_dir: the account's state folder (journal, spool).
        started_s: Unix time.
    """

    mountpoint: str
    pid: int
    account: str
    account_dir: str
    started_s: float
    version: int = VERSION


def socket_path(runtime_dir: Path, mountpoint: str | os.PathLike[str]) -> Path:
    """The control socket of the mount at `mountpoint`, whether or not one is there."""
    return runtime_dir / f"{_digest(mountpoint)}.sock"


def record_path(runtime_dir: Path, mountpoint: str | os.PathLike[str]) -> Path:
    return socket_path(runtime_dir, mountpoint).with_suffix(".json")


def write_record(runtime_dir: Path, record: MountRecord) -> Path:
    """Leave the record of a mount, replacing what a dead one left. Remove the file when it ends.

    Raises:
        OSError: the runtime folder cannot be made or written.
    """
    make_private(runtime_dir)
    path = record_path(runtime_dir, record.mountpoint)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(dataclasses.asdict(record)) + "\n", encoding="utf-8")
    fresh.chmod(0o600)
    fresh.replace(path)
    return path


def read_records(runtime_dir: Path) -> list[MountRecord]:
    """The records of this user's mounts, running or died, by mount point. Unreadable ones are left out."""
    found = []
    for path in runtime_dir.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            data = json.loads(path.read_text(encoding="utf-8"))
            names = {field.name for field in dataclasses.fields(MountRecord)}
            found.append(MountRecord(**{name: value for name, value in data.items() if name in names}))
    return sorted(found, key=lambda record: record.mountpoint)


def is_alive(runtime_dir: Path, record: MountRecord) -> bool:
    """Whether a daemon listens on the record's socket."""
    try:
        with _connected(socket_path(runtime_dir, record.mountpoint), timeout_s=5.0):
            return True
    except (OSError, NotMountedError):
        return False


def make_private(folder: Path) -> None:
    """Make a folder that is this user's alone (0700).

    Raises:
        OSError: it cannot be made, or what is there is no folder, somebody else's, or open to others (EPERM).
            It is not tightened: it may have been named by mistake (`--runtime-dir /tmp`).
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    about = folder.lstat()
    if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "this must be a folder of yours", str(folder))
    if stat.S_IMODE(about.st_mode) & 0o077:
        raise PermissionError(errno.EPERM, "others can enter this folder; chmod 700 it", str(folder))


def _digest(mountpoint: str | os.PathLike[str]) -> str:
    return hashlib.sha256(os.fsencode(mountinfo.real_path(mountpoint))).hexdigest()[:16]


# --- addresses ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """What to bind or connect to, so that a path of any length works."""
    if len(os.fsencode(path)) <= _SUN_PATH_BYTES:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


@contextlib.contextmanager
def _connected(path: Path, timeout_s: float) -> Iterator[socket.socket]:
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        connection.settimeout(timeout_s)
        try:
            with _address(path) as address:
                connection.connect(address)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NotMountedError(f"nothing answers at {path}") from None
        yield connection


# --- the server -----------------------------------------------------------------------------------


class ControlServer:
    """Answers requests with `handlers`, from construction until `close`.

    A handler gets the request's arguments and returns something JSON can carry. Whatever it raises becomes
    an error answer with the exception's text.

    Raises:
        ControlError: another daemon answers on that socket.
        OSError: the socket cannot be made.
    """

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._closing = threading.Event()
        make_private(path.parent)
        self._listener = _listen(path)
        self._identity = _identity(path)
        self._accepting = threading.Thread(target=self._accept, name="control", daemon=True)
        self._accepting.start()

    def __enter__(self) -> ControlServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self, timeout_s: float = 5.0) -> None:
        """Stop accepting, let running handlers finish (within `timeout_s`), remove the socket. Harmless
        when repeated, and callable from a handler."""
        if self._closing.is_set():
            return
        self._closing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(); close() alone does not
        self._listener.close()
        if _identity(self._path) == self._identity:
            self._path.unlink(missing_ok=True)
        with self._lock:
            running = dict(self._connections)
        for connection in running:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)  # no further requests; the answer still goes out
        deadline = time.monotonic() + timeout_s
        for thread in (self._accepting, *running.values()):
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._closing.wait(0.1):  # out of descriptors: try again rather than fall silent
                    return
                continue
            thread = threading.Thread(
                target=self._serve, args=(connection,), name="control-connection", daemon=True
            )
            with self._lock:
                full = len(self._connections) >= MAX_CONNECTIONS
                if not full:
                    self._connections[connection] = thread
            if full:
                connection.close()
            else:
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(IDLE_TIMEOUT_S)
            with connection.makefile("rb") as lines:
                while line := lines.readline(MAX_REQUEST_BYTES + 1):
                    connection.sendall(_encoded(self._answer(line)))
                    if not line.endswith(b"\n"):
                        return  # too long, or cut off: where the next request begins is unknown
        except OSError:
            pass  # the client went away or fell silent
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            connection.close()

    def _answer(self, line: bytes) -> dict[str, object]:
        if len(line) > MAX_REQUEST_BYTES:
            return _refusal(f"the request is longer than {MAX_REQUEST_BYTES} bytes")
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            return _refusal("the request is not JSON")
        if not isinstance(request, dict) or request.get("version") != VERSION:
            return _refusal(
                f"this mount speaks version {VERSION} of the protocol; remount with the installed pictofs"
            )
        arguments = request.get("arguments", {})
        handler = self._handlers.get(str(request.get("command")))
        if handler is None or not isinstance(arguments, dict):
            return _refusal(f"this mount does not know the command {request.get('command')!r}")
        try:
            return {"version": VERSION, "ok": True, "result": handler(arguments)}
        except BusyError as error:
            return _refusal(str(error), kind="busy")
        except Exception as error:  # whatever it is, the one who asked must hear of it
            log.info("control command %s failed", request.get("command"), exc_info=True)
            return _refusal(_words(error))


def _listen(path: Path) -> socket.socket:
    """A listening socket at `path`, private to the user, in place of a dead daemon's."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Bound aside, made private, then moved into place: nobody meets it half made.
    aside = path.with_suffix(f".{os.getpid()}")
    try:
        if path.exists() or path.is_symlink():
            with contextlib.suppress(NotMountedError), _connected(path, timeout_s=5.0):
                raise ControlError(f"a mount already answers at {path}")
        aside.unlink(missing_ok=True)
        with _address(aside) as address:
            listener.bind(address)
        aside.chmod(0o600)
        listener.listen(MAX_CONNECTIONS)
        aside.replace(path)
    except BaseException:
        listener.close()
        aside.unlink(missing_ok=True)
        raise
    return listener


def _identity(path: Path) -> tuple[int, int] | None:
    """Tells our socket file from one that a later daemon put in its place."""
    try:
        about = path.lstat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _refusal(sentence: str, *, kind: str = "error") -> dict[str, object]:
    return {"version": VERSION, "ok": False, "error": sentence, "kind": kind}


def _words(error: Exception) -> str:
    if isinstance(error, PictographError):
        return problems.sentence(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        return where + error.strerror
    return str(error) or type(error).__name__


def _encoded(answer: Mapping[str, object]) -> bytes:
    try:
        line = json.dumps(answer).encode() + b"\n"
    except (TypeError, ValueError):
        log.exception("an answer is not JSON")
        line = json.dumps(_refusal("the mount's answer cannot be sent; its log says why")).encode() + b"\n"
    if len(line) > MAX_ANSWER_BYTES:
        line = json.dumps(_refusal("the answer is too long; ask for less")).encode() + b"\n"
    return line


# --- the client -----------------------------------------------------------------------------------


def call(
    path: Path, command: str, arguments: Mapping[str, object] | None = None, timeout_s: float = 30.0
) -> Any:
    """Send one request to the socket at `path` and return the result.

    Raises:
        NotMountedError: no daemon listens there, or it ended before it answered.
        BusyError: the mount point is in use.
        ControlError: the mount refused, in its own words, or did not answer within `timeout_s`.
    """
    request = {"version": VERSION, "command": command, "arguments": dict(arguments or {})}
    try:
        with _connected(path, timeout_s) as connection:
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as lines:
                line = lines.readline(MAX_ANSWER_BYTES + 1)
    except TimeoutError:
        raise ControlError(f"the mount did not answer within {timeout_s:g} seconds") from None
    except (ConnectionResetError, BrokenPipeError):
        line = b""
    except OSError as error:
        raise ControlError(f"cannot talk to the mount at {path}: {error.strerror or error}") from None
    if not line:
        raise NotMountedError("the mount ended before it answered")
    try:
        answer = json.loads(line)
        if answer["ok"]:
            return answer["result"]
        sentence, kind = str(answer["error"]), answer.get("kind")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ControlError(f"the mount at {path} answered something that is not ours") from None
    raise BusyError(sentence) if kind == "busy" else ControlError(sentence)
