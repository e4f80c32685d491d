"""The API port: one request from its headers to its answer.

The order of the checks is the service's: key (401), rate limit (429), route (404, 405), role (403), query and
body (400, 422), and only then the handler. Handlers run one after another on the database thread, each write
in one transaction together with the record of its Idempotency-Key; that alone makes retries safe, concurrent
ones too.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
import traceback
import uuid
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from pictofs.sandbox import datasets, pictures, uploads
from pictofs.sandbox.calls import Call, Converted, Original, Thumbnail, read_keys
from pictofs.sandbox.context import Context
from pictofs.sandbox.control import Control
from pictofs.sandbox.errors import RefusalError, not_found
from pictofs.sandbox.faults import Action
from pictofs.sandbox.links import API_PREFIX
from pictofs.sandbox.ratelimit import RateLimit
from pictofs.sandbox.routes import ROUTES, ApiRoute
from pictofs.sandbox.stats import key_names
from pictofs.sandbox.wire import (
    Answering,
    ClientGoneError,
    path_of,
    reset,
    send_file,
    send_plain,
)

MAX_BODY_BYTES = 10 * 1024 * 1024
"""The service's bound on a request body; files do not pass here."""
KEY_LIMIT_CHARS = 255
UNKNOWN_ROUTE = "(unknown)"


@dataclass(frozen=True)
class Prepared:
    """A JSON answer, ready to send."""

    status: int
    body: bytes
    headers: dict[str, str]
    is_replay: bool = False


Answer = Prepared | Original | Thumbnail


