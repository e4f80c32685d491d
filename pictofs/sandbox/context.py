"""What both ports of one sandbox share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar

from starlette.types import Receive, Scope

from pictofs.sandbox.faults import Action, Faults, Line, Plan
from pictofs.sandbox.links import Links
from pictofs.sandbox.options import SandboxOptions
from pictofs.sandbox.stats import Stats
from pictofs.sandbox.store import Store
from pictofs.sandbox.wire import reset

T = TypeVar("T")


@dataclass(frozen=True)
class Context:
    """Everything here but `store` belongs to the event loop; `store` to the one thread of `database`."""

    options: SandboxOptions
    store: Store
    links: Links
    faults: Faults
    stats: Stats
    up: Line
    down: Line
    database: Executor
    pictures: Executor

    async def on_database(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.database, work)

    async def on_pictures(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.pictures, work)

    async def wait_latency(self) -> None:
        if self.faults.now.latency_ms:
            await asyncio.sleep(self.faults.now.latency_ms / 1000)

    async def harm_before(self, plan: Plan, scope: Scope, receive: Receive) -> bool:
        """Carry out a reset or stall that comes before any effect. True: there is nobody left to answer."""
        if plan.action is Action.RESET_BEFORE:
            await reset(scope, receive)
            return True
        if plan.action is Action.STALL:
            await self.faults.changed()
        return bool(scope["state"]["transport"].is_closing())
