"""No change is sent twice whose answer was lost, and no answer is waited for with sleep; against a real HTTP server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import pytest
from tests.support.http_stub import HttpStub, Reply, http_stub
from tests.support.server_views import check_server

from prefect_slots.errors import LimitMissing, ServerRefused, ServerUnreachable
from prefect_slots.limits.gateway import Gateway
from prefect_slots.limits.outcome import Busy, OccupiedLease, TooLarge, UnknownOutcome

INCREMENT = "POST /api/v2/concurrency_limits/increment-with-lease"
RELEASE = "POST /api/v2/concurrency_limits/decrement-with-lease"
TAG = "GET /api/concurrency_limits/tag/a@L"
SETTINGS = "GET /api/admin/settings"
NUL_PROBE = "POST /api/variables/filter"
CSRF = "GET /api/csrf-token"
LEASE = UUID("42db412c-16c0-4240-b203-39ed9daa69fc")
GRANTED = {
    "lease_id": str(LEASE),
    "limits": [{"id": str(uuid4()), "name": name, "limit": 3} for name in ("a", "tag:a@L")],
}
BUSY_503 = Reply(status=503, body={"exception_message": "Service Unavailable"})
PROMPT_SECONDS = 1.9
"""Prefect's client sleeps about 2 s before it repeats."""


def with_gateway(scenario: Callable[[HttpStub, Gateway], Awaitable[None]], request_seconds: float = 20.0) -> float:
    """Run a scenario against a fresh stub; return the seconds it took."""

    async def run() -> float:
        async with http_stub() as stub:
            stub.script(CSRF, Reply(status=422, body={"detail": "CSRF protection is disabled."}))
            gateway = await Gateway.open("L", url=stub.url, request_seconds=request_seconds)
            started = time.monotonic()
            await scenario(stub, gateway)
            taken = time.monotonic() - started
            await gateway.close()
            return taken

    return asyncio.run(run())


async def occupy(gateway: Gateway) -> OccupiedLease:
    return await gateway.occupy(("a",), 1, uuid4(), 60.0)


def test_a_grant_is_returned_with_less_than_its_life() -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        stub.script(INCREMENT, Reply(body=GRANTED))
        lease = await occupy(gateway)
        assert lease.id == LEASE
        assert 50.0 < lease.seconds < 60.0

    with_gateway(scenario)


LOST = [
    pytest.param(Reply(fate="reset"), id="reset"),
    pytest.param(Reply(fate="close"), id="closed without a word"),
    pytest.param(Reply(body=GRANTED, fate="half"), id="broken off within the body"),
    pytest.param(Reply(fate="hang"), id="no answer in time"),
    *(pytest.param(Reply(status=code, headers={"Retry-After": "1"}), id=str(code)) for code in (408, 429, 502, 504)),
    pytest.param(Reply(status=503, body="<html>Bad gateway</html>"), id="503 of a proxy"),
]
INTERNAL_ERROR = pytest.param(Reply(status=500, body={"exception_message": "Internal Server Error"}), id="500")


@pytest.mark.parametrize("reply", [*LOST, INTERNAL_ERROR])
def test_a_change_without_a_definite_answer_is_sent_once(reply: Reply) -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        stub.script(INCREMENT, reply)
        with pytest.raises(UnknownOutcome):
            await occupy(gateway)
        assert stub.count(INCREMENT) == 1
        stub.script(RELEASE, reply)
        with pytest.raises(UnknownOutcome):
            await gateway.release(LEASE)
        assert stub.count(RELEASE) == 1

    assert with_gateway(scenario, request_seconds=0.3) < PROMPT_SECONDS


@pytest.mark.parametrize("reply", LOST)
def test_a_read_without_an_answer_is_no_unknown_outcome(reply: Reply) -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        stub.script(TAG, reply)
        with pytest.raises(ServerUnreachable):
            await gateway.find("a", uuid4())

    with_gateway(scenario, request_seconds=0.3)


