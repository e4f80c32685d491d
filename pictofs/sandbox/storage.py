"""The storage port: signed URLs, nothing else. It knows files, no rows, and no API key."""

from __future__ import annotations

import asyncio
import sys
import traceback
from pathlib import Path
from urllib.parse import unquote_to_bytes

from starlette.datastructures import Headers, QueryParams
from starlette.types import Receive, Scope, Send

from pictofs.sandbox import pictures
from pictofs.sandbox.api import thumbnail_bytes
from pictofs.sandbox.context import Context
from pictofs.sandbox.faults import Action
from pictofs.sandbox.images import CONTENT_TYPES
from pictofs.sandbox.links import Area, BadSignatureError
from pictofs.sandbox.uploads import MAX_FILE_BYTES
from pictofs.sandbox.wire import Answering, ClientGoneError, reset, send_file, send_plain

BUFFER_BYTES = 1024 * 1024
"""Written to disk in pieces of this size: one for most pictures, and little memory for the largest."""
COUNTED = {"PUT": "puts", "GET": "gets", "HEAD": "heads"}


class _RefusedError(Exception):
    """Answered in the storage's own words."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


class Storage:
    """The ASGI application of the storage port."""

    def __init__(self, context: Context) -> None:
        self._context = context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = self._context
        method: str = scope["method"]
        context.stats.storage[COUNTED.get(method, "others")] += 1
        answering = Answering(scope, receive, send, context.down)
        await context.wait_latency()
        raw_path = scope["raw_path"].decode("ascii", "replace")
        filename = unquote_to_bytes(raw_path.rpartition("/")[2]).decode("utf-8", "surrogatepass")
        plan = context.faults.plan(f"{method} storage", filename, raw_path, storage=True)
        try:
            try:
                if plan.action is not Action.NONE:
                    context.stats.faulted += 1
                if await context.harm_before(plan, scope, receive):
                    return
                while method == "PUT" and context.faults.is_stalled(filename):
                    await context.faults.changed()
                if plan.action is Action.STATUS:
                    raise _RefusedError(plan.status, "Fault", plan.message)
                answering.truncate = plan.action is Action.TRUNCATE
                if plan.action is Action.RESET_AFTER and method != "PUT":
                    await reset(scope, receive)
                    return
                etag = await self._serve(scope, receive, answering, raw_path)
                if etag is None:
                    return
                if plan.action is Action.RESET_AFTER:
                    await reset(scope, receive)
                    return
                await send_plain(answering, 200, {"content-length": "0", "etag": f'"{etag}"'})
            except _RefusedError as refused:
                context.stats.storage["refused"] += 1
                await _send_refusal(answering, refused)
        except ClientGoneError:
            return
        except Exception:  # noqa: BLE001  # a bug here is a 500 and a traceback on the server's terminal
            traceback.print_exc(file=sys.stderr)
            if answering.status:
                await reset(scope, receive)
                return
            await _send_refusal(
                answering, _RefusedError(500, "InternalError", "The sandbox failed; see its terminal.")
            )
        finally:
            context.stats.storage["bytes_out"] += answering.body_bytes

    async def _serve(self, scope: Scope, receive: Receive, answering: Answering, raw_path: str) -> str | None:
        """Read or write. Returns the ETag of what was written; None when the answer was sent already."""
        context = self._context
        method, headers = scope["method"], Headers(scope=scope)
        if "x-api-key" in headers:
            context.stats.key_leaks += 1
            raise _RefusedError(400, "KeyLeaked", "A signed URL must be used without X-API-Key.")
        area, _, rest = raw_path.lstrip("/").partition("/")
        key = rest.partition("/")[0]
        if area == "thumbnail" and method in ("GET", "HEAD"):
            await self._send_thumbnail(answering, key)
            return None
        if area not in (Area.UPLOAD.value, Area.OBJECT.value):
            raise _RefusedError(404, "NoSuchKey", "There is nothing here.")
        is_upload = area == Area.UPLOAD.value
        if method not in (("PUT",) if is_upload else ("GET", "HEAD")):
            raise _RefusedError(405, "MethodNotAllowed", f"The URL is not signed for {method}.")
        query = dict(QueryParams(scope["query_string"].decode("latin-1")))
        try:
            context.links.check(raw_path, query, headers.get("content-type", "") if is_upload else "")
        except BadSignatureError as problem:
            raise _RefusedError(403, str(problem), "The signature is wrong or has expired.") from None
        if is_upload:
            return await self._put(receive, headers, key)
        suffix = Path(unquote_to_bytes(raw_path).decode("utf-8", "replace")).suffix.lower()
        try:
            await send_file(
                answering,
                context.store.files.object(key),
                method=method,
                content_type=CONTENT_TYPES.get(suffix, "application/octet-stream"),
                etag=key,
                byte_range=None if context.faults.now.ignore_range else headers.get("range"),
            )
        except FileNotFoundError:
            raise _RefusedError(404, "NoSuchKey", "The object does not exist.") from None
        return None

    async def _put(self, receive: Receive, headers: Headers, key: str) -> str:
        """Stage the body under `key` when it is complete; returns its ETag."""
        length = headers.get("content-length", "")
        if not length.isdigit():
            raise _RefusedError(411, "MissingContentLength", "Content-Length is required.")
        if int(length) > MAX_FILE_BYTES:
            raise _RefusedError(413, "EntityTooLarge", f"At most {MAX_FILE_BYTES} bytes are allowed.")
        files = self._context.store.files
        temporary = files.new_temporary()
        try:
            buffer, more = bytearray(), True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                part = message.get("body", b"")
                buffer += part
                self._context.stats.storage["bytes_in"] += len(part)
                await self._context.up.carry(len(part))
                more = message.get("more_body", False)
                if more and len(buffer) >= BUFFER_BYTES:
                    await asyncio.to_thread(_append, temporary, bytes(buffer))
                    buffer.clear()
            await asyncio.to_thread(_append, temporary, bytes(buffer), files.staged(key))
        finally:
            temporary.unlink(missing_ok=True)
        return temporary.name

    async def _send_thumbnail(self, answering: Answering, key: str) -> None:
        try:
            data = await self._context.on_pictures(lambda: thumbnail_bytes(self._context, key))
        except pictures.UNREADABLE:
            raise _RefusedError(404, "NoSuchKey", "There is no thumbnail of this.") from None
        headers = {"content-type": "image/jpeg", "content-length": str(len(data)), "etag": f'"{key}"'}
        await send_plain(answering, 200, headers, data)


def _append(path: Path, data: bytes, final: Path | None = None) -> None:
    """Add to the file; with `final`, also give it that name."""
    with path.open("ab") as file:
        file.write(data)
    if final is not None:
        path.rename(final)


async def _send_refusal(answering: Answering, refused: _RefusedError) -> None:
    body = (
        "<?xml version='1.0' encoding='UTF-8'?>"
        f"<Error><Code>{refused.code}</Code><Message>{refused.message}</Message></Error>"
    ).encode()
    headers = {"content-type": "application/xml; charset=UTF-8", "content-length": str(len(body))}
    await send_plain(answering, refused.status, headers, body)
