"""`/sandbox/*`: what was asked, what trouble to make, filling a dataset. No key, never counted or harmed.

GET  /sandbox/stats                 counts and recent requests, see stats.Stats
POST /sandbox/stats/reset
GET  /sandbox/faults                what is in force
POST /sandbox/faults                any of faults.Settings, and
                                    next: [OneShot, …]  for the next matching requests; replaces the list
                                    expire_urls: true   every signed URL handed out so far is 403 from now on
                                    clear: true         back to the options first
                                    seed: N             restart the dice
POST /sandbox/populate              see populate.populate
"""

from __future__ import annotations

import json
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from pictofs.sandbox.context import Context
from pictofs.sandbox.errors import RefusalError
from pictofs.sandbox.populate import populate


class Control:
    """The ASGI application under /sandbox/."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._app = Starlette(
            routes=[
                Route("/sandbox/stats", self._stats, methods=["GET"]),
                Route("/sandbox/stats/reset", self._reset_stats, methods=["POST"]),
                Route("/sandbox/faults", self._faults, methods=["GET"]),
                Route("/sandbox/faults", self._change_faults, methods=["POST"]),
                Route("/sandbox/populate", self._populate, methods=["POST"]),
            ]
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _stats(self, _: Request) -> Response:
        return _answer(self._context.stats.as_json())

    async def _reset_stats(self, _: Request) -> Response:
        self._context.stats.reset()
        return _answer({})

    async def _faults(self, _: Request) -> Response:
        return _answer(self._context.faults.as_json())

    async def _change_faults(self, request: Request) -> Response:
        try:
            wanted = await _body(request)
            self._context.faults.change(wanted)
        except ValueError as problem:
            return _answer({"error": str(problem)}, 422)
        if wanted.get("expire_urls"):
            links, store = self._context.links, self._context.store
            links.expire_all()
            await self._context.on_database(
                lambda: store.set_meta("url_generation", str(links.generation[0]))
            )
        return _answer(self._context.faults.as_json())

    async def _populate(self, request: Request) -> Response:
        context = self._context
        try:
            wanted = await _body(request)
            result = await context.on_database(lambda: populate(context.store, wanted))
        except (ValueError, TypeError, KeyError) as problem:
            return _answer({"error": f"{type(problem).__name__}: {problem}"}, 422)
        except RefusalError as refusal:
            return _answer({"error": refusal.message}, refusal.status)
        return _answer(result)


async def _body(request: Request) -> dict[str, Any]:
    """Raises ValueError when it is no JSON object."""
    body = json.loads(await request.body() or b"{}")
    if not isinstance(body, dict):
        raise ValueError("the body must be a JSON object")
    return body


def _answer(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value), status_code=status, media_type="application/json")