def test_a_connection_that_is_refused_is_unreachable_even_after_one_that_was_not() -> None:
    async def run() -> None:
        async with http_stub() as stub:
            gateway = await Gateway.open("L", url=stub.url)
            stub.script(TAG, Reply(status=404))
            with pytest.raises(LimitMissing):
                await gateway.find("a", uuid4())
        started = time.monotonic()
        with pytest.raises(ServerUnreachable, match=stub.url.removesuffix("/api")):
            await occupy(gateway)
        assert time.monotonic() - started < PROMPT_SECONDS
        await gateway.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(status=423, headers={"Retry-After": "2.5"}), Busy),
        (Reply(status=422, body={"detail": "Slots requested is greater than the limit"}), TooLarge),
        (Reply(status=422, body={"exception_message": "Invalid request received."}), ServerRefused),
        (Reply(status=401, body={"exception_message": "Unauthorized"}), ServerRefused),
        (Reply(status=403, body={"detail": "Forbidden"}), ServerRefused),
        (Reply(status=404, body={"detail": "Not Found"}), ServerRefused),
    ],
)
def test_a_definite_refusal_has_a_type_of_its_own(reply: Reply, error: type[Exception]) -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        stub.script(INCREMENT, reply)
        with pytest.raises(error) as caught:
            await occupy(gateway)
        assert stub.count(INCREMENT) == 1
        if isinstance(caught.value, Busy):
            assert caught.value.retry_after == 2.5

    assert with_gateway(scenario) < PROMPT_SECONDS


def test_a_503_of_an_sqlite_server_is_repeated_soon() -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        stub.script(NUL_PROBE, Reply(body=[]))
        stub.script(INCREMENT, BUSY_503, BUSY_503, BUSY_503, Reply(body=GRANTED))
        assert (await occupy(gateway)).id == LEASE
        assert stub.count(INCREMENT) == 4
        assert stub.count(NUL_PROBE) == 1

    assert with_gateway(scenario) < PROMPT_SECONDS


def test_a_503_of_a_server_that_stays_busy_ends_as_not_applied() -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        stub.script(SETTINGS, Reply(body={"server": {"database": {"driver": "sqlite+aiosqlite"}}}))
        stub.script(INCREMENT, BUSY_503)
        with pytest.raises(ServerUnreachable, match="busy"):
            await occupy(gateway)
        assert stub.count(NUL_PROBE) == 0

    assert with_gateway(scenario) < 5


def test_no_change_is_lost_on_a_connection_that_the_server_closes_after_an_error() -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        error = Reply(status=500, body={"exception_message": "Internal Server Error"}, fate="last")
        stub.script(INCREMENT, error, Reply(body=GRANTED))
        with pytest.raises(UnknownOutcome, match="500"):
            await occupy(gateway)
        assert (await occupy(gateway)).id == LEASE

    with_gateway(scenario)


@pytest.mark.parametrize(
    ("driver", "answers"),
    [
        ("postgresql+asyncpg", [Reply(body=[])]),
        (None, [BUSY_503, Reply(body=[]), BUSY_503, Reply(body=[])]),
        (None, [BUSY_503]),
        (None, [Reply(status=403)]),
    ],
)
def test_a_503_of_any_other_server_is_unknown_and_not_repeated(driver: str | None, answers: list[Reply]) -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        stub.script(SETTINGS, Reply(body={"server": {"database": {"driver": driver}}}))
        stub.script(NUL_PROBE, *answers)
        stub.script(INCREMENT, BUSY_503)
        with pytest.raises(UnknownOutcome):
            await occupy(gateway)
        assert stub.count(INCREMENT) == 1

    with_gateway(scenario)


def test_a_503_to_a_read_is_repeated_whatever_the_database() -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        stub.script(TAG, BUSY_503, Reply(status=503, body="proxy"), Reply(status=404))
        with pytest.raises(LimitMissing):
            await gateway.find("a", uuid4())
        assert stub.count(TAG) == 3

    assert with_gateway(scenario) < PROMPT_SECONDS


