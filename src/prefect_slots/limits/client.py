"""One Prefect server: a kept-alive client of it, and its errors in our words.

A server is used from the one event loop that opened it. Limits and leases are not known here.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import httpx

from prefect_slots.errors import ServerRefused, ServerUnreachable
from prefect_slots.limits.outcome import UnknownOutcome
from prefect_slots.limits.transport import Unavailable, once_transport, without_password
from prefect_slots.system import clock

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

T = TypeVar("T")
Database = Literal["sqlite", "postgresql", "unknown"]

# Longer than a busy server takes. Later, an answer counts as lost and the outcome as unknown.
REQUEST_SECONDS = 30.0
# A busy SQLite server refuses more the more often it is asked: wait a little, differently each time.
_PAUSE_SECONDS = (0.05, 0.2)
# Prefect returns at most this many entries of a list per request.
_PAGE = 200
# About 1.5 s in all: a database that stays busy longer is reported instead of waited for.
_ATTEMPTS = 12


def known_database(kind: str | None) -> Database | None:
    """Return a kind of database that was written down earlier, or `None` if it was unknown then."""
    return "sqlite" if kind == "sqlite" else "postgresql" if kind == "postgresql" else None


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    """A server's description of itself.

    Attributes:
        lease_storage: The module that keeps leases (`prefect.server.concurrency.lease_storage.memory` loses them at a
            restart), or `None` where the server does not tell.
        database: `"unknown"` where neither its settings nor a harmless query tell.
    """

    url: str
    version: str
    lease_storage: str | None
    database: Database


class Server:
    """A connection to one Prefect server; made by `Server.open`.

    Attributes:
        url: The API's address, for messages.
    """

    def __init__(self, client: PrefectClient, url: str, database: Database | None = None) -> None:
        self._client = client
        self._database: Database | None = database
        self.url = url

    @classmethod
    async def open(
        cls, url: str | None = None, *, request_seconds: float = REQUEST_SECONDS, database: Database | None = None
    ) -> Self:
        """Make a client with Prefect's own credentials and TLS settings. Sends nothing yet.

        Args:
            url: The API's address; by default `PREFECT_API_URL`. A temporary server is never started.
            request_seconds: Seconds that one answer may take.
            database: Its kind, if that is known from before: a server that answers 503 does not tell.

        Raises:
            ServerUnreachable: if no address is known.
        """
        from prefect.client.orchestration import PrefectClient
        from prefect.settings import get_current_settings

        api = get_current_settings().api
        url = url or api.url
        if not url:
            raise ServerUnreachable(url="(none)", cause="PREFECT_API_URL is not set")
        verify = _tls_context(cert_file=api.ssl_cert_file, insecure=api.tls_insecure_skip_verify)
        try:
            transport = once_transport(url, verify=verify, http2=api.enable_http2)
            client = PrefectClient(
                url,
                auth_string=api.auth_string.get_secret_value() if api.auth_string else None,
                api_key=api.key.get_secret_value() if api.key else None,
                httpx_settings={"transport": transport, "verify": verify, "timeout": request_seconds},
            )
        except httpx.InvalidURL as error:
            raise ServerUnreachable(url=url, cause=str(error)) from error
        await client.__aenter__()
        return cls(client, without_password(url), database)

    async def close(self) -> None:
        """Close the connections; a request in flight then has an unknown outcome."""
        await self._client.__aexit__(None, None, None)

    async def ask(self, call: Callable[[PrefectClient], Awaitable[T]], *, expected: Collection[int] = ()) -> T:
        """Send one request by Prefect's client; again only if it was certainly not applied.

        Args:
            call: Makes one request.
            expected: HTTP codes that mean something to the caller and pass as `httpx.HTTPStatusError`; Prefect's
                `ObjectNotFound` and `ObjectAlreadyExists` always pass.

        Returns:
            The result of `call`.

        Raises:
            ServerUnreachable: nothing was applied; trying again may help.
            ServerRefused: a definite refusal that was not expected, or an answer that is not Prefect's.
            UnknownOutcome: the change may have been applied.
        """
        for _ in range(_ATTEMPTS):
            try:
                return await call(self._client)
            except Unavailable as busy:
                if busy.may_be_applied and await self.database() != "sqlite":
                    raise UnknownOutcome(request=busy.request, cause="HTTP 503") from busy
            except httpx.HTTPStatusError as error:
                if error.response.status_code in expected:
                    raise
                raise self.refused(error.response) from error
            except (httpx.TooManyRedirects, httpx.DecodingError, ValueError) as error:
                detail = "the answer is not Prefect's; PREFECT_API_URL usually ends in /api"
                raise ServerRefused(url=self.url, status=200, detail=detail) from error
            await asyncio.sleep(clock.between(*_PAUSE_SECONDS))
        raise ServerUnreachable(url=self.url, cause="HTTP 503: its database stayed busy")

    async def ask_pages(self, page: Callable[[PrefectClient, int, int], Awaitable[Collection[T]]]) -> list[T]:
        """Return all entries of a list; `page` is given the number of entries to ask for, and to pass over."""
        found: list[T] = []
        while True:
            more = await self.ask(lambda client: page(client, _PAGE, len(found)))
            found.extend(more)
            if len(more) < _PAGE:
                return found

    def refused(self, answer: httpx.Response) -> ServerRefused:
        """Return a definite refusal in our words."""
        return ServerRefused(url=self.url, status=answer.status_code, detail=detail_of(answer))

    async def database(self) -> Database:
        """Return the kind of the server's database, asking at most a few times and remembering a definite answer."""
        if self._database is None:
            driver = str((await self._settings()).get("server", {}).get("database", {}).get("driver") or "")
            self._database = known_database(driver.partition("+")[0]) or await self._database_by_nul()
        return self._database or "unknown"

    async def _database_by_nul(self) -> Database | None:
        # The server hides its connection URL. But PostgreSQL cannot compare with a text that holds a NUL, and SQLite
        # can: looking for a variable of such a name, which changes nothing, tells them apart. A refusal counts only if
        # a plain name is answered, and twice, because a server in trouble refuses anything.
        for _ in range(2):
            if await self._can_look_for("\0"):
                return "sqlite"
            if not await self._can_look_for("prefect-slots"):
                return None
        return "postgresql"

    async def _can_look_for(self, name: str) -> bool:
        look_up = {"variables": {"name": {"any_": [name]}}, "limit": 1}
        return await self._read("POST", "/variables/filter", json=look_up) == []

    async def _settings(self) -> dict[str, Any]:
        found = await self._read("GET", "/admin/settings")
        return found if isinstance(found, dict) else {}

    async def _read(
        self, method: Literal["GET", "POST"], path: Literal["/admin/settings", "/variables/filter"], **body: Any
    ) -> Any:
        """Return the server's answer, or `None` if it gives none."""
        try:
            return (await self._client.request(method, path, **body)).json()
        except (httpx.HTTPStatusError, Unavailable, ServerUnreachable, ValueError):
            return None

    async def info(self) -> ServerInfo:
        """Ask the server for its version and kind.

        Raises:
            ServerUnreachable: if it does not answer.
            ServerRefused: if it refuses us, is no Prefect server, or is one of another major version.
        """
        # Before anything else: settings and databases of another major version may have another form.
        version = str(await self.ask(lambda client: client.api_version()))
        ours = self._client.client_version()
        if version.partition(".")[0] != ours.partition(".")[0]:
            detail = f"the server is Prefect {version}, this client {ours}; their major versions must match"
            raise ServerRefused(url=self.url, status=200, detail=detail)
        settings = await self._settings()
        storage = settings.get("server", {}).get("concurrency", {}).get("lease_storage")
        return ServerInfo(
            url=self.url,
            version=version,
            lease_storage=str(storage) if storage else None,
            database=await self.database(),
        )


def detail_of(answer: httpx.Response) -> str:
    """Return a refusal's words, shortened to 200 characters for a message."""
    try:
        body = answer.json()
    except ValueError:
        return answer.text[:200]
    if isinstance(body, dict):
        body = body.get("detail") or body.get("exception_detail") or body.get("exception_message") or body
    return str(body)[:200]


def _tls_context(*, cert_file: str | None, insecure: bool) -> ssl.SSLContext:
    import certifi

    if insecure:
        # As Prefect's own setting asks: the name must be left unchecked first, or `CERT_NONE` is refused.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    return ssl.create_default_context(cafile=cert_file or certifi.where())
