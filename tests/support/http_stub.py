"""A tiny real HTTP server on loopback that answers, hangs, resets or breaks off as it is told, and counts requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer.

    Attributes:
        fate: What happens after the request was read: `answer` sends the answer; `last` sends it and loses whatever
            else comes on that connection; `hang` never answers; `reset` resets the connection; `close` closes it
            without a word; `half` closes it within the body.
    """

    status: int = 200
    body: object = field(default_factory=dict[str, object])
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    fate: Literal["answer", "last", "hang", "reset", "close", "half"] = "answer"


@dataclass
class HttpStub:
    """Replies per `METHOD /path`: each used once, the last one for ever. Unknown requests get a 404.

    Attributes:
        bodies: What came with each `METHOD /path`, in order.
    """

    url: str
    replies: dict[str, deque[Reply]] = field(default_factory=dict[str, "deque[Reply]"])
    seen: list[str] = field(default_factory=list[str])
    bodies: dict[str, list[bytes]] = field(default_factory=dict[str, list[bytes]])

    def script(self, request: str, *replies: Reply) -> None:
        """Say what `METHOD /path` is answered with."""
        self.replies[request] = deque(replies)

    def count(self, request: str) -> int:
        """Return how often `METHOD /path` arrived."""
        return self.seen.count(request)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            while await self._one(reader, writer):
                pass
        writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        method, path, _ = lines[0].split(" ")
        request = f"{method} {path.partition('?')[0]}"
        self.seen.append(request)
        self.bodies.setdefault(request, []).append(body)
        queue = self.replies.get(request)
        reply = Reply(status=404, body={"detail": "Not Found"})
        if queue:
            reply = queue.popleft() if len(queue) > 1 else queue[0]
        return await self._send(reply, reader, writer)

    async def _send(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if reply.fate == "hang":
            await asyncio.Event().wait()
        if reply.fate == "reset":
            raw: socket.socket = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return False
        if reply.fate == "close":
            return False
        body = reply.body.encode() if isinstance(reply.body, str) else json.dumps(reply.body).encode()
        extra = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        writer.write(f"HTTP/1.1 {reply.status} X\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode())
        writer.write(body[: len(body) // 2] if reply.fate == "half" else body)
        await writer.drain()
        if reply.fate == "last":
            await reader.read(1)
            return False
        return reply.fate == "answer"


@contextlib.asynccontextmanager
async def http_stub() -> AsyncGenerator[HttpStub]:
    """Run a stub for the length of the `async with`."""
    stub = HttpStub(url="")
    handlers: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        handlers.add(task)
        await stub.handle(reader, writer)
        handlers.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api"
    try:
        yield stub
    finally:
        server.close()
        for task in handlers:
            task.cancel()
        await asyncio.gather(*handlers, return_exceptions=True)
        await server.wait_closed()
