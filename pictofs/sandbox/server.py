"""Starts the two ports of a sandbox and stops them cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import socket
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from pictofs.sandbox import seeds
from pictofs.sandbox.api import Api
from pictofs.sandbox.context import Context
from pictofs.sandbox.faults import Faults, Line
from pictofs.sandbox.links import Links
from pictofs.sandbox.options import SandboxOptions
from pictofs.sandbox.stats import Stats
from pictofs.sandbox.storage import Storage
from pictofs.sandbox.store import Store
from pictofs.sandbox.wire import Protocol

KEEP_ALIVE_S = 75
"""Idle connections live longer than any client keeps them, so that none is closed under a request."""
GRACE_S = 1
"""What a request under way gets when a signal comes; a stalled one would take for ever."""
BACKLOG = 1024
PICTURE_WORKERS = 2
WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104  # compared, not bound


class CannotServeError(Exception):
    """Why it does not start, in one sentence."""


def serve(options: SandboxOptions) -> None:
    """Serve until SIGTERM or SIGINT, in the main thread of a process.

    Prints the base URL and the key as shell exports, then `# ready`.
    Raises CannotServeError when a port is taken or the data folder cannot be used.
    """
    with contextlib.ExitStack() as stack:
        api_socket = stack.enter_context(_bound(options.host, options.port, "--port"))
        storage_socket = stack.enter_context(_bound(options.host, options.storage_port, "--storage-port"))
        data = options.data or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="pictofs-sandbox-"))
        )
        database = stack.enter_context(ThreadPoolExecutor(1, "sandbox-database"))
        pictures = stack.enter_context(ThreadPoolExecutor(PICTURE_WORKERS, "sandbox-pictures"))
        try:
            store = database.submit(_opened, data, options.seed).result()
        except (OSError, sqlite3.Error) as problem:
            raise CannotServeError(f"the data folder {data} cannot be used: {problem}") from None
        stack.callback(lambda: database.submit(store.close).result())
        asyncio.run(_serve(options, store, database, pictures, api_socket, storage_socket))


async def _serve(
    options: SandboxOptions,
    store: Store,
    database: ThreadPoolExecutor,
    pictures: ThreadPoolExecutor,
    api_socket: socket.socket,
    storage_socket: socket.socket,
) -> None:
    faults = Faults(options)
    secret, generation = database.submit(
        lambda: (store.meta("signing_secret") or "", int(store.meta("url_generation") or 0))
    ).result()
    links = Links(
        base_url=_url(options.host, api_socket),
        storage_url=options.storage_url or _url(options.host, storage_socket),
        secret=bytes.fromhex(secret),
        faults=faults,
        generation=[generation],
    )
    context = Context(
        options,
        store,
        links,
        faults,
        Stats(),
        Line(faults),
        Line(faults),
        database=database,
        pictures=pictures,
    )
    servers = (_Server(Api(context), api_socket), _Server(Storage(context), storage_socket))

    def stop() -> None:
        for server in servers:
            server.should_exit = True

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
    running = [asyncio.create_task(server.run_until_stopped()) for server in servers]
    for server in servers:
        await server.is_up.wait()
    print(f"export PICTOGRAPH_BASE_URL={links.base_url}")
    print(f"export PICTOGRAPH_API_KEY={options.api_key}")
    print(f"# storage={links.storage_url}")
    print(f"# storage port={storage_socket.getsockname()[1]}")
    print("# ready; Ctrl-C stops it", flush=True)
    await asyncio.gather(*running)


class _Server(uvicorn.Server):
    """One port. Signals are handled once, for both."""

    def __init__(self, app: ASGIApp, bound: socket.socket) -> None:
        logging.getLogger("uvicorn.error").setLevel(
            logging.CRITICAL
        )  # the applications report their own failures
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                loop="asyncio",
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACE_S,
                backlog=BACKLOG,
            )
        )
        self._bound = bound
        self.is_up = asyncio.Event()

    async def run_until_stopped(self) -> None:
        await self.serve(sockets=[self._bound])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_up.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _opened(data: Path, seed: bool | None) -> Store:
    store = Store(data)
    if seed or (seed is None and store.is_new):
        seeds.plant(store)
    return store


def _bound(host: str, port: int, option: str) -> socket.socket:
    """A listening socket. Raises CannotServeError."""
    listening = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as problem:
        if listening is not None:
            listening.close()
        if problem.errno == errno.EADDRINUSE:
            raise CannotServeError(f"port {port} on {host} is taken; choose another with {option}.") from None
        raise CannotServeError(f"cannot listen on {host} port {port}: {problem.strerror}.") from None
    return listening


def _url(host: str, bound: socket.socket) -> str:
    host = WILDCARDS.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
