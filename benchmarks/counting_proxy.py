"""A proxy on loopback that counts what clients ask of a Prefect server: requests by kind, and websocket messages."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

REQUESTS = "requests"
RENEWALS = "renewals"
EVENTS = "events"
_MASK_BYTES = 4


class Counted:
    """Counts the messages of one connection's upward half; understands what httpx and websocket clients send."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._buffer = b""
        self._skip = 0
        self._websocket = False

    def feed(self, data: bytes) -> None:
        """Take in the next piece."""
        self._buffer += data
        while self._advance():
            pass

    def _advance(self) -> bool:
        if self._skip:
            passed = min(self._skip, len(self._buffer))
            self._skip -= passed
            self._buffer = self._buffer[passed:]
            return passed > 0
        return self._frame() if self._websocket else self._request()

    def _request(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "transfer-encoding" in headers:
            raise NotImplementedError("a body without a length")
        self._buffer, self._skip = rest, int(headers.get("content-length", 0))
        self._websocket = "upgrade" in headers
        self._counts[kind(first.split()[1])] += 1
        return True

    def _frame(self) -> bool:
        if len(self._buffer) < 2:
            return False
        length, head = self._buffer[1] & 0x7F, 2
        if length >= 126:
            head += 2 if length == 126 else 8
            if len(self._buffer) < head:
                return False
            length = int.from_bytes(self._buffer[2:head], "big")
        self._buffer, self._skip = self._buffer[head:], length + _MASK_BYTES
        self._counts[EVENTS] += 1
        return True


def kind(path: str) -> str:
    """Return under what a request is counted."""
    if path.endswith("/renew"):
        return RENEWALS
    return EVENTS if "/events" in path else REQUESTS


class Proxy:
    """Forwards every byte and counts.

    Attributes:
        url: The API's address through the proxy.
        counts: Numbers so far by kind.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.counts: Counter[str] = Counter()
        self.url = ""

    async def listen(self) -> asyncio.Server:
        """Begin."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{self._target.path}"
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        with suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(_forward(reader, up_writer, Counted(self.counts)), _forward(up_reader, writer, None))


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: Counted | None) -> None:
    try:
        while data := await reader.read(65536):
            if counted is not None:
                counted.feed(data)
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()


@contextmanager
def counting_proxy(url: str) -> Generator[Proxy]:
    """Run a proxy to the API at `url` in a thread of its own."""
    proxy = Proxy(url)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(proxy.listen(), loop).result(10)
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_cancel_all(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


async def _cancel_all() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
