"""A TCP proxy that makes a server on this machine as far away as the sandbox with its `--latency-ms`.

Bytes of either direction arrive half the round trip later, however many they are: a request and its answer
take one round trip more, while throughput stays, unless `mbps` bounds it. Opening a connection costs nothing
extra, as with the sandbox. HTTP requests are counted as they pass: a client that waits for each answer
before it sends the next request, as Go's does, begins every request with a chunk of its own.
"""

from __future__ import annotations

import asyncio
import re
import threading
from types import TracebackType

_REQUEST_LINE = re.compile(rb"[A-Z]+ \S+ HTTP/1\.[01]\r\n")
_CHUNK_BYTES = 1024 * 1024


class _Line:
    """One direction, shared by all connections: when bytes that set out now arrive."""

    def __init__(self, delay_s: float, mbps: float) -> None:
        self._delay_s = delay_s
        self._mbps = mbps
        self._free_at_s = 0.0

    def arrival_s(self, size_bytes: int) -> float:
        now_s = asyncio.get_running_loop().time()
        if not self._mbps:
            return now_s + self._delay_s
        self._free_at_s = max(self._free_at_s, now_s) + size_bytes * 8 / (self._mbps * 1e6)
        return self._free_at_s + self._delay_s


class LatencyProxy:
    """Listens on a port of its own in front of `target_port`, in a thread, until the block is left.

    Args:
        round_trip_s: what a request and its answer take longer.
        mbps: Mbit/s in each direction; 0 is without bound.
    """

    def __init__(self, target_port: int, round_trip_s: float, mbps: float = 0.0) -> None:
        self.port = 0
        self.requests = 0
        self._target_port = target_port
        self._up, self._down = (_Line(round_trip_s / 2, mbps) for _ in range(2))
        self._ends: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> LatencyProxy:
        self._thread.start()
        assert self._listening.wait(10), "the proxy does not listen"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        await self._stopping.wait()
        server.close()
        for end in self._ends:
            end.transport.abort()
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})

    async def _connect(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        try:
            server_in, server_out = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            client_out.close()
            return
        self._ends |= {client_out, server_out}
        await asyncio.gather(
            self._carry(client_in, server_out, self._up), self._carry(server_in, client_out, self._down)
        )

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, line: _Line) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivery = asyncio.create_task(self._deliver(under_way, target))
        try:
            while data := await source.read(_CHUNK_BYTES):
                if line is self._up and _REQUEST_LINE.match(data):
                    self.requests += 1
                under_way.put_nowait((line.arrival_s(len(data)), data))
        except ConnectionError:
            pass
        under_way.put_nowait((line.arrival_s(0), b""))
        await delivery

    async def _deliver(self, under_way: asyncio.Queue[tuple[float, bytes]], to: asyncio.StreamWriter) -> None:
        try:
            while True:
                due_s, data = await under_way.get()
                await asyncio.sleep(due_s - asyncio.get_running_loop().time())
                if not data:
                    break
                to.write(data)
                await to.drain()
        except ConnectionError:
            pass
        finally:
            to.close()