class Api:
    """The ASGI application of the API port, `/sandbox/*` included."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._control = Control(context)
        self._rate = RateLimit(context.faults)
        # Starlette matches; the endpoint is not called through it.
        self._table = [
            (route, Route(API_PREFIX + route.path, _unused, methods=[route.method])) for route in ROUTES
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope)
        if path.startswith("/sandbox/"):
            await self._control(scope, receive, send)
            return
        context = self._context
        method: str = scope["method"]
        route, parameters, status = self._match(path, method)
        request = _Request(
            scope,
            path,
            f"{method} {route.path.replace(':path', '').replace(':uuid', '') if route else UNKNOWN_ROUTE}",
        )
        context.stats.by_route[request.target] += 1
        context.stats.recent.append(request.record)
        answering = Answering(scope, receive, send, context.down, {"X-Request-Id": f"req_{uuid.uuid4().hex}"})
        await context.wait_latency()
        plan = context.faults.plan(request.target, path)
        try:
            answer: Answer
            try:
                self._admit(request)
                if plan.action is not Action.NONE:
                    context.stats.faulted += 1
                if await context.harm_before(plan, scope, receive):
                    request.record["status"] = "reset"
                    return
                if plan.action is Action.STATUS:
                    raise RefusalError(plan.status, plan.message, headers=_retry_after(plan.retry_after))
                if route is None:
                    raise RefusalError(status, f"{method} {path!r} is no route of this API.")
                answer = await self._answer(route, parameters, request, receive)
            except RefusalError as refusal:
                answer = _prepared(refusal)
            if plan.action is Action.RESET_AFTER:
                request.record["status"] = "reset"
                await reset(scope, receive)
                return
            answering.truncate = plan.action is Action.TRUNCATE
            answering.add_headers(self._rate.headers())
            await self._send(answer, request, answering)
        except ClientGoneError:
            return
        except Exception:  # noqa: BLE001  # a bug here is a 500 and a traceback on the server's terminal
            traceback.print_exc(file=sys.stderr)
            if answering.status:
                await reset(scope, receive)
            else:
                failure = RefusalError(500, "The sandbox failed; see its terminal.")
                await self._send(_prepared(failure), request, answering)
        finally:
            request.record.setdefault("status", answering.status)
            context.stats.by_status[str(request.record["status"])] += 1

    def _match(self, path: str, method: str) -> tuple[ApiRoute | None, dict[str, str], int]:
        """The route and its parameters, else None and the status that says why."""
        scope = {"type": "http", "path": path, "method": method, "root_path": "", "path_params": {}}
        status = 404
        for route, matcher in self._table:
            match, found = matcher.matches(scope)
            if match is Match.FULL and route.method == method:
                return route, {name: str(value) for name, value in found["path_params"].items()}, 200
            if match is not Match.NONE:
                status = 405
        return None, {}, status

    def _admit(self, request: _Request) -> None:
        """Raises RefusalError: 401 for a key that is not ours, 429 when the window is full."""
        given = request.headers.get("x-api-key", "")
        if not hmac.compare_digest(
            given.encode("latin-1", "replace"), self._context.options.api_key.encode()
        ):
            raise RefusalError(401, "Invalid API key." if given else "Missing X-API-Key header.")
        self._rate.take()

    async def _answer(
        self, route: ApiRoute, parameters: dict[str, str], request: _Request, receive: Receive
    ) -> Answer:
        context = self._context
        raw = await self._read_body(receive) if route.method in ("POST", "PUT", "PATCH") else b""
        body = _parsed(raw, optional=route.body is None)
        request.record["body_keys"] = key_names(body)
        call = Call(context.store, context.links, context.faults, parameters, {}, {})
        call.require(route.role)
        call.query = read_keys(route.query, _query(request), "query")
        call.body = read_keys(route.body or {}, body, "body")
        key = request.headers.get("idempotency-key", "") if route.method in ("POST", "PUT", "PATCH") else ""
        if len(key) > KEY_LIMIT_CHARS:
            raise RefusalError(400, f"Idempotency-Key has at most {KEY_LIMIT_CHARS} characters.")
        fingerprint = hashlib.sha256(
            f"{request.target} {request.path}\n".encode("utf-8", "surrogatepass") + raw
        ).digest()
        if route.staged:
            await self._convert_heic(call, [call.body] if route.staged == "." else call.body[route.staged])
        answer = await context.on_database(lambda: self._carry_out(route, call, key, fingerprint))
        if isinstance(answer, Prepared) and answer.is_replay:
            context.stats.replays += 1
        return answer

    def _carry_out(self, route: ApiRoute, call: Call, key: str, fingerprint: bytes) -> Answer:
        """On the database thread: the handler, in one transaction with the record of its key."""
        store = call.store
        if not route.is_write:
            result = route.handler(call)
            return result if isinstance(result, (Original, Thumbnail)) else _json(200, result)
        kept = store.kept_answer(key) if key else None
        if kept is not None:
            if kept["fingerprint"] != fingerprint:
                raise RefusalError(
                    422, "This Idempotency-Key was used for another request.", code="idempotency_key_reused"
                )
            return Prepared(kept["status"], kept["body"], {"Idempotent-Replayed": "true"}, is_replay=True)
        try:
            with store.transaction():
                answer = _json(200, route.handler(call))
                if key:
                    store.keep_answer(key, fingerprint, answer.status, answer.body)
        except RefusalError as refusal:
            answer = _prepared(refusal)
            if key and refusal.status != 403:
                with store.transaction():
                    store.keep_answer(key, fingerprint, answer.status, answer.body)
        for picture in call.converted.values():
            if picture.object_id and not store.row(
                "SELECT 1 FROM images WHERE object_id = ?", picture.object_id
            ):
                store.files.discard_object(picture.object_id)
        return answer

    async def _convert_heic(self, call: Call, items: list[dict[str, Any]]) -> None:
        """Make the PNG of every staged HEIC file, off the database thread: it takes a second each."""
        heic = [item for item in items if item["filename"].strip().lower().endswith(".heic")]
        if not heic:
            return

        def staged_keys() -> list[str]:
            dataset_id = datasets.find(call.store, call.body["dataset"])["id"]
            keys = [uploads.staging_key_of(dataset_id, item) for item in heic]
            return [key for key in keys if call.store.files.staged(key).exists()]

        keys = await self._context.on_database(staged_keys)
        for key in keys:
            call.converted[key] = await self._context.on_pictures(lambda key=key: self._png_of(key))  # type: ignore[misc]

    def _png_of(self, key: str) -> Converted:
        files = self._context.store.files
        object_id = uuid.uuid4().hex
        temporary = files.new_temporary()
        try:
            width, height = pictures.heic_to_png(files.staged(key), temporary)
        except pictures.UNREADABLE:
            temporary.unlink(missing_ok=True)
            return Converted(None)
        temporary.rename(files.object(object_id))
        return Converted(object_id, files.object(object_id).stat().st_size, width, height)

    async def _send(self, answer: Answer, request: _Request, answering: Answering) -> None:
        files, faults = self._context.store.files, self._context.faults.now
        if isinstance(answer, Thumbnail):
            answer = await self._thumbnail(answer)
        if isinstance(answer, Prepared):
            headers = {
                "content-type": "application/json",
                "content-length": str(len(answer.body)),
                **answer.headers,
            }
            await send_plain(answering, answer.status, headers, answer.body)
        elif faults.redirect_originals:
            url = self._context.links.object(answer.object_id, answer.filename)
            await send_plain(answering, 302, {"location": url, "content-length": "0"})
        else:
            await send_file(
                answering,
                files.object(answer.object_id),
                method="GET",
                content_type=answer.content_type,
                etag=answer.object_id,
                byte_range=None if faults.ignore_range else request.headers.get("range"),
            )

    async def _thumbnail(self, wanted: Thumbnail) -> Prepared:
        try:
            data = await self._context.on_pictures(lambda: thumbnail_bytes(self._context, wanted.object_id))
        except pictures.UNREADABLE:
            return _prepared(not_found("A thumbnail of this image"))
        return Prepared(200, data, {"content-type": "image/jpeg"})

    async def _read_body(self, receive: Receive) -> bytes:
        parts, size_bytes, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            part = message.get("body", b"")
            size_bytes += len(part)
            if size_bytes > MAX_BODY_BYTES:
                raise RefusalError(413, f"A request body has at most {MAX_BODY_BYTES} bytes.")
            await self._context.up.carry(len(part))
            parts.append(part)
            more = message.get("more_body", False)
        return b"".join(parts)


class _Request:
    """What is known of a request from its head."""

    def __init__(self, scope: Scope, path: str, target: str) -> None:
        self.path = path
        self.target = target
        self.headers = Headers(scope=scope)
        self.query_string = scope["query_string"].decode("latin-1")
        self.record: dict[str, Any] = {
            "method": scope["method"],
            "path": path,
            "route": target,
            "query_keys": sorted(QueryParams(self.query_string).keys()),
            "query": self.query_string,
            "body_keys": [],
            "headers": sorted(set(self.headers.keys())),
        }


def thumbnail_bytes(context: Context, object_id: str) -> bytes:
    """Made on first use. Raises one of pictures.UNREADABLE, FileNotFoundError among them."""
    files = context.store.files
    cached = files.thumbnail(object_id)
    if not cached.exists():
        temporary = files.new_temporary()
        temporary.write_bytes(pictures.thumbnail(files.object(object_id)))
        temporary.rename(cached)
    return cached.read_bytes()


def _query(request: _Request) -> dict[str, str]:
    return dict(QueryParams(request.query_string))


def _parsed(raw: bytes, *, optional: bool) -> dict[str, Any]:
    """The body as an object. Raises RefusalError(422)."""
    if optional and not raw.strip():
        return {}
    try:
        body = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as problem:
        raise RefusalError(422, f"The body is not JSON: {problem}") from None
    if not isinstance(body, dict):
        raise RefusalError(422, "The body must be a JSON object.")
    return body


def _json(status: int, value: Any) -> Prepared:
    # ASCII, so that lone surrogates of hostile names pass as escapes.
    return Prepared(status, json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode("ascii"), {})


def _prepared(refusal: RefusalError) -> Prepared:
    answer = _json(refusal.status, refusal.body())
    return Prepared(answer.status, answer.body, refusal.headers)


def _retry_after(value: float | str | None) -> dict[str, str]:
    return {} if value is None else {"Retry-After": str(value)}


def _unused() -> None:
    """Stands where Starlette wants an endpoint; `Api` calls the handler itself."""