def test_a_stale_csrf_token_is_replaced_without_sleep() -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        token = {"token": "t", "client": "c", "expiration": "2999-01-01T00:00:00Z"}
        stub.script(CSRF, Reply(body=token | {"id": str(uuid4()), "created": None, "updated": None}))
        stub.script(INCREMENT, Reply(status=403, body={"detail": "Invalid CSRF token"}), Reply(body=GRANTED))
        assert (await occupy(gateway)).id == LEASE
        assert stub.count(CSRF) == 2

    assert with_gateway(scenario) < PROMPT_SECONDS


def test_a_change_that_was_never_sent_for_want_of_a_csrf_token_is_not_unknown() -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        stub.script(CSRF, Reply(fate="reset"))
        with pytest.raises(ServerUnreachable):
            await occupy(gateway)
        assert stub.count(INCREMENT) == 0

    with_gateway(scenario)


def test_a_grant_of_only_some_names_is_given_back() -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        stub.script(INCREMENT, Reply(body={**GRANTED, "limits": [GRANTED["limits"][0]]}))
        stub.script(RELEASE, Reply(status=204))
        with pytest.raises(LimitMissing) as caught:
            await occupy(gateway)
        assert caught.value.names == ("tag:a@L",)
        assert stub.count(RELEASE) == 1

    with_gateway(scenario)


def test_a_partial_grant_that_could_not_be_given_back_is_unknown() -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        stub.script(INCREMENT, Reply(body={**GRANTED, "limits": []}))
        stub.script(RELEASE, Reply(fate="reset"))
        with pytest.raises(UnknownOutcome):
            await occupy(gateway)
        assert stub.count(RELEASE) == 1

    with_gateway(scenario)


def test_a_call_whose_caller_was_cancelled_goes_on_and_is_reported_once() -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        stub.script(INCREMENT, Reply(body=GRANTED))
        told: asyncio.Queue[OccupiedLease | BaseException] = asyncio.Queue()
        call = asyncio.create_task(gateway.occupy(("a",), 1, uuid4(), 60.0, late=told.put_nowait))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        outcome = await asyncio.wait_for(told.get(), 10)
        assert isinstance(outcome, OccupiedLease)
        assert outcome.id == LEASE
        assert stub.count(INCREMENT) == 1
        assert told.empty()

    with_gateway(scenario)


def test_a_cancelled_call_that_is_refused_reports_the_refusal() -> None:
    async def scenario(stub: HttpStub, gateway: Gateway) -> None:
        stub.script(INCREMENT, Reply(status=423))
        told: asyncio.Queue[OccupiedLease | BaseException] = asyncio.Queue()
        call = asyncio.create_task(gateway.occupy(("a",), 1, uuid4(), 60.0, late=told.put_nowait))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert isinstance(await asyncio.wait_for(told.get(), 10), Busy)

    with_gateway(scenario)


def test_a_server_that_is_no_prefect_server_is_refused_with_a_hint() -> None:
    async def run() -> None:
        async with http_stub() as stub:
            stub.script("GET /api/admin/version", Reply(body="<html>hello</html>"))
            with pytest.raises(ServerRefused, match="usually ends in /api"):
                await check_server(stub.url)

    asyncio.run(run())


def test_a_server_of_another_major_version_is_refused() -> None:
    async def run() -> None:
        async with http_stub() as stub:
            stub.script("GET /api/admin/version", Reply(body='"2.20.0"'))
            with pytest.raises(ServerRefused, match="major versions must match"):
                await check_server(stub.url)

    asyncio.run(run())


def test_without_an_address_the_server_is_unreachable() -> None:
    with pytest.raises(ServerUnreachable, match="PREFECT_API_URL is not set"):
        asyncio.run(check_server())


def test_nobody_listens() -> None:
    async def run() -> None:
        async with http_stub() as stub:
            pass
        with pytest.raises(ServerUnreachable, match=stub.url):
            await check_server(stub.url)

    asyncio.run(run())
