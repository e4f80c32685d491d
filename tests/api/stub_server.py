"""A scripted HTTP server for tests of the client: what it is asked is recorded, what it answers is given.

with StubServer() as stub:
    stub.answers += [Answer(503), Answer(json={"data": []})]     # in order, then `stub.default`
    ...
    assert stub.seen[0].path == "/api/v1/developer/datasets/"
"""

from __future__ import annotations

import contextlib
import json as json_module
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

KEY = "pk_live_Zq8vTnE3sRk1xWmYp7cJ"
# A request that is stalled on purpose and never released must not hang the run.
_STALL_LIMIT_S = 20.0


@dataclass(frozen=True)
class Seen:
    """One request. `path` and `query` as sent, still percent-encoded; `port` is the client's."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes
    port: int

    @property
    def parameters(self) -> dict[str, str]:
        return dict(parse_qsl(self.query, keep_blank_values=True))

    @property
    def json(self) -> Any:
        return json_module.loads(self.body) if self.body else None


@dataclass
class Answer:
    """What to answer. Bytes win over `json`.

    `cut_after`: send that many bytes of the body, then close (`reset`: with a RST). `announce`: another
    Content-Length than the true one; -1 for none at all. `hold`: wait for this event after `cut_after` bytes,
    or before the status line when `cut_after` is None.
    """

    status: int = 200
    json: Any = None
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    reset: bool = False
    announce: int | None = None
    hold: threading.Event | None = None

    def content(self) -> bytes:
        if self.body is not None:
            return self.body
        return b"" if self.json is None else json_module.dumps(self.json).encode()


class StubServer:
    """Listens on a free port of 127.0.0.1."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.answers: list[Answer] = []
        self.default: Callable[[Seen], Answer] = lambda _seen: Answer(404, json={"detail": "no such route"})
        self.asked = threading.Event()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def respond(self, seen: Seen) -> Answer:
        with self._lock:
            self.seen.append(seen)
            answer = self.answers.pop(0) if self.answers else None
        self.asked.set()
        return answer or self.default(seen)

    @property
    def paths(self) -> list[str]:
        return [f"{seen.method} {seen.path}" for seen in self.seen]

    def __enter__(self) -> StubServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(stub: StubServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1
        disable_nagle_algorithm = True

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            seen = Seen(
                self.command, parts.path, parts.query, dict(self.headers), body, self.client_address[1]
            )
            answer = stub.respond(seen)
            if answer.hold and answer.cut_after is None:
                answer.hold.wait(_STALL_LIMIT_S)
            content = answer.content()
            if answer.reset and answer.cut_after is None:
                self._break(reset=True)
                return
            self.send_response(answer.status)
            announced = len(content) if answer.announce is None else answer.announce
            if announced >= 0:
                self.send_header("Content-Length", str(announced))
            else:
                self.send_header("Connection", "close")
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: answer.cut_after])
            self.wfile.flush()
            if answer.cut_after is not None:
                if answer.hold:
                    answer.hold.wait(_STALL_LIMIT_S)
                self._break(reset=answer.reset)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815

        def _break(self, *, reset: bool) -> None:
            self.close_connection = True
            if reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            else:
                self.connection.shutdown(socket.SHUT_RDWR)

        def finish(self) -> None:
            with contextlib.suppress(OSError):  # broken on purpose, or by a client that went away
                super().finish()

        def log_message(self, *_arguments: object) -> None:
            pass

    return Handler


def image_row(identity: str = "i1", **changes: Any) -> dict[str, Any]:
    """An Image as the service writes it."""
    row = {
        "id": identity,
        "dataset_id": "d1",
        "filename": "a.jpg",
        "directory_path": "/",
        "status": "new",
        "split": None,
        "annotation_count": 0,
        "min_confidence": None,
        "file_size": 10,
        "width": 4,
        "height": 3,
        "content_type": "image/jpeg",
        "tags": [],
        "is_archived": False,
        "image_url": None,
        "thumbnail_url": None,
        "annotation_url": None,
        "created_at": "2026-01-02T03:04:05.123456Z",
    }
    return {**row, **changes}


def dataset_row(identity: str = "d1", **changes: Any) -> dict[str, Any]:
    """A Dataset as the service writes it."""
    row = {
        "id": identity,
        "organization_id": "o1",
        "name": "signs",
        "description": None,
        "annotation_types": [],
        "classes": [],
        "image_count": 0,
        "completed_image_count": 0,
        "archived_image_count": 0,
        "total_size": 0,
        "is_public": False,
        "is_archived": False,
        "storage_class": "standard",
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
    }
    return {**row, **changes}


def directory_row(path: str = "/a", **changes: Any) -> dict[str, Any]:
    """A Directory as the service writes it."""
    row = {
        "id": f"f-{path}",
        "project_id": "d1",
        "name": path.rpartition("/")[2],
        "parent_directory_id": None,
        "full_path": path,
        "image_count": 0,
        "nested_image_count": 0,
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
    }
    return {**row, **changes}
