"""HTTP that never repeats a change whose answer was lost, under Prefect's own client.

Prefect's client repeats a request after a lost answer, so that one call can take two leases, and sleeps seconds after a
503. It catches `httpx` exceptions to do so; ours are none, and pass through it. Limits and leases are not known here.
"""

import ssl
import urllib.request

import httpx

from prefect_slots.errors import ServerUnreachable
from prefect_slots.limits.outcome import UnknownOutcome

# With these, no byte of the request has left: nothing can have been applied.
_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
# A proxy between us and the server answers with these; the server itself may have heard nothing, or everything.
_NO_ANSWER_FROM_PREFECT = frozenset({408, 429, 502, 503, 504})
# A 500 can come after the commit.
_LEFT_OPEN = _NO_ANSWER_FROM_PREFECT | {500}
# Prefect's own 503 is told from a proxy's by its words.
_PREFECTS_503 = b"Service Unavailable"
_STALE_CSRF = b"Invalid CSRF token"

# Prefect's server closes a connection after 5 idle seconds. A request sent on it at that moment is lost, and a lost
# change costs a look-up; so ours are dropped before.
_KEEPALIVE_SECONDS = 4.0
# Acquiring, giving back, renewing and listening go on at once; more would crowd a server that serves a hundred.
_CONNECTIONS = 4


class Unavailable(Exception):
    """A 503: the server says it could not serve the request now.

    Attributes:
        may_be_applied: True for a change: the database's kind decides if it was undone, as on SQLite. False for a
            read, which may always be repeated.
    """

    def __init__(self, request: str, *, may_be_applied: bool) -> None:
        super().__init__(request)
        self.request = request
        self.may_be_applied = may_be_applied


class OnceTransport(httpx.AsyncBaseTransport):
    """Sends each request once and gives every answer that leaves the outcome open a type of its own."""

    def __init__(self, inner: httpx.AsyncBaseTransport, url: str) -> None:
        self._inner = inner
        self._url = url

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request` once and return its definite answer, body included.

        Raises:
            ServerUnreachable: nothing was sent, or the request only reads.
            Unavailable: a 503 to a read, or one in the words of Prefect's server to a change.
            UnknownOutcome: a change was sent, and it may have been applied.
        """
        asked = f"{request.method} {request.url.path}"
        only_reads = request.method in {"GET", "HEAD"} or request.url.path.endswith("/filter")
        try:
            answer = await self._inner.handle_async_request(request)
            # The body is read here: Prefect's client would repeat the request if reading broke off further up.
            body = await _body(answer)
        except _NEVER_SENT as error:
            raise ServerUnreachable(url=self._url, cause=_words(error)) from error
        except Exception as error:
            if only_reads:
                raise ServerUnreachable(url=self._url, cause=_words(error)) from error
            raise UnknownOutcome(request=asked, cause=_words(error)) from error

        status = answer.status_code
        if status == 503 and (only_reads or _PREFECTS_503 in body):
            raise Unavailable(asked, may_be_applied=not only_reads)
        if only_reads and status in _NO_ANSWER_FROM_PREFECT:
            raise ServerUnreachable(url=self._url, cause=f"HTTP {status}")
        if not only_reads and status in _LEFT_OPEN:
            raise UnknownOutcome(request=asked, cause=f"HTTP {status}")

        headers = answer.headers
        if status == 403 and _STALE_CSRF in body:
            # Refused before it was applied. Prefect's client fetches a new token, and would sleep 2 s before using it.
            headers = httpx.Headers([*headers.raw, (b"retry-after", b"0")])
        return httpx.Response(status, headers=headers, stream=httpx.ByteStream(body), extensions=answer.extensions)

    async def aclose(self) -> None:
        """Close all connections."""
        await self._inner.aclose()


async def _body(answer: httpx.Response) -> bytes:
    assert isinstance(answer.stream, httpx.AsyncByteStream)
    # Prefect's server closes the connection after a 500 or 503 without announcing it, and a change sent meanwhile on
    # the same connection would be lost. Closing an answer before its end has been seen drops the connection.
    enough = int(answer.headers.get("content-length", "1")) if answer.status_code >= 500 else None
    body = b""
    async for chunk in answer.stream:
        body += chunk
        if enough is not None and len(body) >= enough:
            break
    await answer.aclose()
    return body


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _proxy_for(url: str) -> str | None:
    # With a transport of ours, httpx no longer looks at HTTP_PROXY and NO_PROXY by itself.
    parsed = httpx.URL(url)
    if urllib.request.proxy_bypass(parsed.host):
        return None
    proxies = urllib.request.getproxies()
    return proxies.get(parsed.scheme) or proxies.get("all")


def once_transport(url: str, *, verify: ssl.SSLContext, http2: bool) -> OnceTransport:
    """Return a transport for the server at `url` that honours the environment's proxies and keeps few connections."""
    limits = httpx.Limits(
        max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS, keepalive_expiry=_KEEPALIVE_SECONDS
    )
    inner = httpx.AsyncHTTPTransport(verify=verify, http2=http2, limits=limits, proxy=_proxy_for(url))
    return OnceTransport(inner, without_password(url))


def without_password(url: str) -> str:
    """Return `url` as it may be shown: without user and password."""
    return str(httpx.URL(url).copy_with(userinfo=b""))
