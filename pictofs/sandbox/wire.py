"""The last step to the socket: throttled, cut or reset answers, ranges, and file bodies.

Works on plain ASGI messages, since a fault ends a connection in ways that no web framework offers.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from pictofs.sandbox.faults import Line

CHUNK_BYTES = 256 * 1024
"""How much of a file is read and sent at once."""
NARROW_CHUNK_BYTES = 16 * 1024
"""The same on a narrow line, so that what is sent follows its speed closely."""


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete."""


class Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, which also hands the connection to the application: a fault may reset it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


def path_of(scope: Scope) -> str:
    """The decoded path; names that are no UTF-8 text survive, as lone surrogates."""
    return unquote_to_bytes(scope["raw_path"]).decode("utf-8", "surrogatepass")


async def reset(scope: Scope, receive: Receive) -> None:
    """Break the connection with a TCP reset."""
    transport: asyncio.Transport = scope["state"]["transport"]
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):  # the client may have gone already
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    await disconnected(receive)


async def disconnected(receive: Receive) -> None:
    """Until the client is gone. What it still sends is dropped."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Answering:
    """An ASGI `send` that adds headers, throttles the body, counts it, and can cut it in the middle."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, line: Line, headers: Mapping[str, str] | None = None
    ) -> None:
        self._scope, self._receive, self._send, self._line = scope, receive, send, line
        self._headers: list[tuple[bytes, bytes]] = []
        self.add_headers(headers or {})
        self.truncate = False
        self.status = 0
        self.body_bytes = 0
        self._cut_at_bytes = 0
        self._is_cut = False

    def add_headers(self, headers: Mapping[str, str]) -> None:
        self._headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]

    async def __call__(self, message: Message) -> None:
        if self._is_cut:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._headers]
            length = dict(message["headers"]).get(b"content-length", b"0")
            self._cut_at_bytes = int(length) // 2
            await self._send(message)
            return
        body: bytes = message.get("body", b"")
        if self.truncate and self.body_bytes + len(body) >= self._cut_at_bytes:
            await self._send(
                {**message, "body": body[: self._cut_at_bytes - self.body_bytes], "more_body": True}
            )
            self._is_cut = True
            self._scope["state"]["transport"].close()  # after what is written has gone out
            await disconnected(self._receive)
            return
        self.body_bytes += len(body)
        if self._line.is_bounded:
            for start in range(0, len(body), NARROW_CHUNK_BYTES):
                part = body[start : start + NARROW_CHUNK_BYTES]
                await self._line.carry(len(part))
                await self._send({"type": "http.response.body", "body": part, "more_body": True})
            message = {**message, "body": b""}
        await self._send(message)


def parse_range(header: str | None, size_bytes: int) -> tuple[int, int] | None:
    """The first and past-the-end byte that a Range header asks for; None when it asks for everything.

    Several ranges are answered with everything, as RFC 9110 allows. Raises ValueError when it cannot be
    satisfied (416).
    """
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", (header or "").strip())
    if match is None or match.group(0) == "bytes=-":
        return None
    first, last = match.groups()
    if not first:
        start, end = max(0, size_bytes - int(last)), size_bytes
    else:
        start, end = int(first), min(int(last) + 1 if last else size_bytes, size_bytes)
        if last and int(last) < int(first):
            return None  # not a valid range, to be ignored
    if start >= end:
        raise ValueError("the range lies outside the file")
    return start, end


async def send_file(
    send: Send, path: Path, *, method: str, content_type: str, etag: str, byte_range: str | None
) -> None:
    """Answer GET or HEAD with a file, or the part of it that `byte_range` (a Range header) names.

    Raises FileNotFoundError before anything is sent. The file never changes, so its descriptor is enough.
    """
    file = await asyncio.to_thread(path.open, "rb", 0)
    with file:
        size_bytes = file.seek(0, 2)
        headers = {
            "content-type": content_type,
            "etag": f'"{etag}"',
            "accept-ranges": "bytes",
            "cache-control": "private, max-age=2592000, immutable",
        }
        try:
            part = parse_range(byte_range, size_bytes)
        except ValueError:
            headers |= {"content-range": f"bytes */{size_bytes}", "content-length": "0"}
            await send_plain(send, 416, headers)
            return
        start, end = part or (0, size_bytes)
        headers["content-length"] = str(end - start)
        if part:
            headers["content-range"] = f"bytes {start}-{end - 1}/{size_bytes}"
        status = 206 if part else 200
        if method == "HEAD" or start == end:
            await send_plain(send, status, headers)
            return
        await send(_start(status, headers))
        file.seek(start)
        while start < end:
            wanted = min(CHUNK_BYTES, end - start)
            chunk = (
                file.read(wanted)
                if wanted <= CHUNK_BYTES // 2
                else await asyncio.to_thread(file.read, wanted)
            )
            if not chunk:
                raise OSError(f"{path} ends early")
            start += len(chunk)
            await send({"type": "http.response.body", "body": chunk, "more_body": start < end})


async def send_plain(send: Send, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
    """A whole answer; `headers` must hold its content-length."""
    await send(_start(status, headers))
    await send({"type": "http.response.body", "body": body})


def _start(status: int, headers: Mapping[str, str]) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    return {"type": "http.response.start", "status": status, "headers": pairs}
