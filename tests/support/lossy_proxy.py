"""A TCP proxy on loopback that loses a chosen request, or the answer to it after the server has given it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class LossyProxy:
    """Forwards every byte, until told to lose requests or answers, in that order.

    Attributes:
        url: The API's address through the proxy.
        lost: How many requests and answers were lost.
        sent: What clients have sent, piece by piece, in the order it came.
    """

    url: str
    lost: int = 0
    sent: list[bytes] = field(default_factory=list[bytes])
    _to_lose: deque[tuple[bytes, bool]] = field(default_factory=deque[tuple[bytes, bool]])

    def lose_answer_to(self, marker: str) -> None:
        """Close the connection instead of passing on the answer to the next request that contains `marker`."""
        self._to_lose.append((marker.encode(), False))

    def lose_request(self, marker: str) -> None:
        """Close the connection instead of passing on the next request that contains `marker`."""
        self._to_lose.append((marker.encode(), True))

    async def serve(self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(host, port)
        lose = asyncio.Event()

        async def upwards() -> None:
            while data := await reader.read(65536):
                if self._to_lose and self._to_lose[0][0] in data:
                    if self._to_lose.popleft()[1]:
                        self.lost += 1
                        writer.close()
                        break
                    lose.set()
                self.sent.append(data)
                up_writer.write(data)
                await up_writer.drain()
            up_writer.write_eof()

        async def downwards() -> None:
            while data := await up_reader.read(65536):
                if lose.is_set():
                    self.lost += 1
                    break
                writer.write(data)
                await writer.drain()
            writer.close()

        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await asyncio.gather(upwards(), downwards())
        finally:
            up_writer.close()


@contextlib.asynccontextmanager
async def lossy_proxy(url: str) -> AsyncGenerator[LossyProxy]:
    """Run a proxy to the API at `url` for the length of the `async with`."""
    target = urlsplit(url)
    assert target.hostname is not None
    assert target.port is not None
    host, port = target.hostname, target.port
    proxy = LossyProxy(url="")
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await proxy.serve(host, port, reader, writer)
        finally:
            connections.discard(task)
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{target.path}"
    try:
        yield proxy
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()


@contextlib.contextmanager
def lossy_proxy_in_a_thread(url: str) -> Generator[LossyProxy]:
    """Run a proxy as `lossy_proxy` does, in a thread and an event loop of its own."""
    loop = asyncio.new_event_loop()
    ready: list[LossyProxy] = []
    up, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with lossy_proxy(url) as made:
            ready.append(made)
            up.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    assert up.wait(20)
    yield ready[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)
    loop.close()
