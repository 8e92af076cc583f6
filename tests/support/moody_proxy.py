"""An HTTP proxy on loopback in front of a real server that, when told to, refuses or answers late."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Mood:
    """What the proxy does with a request.

    Attributes:
        status: Answered instead of asking the server; 0 asks it.
        body: Of that answer.
        delay: Seconds for which an answer of the server's is held back.
        refused: How many requests were answered with `status`.
    """

    status: int = 0
    body: bytes = b'{"detail": "out of sorts"}'
    delay: float = 0.0
    refused: int = 0


@contextmanager
def moody_proxy(url: str) -> Generator[tuple[str, Mood]]:
    """Run a proxy to the API at `url`; give its own address, and the mood to change."""
    target = urlsplit(url)
    assert target.hostname is not None
    host, port, mood, ended = target.hostname, target.port, Mood(), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if mood.status:
                mood.refused += 1
                self._answer(mood.status, [("Content-Type", "application/json")], mood.body)
                return
            server = http.client.HTTPConnection(host, port, timeout=60)
            try:
                server.request(self.command, self.path, body, dict(self.headers))
                answer = server.getresponse()
                text = answer.read()
            except OSError:
                self.close_connection = True
                return
            finally:
                server.close()
            ended.wait(mood.delay)
            dropped = {"transfer-encoding", "connection", "content-length"}
            self._answer(answer.status, [(k, v) for k, v in answer.getheaders() if k.lower() not in dropped], text)

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _pass_on

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        proxy.daemon_threads = True
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}{target.path}", mood
        finally:
            ended.set()
            proxy.shutdown()
            thread.join()
