"""Registration on a real Prefect server: the limits equal the machine, whoever else registers and whatever is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from datetime import timedelta
from itertools import count
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from tests.support.lossy_proxy import lossy_proxy
from tests.support.prefect_server import PrefectServer

from prefect_slots.errors import LimitConflict, NameTaken, ServerUnreachable
from prefect_slots.limits.claim import Claim, read_claims, write_claim
from prefect_slots.limits.client import Server
from prefect_slots.limits.gateway import Gateway
from prefect_slots.limits.naming import mirror_of
from prefect_slots.limits.registration import RegistrationReport, read_all, register
from prefect_slots.model.registered import Stock
from prefect_slots.model.resource import Scope

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("server")]

CARDS = {0: "GPU-aaaa", 1: "GPU-bbbb"}
_numbers = count()


class Machine:
    """A machine with a name of its own, on the shared server."""

    def __init__(self, server: Server, client: PrefectClient) -> None:
        number = next(_numbers)
        self.server = server
        self.client = client
        self.name = f"Reg.{number}"
        self.ledger = f"ledger-reg-{number}"

    def stocks(self, *cards: int, cpus: int = 8) -> tuple[Stock, ...]:
        return (
            Stock(resource="cpus", scope=Scope.WORKER, cells=((0, cpus),)),
            Stock(resource="gpu_mem", scope=Scope.WORKER, cells=tuple(enumerate(cards))),
        )

    async def register(self, *stocks: Stock, **options: Any) -> RegistrationReport:
        wish: dict[str, Any] = {"machine": self.name, "ledger_id": self.ledger, "host": "h", "cards": CARDS}
        return await register(self.server, stocks=stocks, **(wish | options))

    async def limits(self) -> dict[str, int]:
        """Return the number of every limit and mirror of this machine, named without it."""
        found = await read_all(self.server)
        return {
            name.replace(self.name, "M").replace(self.ledger, "L"): limit.limit
            for name, limit in found.items()
            if self.name in name or self.ledger in name
        }


@asynccontextmanager
async def machine(server: PrefectServer, url: str | None = None) -> AsyncGenerator[Machine]:
    connection = await Server.open(url or server.url)
    async with server.client() as client:
        yield Machine(connection, client)
    await connection.close()


async def claim_of(m: Machine) -> Claim | None:
    claims = [each.claim for each in await read_claims(m.server)]
    return next((claim for claim in claims if claim is not None and claim.machine == m.name), None)


def actions(report: RegistrationReport, m: Machine) -> dict[str, str]:
    return {entry.name.replace(m.name, "M").replace(m.ledger, "L"): str(entry.action) for entry in report.entries}


def test_a_machine_is_created_then_unchanged_then_changed(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as m:
            first = await m.register(*m.stocks(24, 8))
            assert first.claim == "created"
            assert actions(first, m) == dict.fromkeys(["cpus:M", "gpu-mem:M", "gpu-mem:M:0", "gpu-mem:M:1"], "create")
            numbers = {"cpus:M": 8, "gpu-mem:M": 32, "gpu-mem:M:0": 24, "gpu-mem:M:1": 8}
            assert await m.limits() == numbers | {mirror_of(name, "L"): number for name, number in numbers.items()}
            json.dumps(asdict(first))

            again = await m.register(*m.stocks(24, 8))
            assert again.claim == "unchanged"
            assert set(actions(again, m).values()) == {"unchanged"}

            grown = await m.register(*m.stocks(24, 8, cpus=16))
            assert grown.claim == "changed"
            assert actions(grown, m)["cpus:M"] == "change"
            assert (await m.limits())["cpus:M"] == (await m.limits())["tag:cpus:M@L"] == 16

    asyncio.run(scenario())


def test_the_claim_tells_others_what_the_machine_has(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as m:
            assert await claim_of(m) is None
            await m.register(*m.stocks(24, 8))
            claim = await claim_of(m)
            assert claim is not None
            assert (claim.machine, claim.ledger_id, claim.host, claim.cards) == (m.name, m.ledger, "h", CARDS)
            assert claim.limits[f"gpu-mem:{m.name}:1"] == 8

    asyncio.run(scenario())


def test_a_dry_run_writes_nothing(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as m:
            report = await m.register(*m.stocks(24), dry_run=True)
            assert set(actions(report, m).values()) == {"create"}
            assert await m.limits() == {}
            assert await claim_of(m) is None

    asyncio.run(scenario())


def test_a_lost_card_is_orphaned_and_pruned_only_when_nothing_holds_it(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as m:
            await m.register(*m.stocks(24, 8))
            gateway = await Gateway.open(m.ledger, url=prefect_server.url)
            lease = await gateway.occupy((f"gpu-mem:{m.name}:1",), 4, uuid4(), 60.0)

            shrunk = await m.register(*m.stocks(24), prune=True)
            orphan = next(entry for entry in shrunk.entries if entry.name == f"gpu-mem:{m.name}:1")
            assert (orphan.action, orphan.held) == ("orphaned", 4)
            assert "gpu-mem:M:1" in await m.limits()

            await gateway.release(lease.id)
            await gateway.close()
            kept = await m.register(*m.stocks(24))
            assert actions(kept, m)["gpu-mem:M:1"] == "orphaned"
            assert "gpu-mem:M:1" in await m.limits()
            pruned = await m.register(*m.stocks(24), prune=True)
            assert actions(pruned, m)["gpu-mem:M:1"] == "pruned"
            assert actions(pruned, m)["tag:gpu-mem:M:1@L"] == "pruned"
            assert {"gpu-mem:M:1", "tag:gpu-mem:M:1@L"}.isdisjoint(await m.limits())

    asyncio.run(scenario())


def test_a_changed_number_leaves_what_is_held_alone(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as m:
            await m.register(*m.stocks(24))
            gateway = await Gateway.open(m.ledger, url=prefect_server.url)
            lease = await gateway.occupy((f"cpus:{m.name}",), 6, uuid4(), 60.0)
            report = await m.register(*m.stocks(24, cpus=4))
            assert next(entry.held for entry in report.entries if entry.name == f"cpus:{m.name}") == 6
            found = await gateway.read(f"cpus:{m.name}")
            assert found is not None
            assert (found.limit, found.active_slots) == (4, 6)
            assert await gateway.renew(lease.id, 60.0)
            await gateway.release(lease.id)
            await gateway.close()

    asyncio.run(scenario())


def test_a_hand_made_limit_is_a_conflict_that_writes_nothing_unless_adopted(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as m:
            hand_made = GlobalConcurrencyLimitCreate(name=f"gpu-mem:{m.name}", limit=2)
            await m.client.create_global_concurrency_limit(hand_made)
            with pytest.raises(LimitConflict, match="--adopt") as caught:
                await m.register(*m.stocks(24))
            assert (caught.value.theirs, caught.value.ours) == (2, 24)
            assert await m.limits() == {"gpu-mem:M": 2}
            assert await claim_of(m) is None
            seen = await m.register(*m.stocks(24), dry_run=True)
            assert actions(seen, m)["gpu-mem:M"] == "conflict"

            adopted = await m.register(*m.stocks(24), adopt=True)
            assert actions(adopted, m)["gpu-mem:M"] == "change"
            assert (await m.limits())["gpu-mem:M"] == 24

    asyncio.run(scenario())


def test_a_limit_that_was_switched_off_is_a_conflict_with_its_remedy(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as m:
            await m.register(*m.stocks(24))
            off = GlobalConcurrencyLimitUpdate(active=False)
            await m.client.update_global_concurrency_limit(f"cpus:{m.name}", off)
            with pytest.raises(LimitConflict, match=f"prefect gcl enable 'cpus:{m.name}'"):
                await m.register(*m.stocks(24), adopt=True)

    asyncio.run(scenario())


def test_a_second_ledger_cannot_take_the_name_unless_it_adopts(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as m:
            await m.register(*m.stocks(24))
            with pytest.raises(NameTaken) as caught:
                await m.register(*m.stocks(48), ledger_id="thief")
            assert (caught.value.theirs, caught.value.host) == (m.ledger, "h")
            assert (await m.limits())["gpu-mem:M"] == 24

            taken = await m.register(*m.stocks(48), ledger_id=f"{m.ledger}-heir", adopt=True, prune=True)
            assert taken.claim == "adopted"
            assert actions(taken, m)["gpu-mem:M"] == "change"
            assert actions(taken, m)["tag:gpu-mem:M@L"] == "pruned"
            limits = await m.limits()
            assert limits["gpu-mem:M"] == limits["tag:gpu-mem:M@L-heir"] == 48
            assert "tag:gpu-mem:M@L" not in limits
            with pytest.raises(NameTaken):
                await m.register(*m.stocks(24))

    asyncio.run(scenario())


def test_names_that_differ_only_in_case_are_two_machines(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as m:
            await m.register(*m.stocks(24))
            other = await m.register(*m.stocks(24), machine=m.name.lower(), ledger_id=f"{m.ledger}-other")
            assert other.claim == "created"

    asyncio.run(scenario())


def fleet(seats: int, feature: str, *, declared: bool = False) -> Stock:
    return Stock(resource=f"license.{feature}", scope=Scope.FLEET, cells=((0, seats),), declared=declared)


def test_an_outdated_machine_does_not_undo_the_fleet_s_number(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as a, machine(prefect_server) as b:
            feature = f"f{a.ledger}"
            await a.register(fleet(2, feature))
            joined = await b.register(fleet(2, feature))
            assert {entry.name: str(entry.action) for entry in joined.entries}[f"license:{feature}"] == "unchanged"
            await a.register(fleet(3, feature))
            outdated = await b.register(fleet(2, feature))
            (told,) = [entry for entry in outdated.entries if entry.name == f"license:{feature}"]
            assert "--adopt" in told.problem
            assert (await read_all(b.server))[f"license:{feature}"].limit == 3
            updated = await b.register(fleet(3, feature))
            assert updated.claim == "changed"
            mirror = (await read_all(b.server))[mirror_of(f"license:{feature}", b.ledger)]
            assert mirror.limit == 3

    asyncio.run(scenario())


def test_a_declared_number_of_the_fleet_has_one_owner_and_nobody_is_refused_for_it(
    prefect_server: PrefectServer,
) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as a, machine(prefect_server) as b:
            feature = f"o{a.ledger}"
            name, resource = f"license:{feature}", f"license.{feature}"

            async def number() -> int:
                return (await read_all(a.server))[name].limit

            assert (await a.register(fleet(2, feature, declared=True))).notes == {}
            # Another number of another machine: it runs on the owner's, and says whose.
            joined = await b.register(fleet(3, feature, declared=True))
            assert joined.fleet == {resource: 2}
            assert f"declared by '{a.name}'" in joined.notes[name]
            assert await number() == 2
            assert (await read_all(b.server))[mirror_of(name, b.ledger)].limit == 2
            # The owner's edit counts at once; the newest adoption makes another owner.
            assert (await a.register(fleet(4, feature, declared=True))).notes == {}
            assert await number() == 4
            assert (await b.register(fleet(3, feature, declared=True))).fleet == {resource: 4}
            # The clock of the owner's machine was a year ahead when it declared.
            claim = await claim_of(a)
            assert claim is not None
            ahead = {name: claim.owned[name] + timedelta(days=365)}
            await write_claim(a.server, replace(claim, owned=ahead), replace=True)
            adopted = await b.register(fleet(3, feature, declared=True), adopt=True)
            assert (adopted.fleet, adopted.notes) == ({resource: 3}, {})
            assert await number() == 3
            assert f"declared by '{b.name}'" in (await a.register(fleet(4, feature, declared=True))).notes[name]
            assert await number() == 3
            # A person's number: the owner puts back what is too high, and keeps what is low.
            for theirs, after in ((9, 3), (1, 1)):
                await a.client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=theirs))
                await a.register(fleet(4, feature, declared=True))
                assert await number() == theirs
                await b.register(fleet(3, feature, declared=True))
                assert await number() == after

    asyncio.run(scenario())


def test_a_fleet_s_limit_is_not_pruned_while_another_machine_uses_it(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as a, machine(prefect_server) as b:
            name = f"license:g{a.ledger}"
            for one in (a, b):
                await one.register(fleet(2, f"g{a.ledger}"))
            await a.register(prune=True)
            left = await read_all(a.server)
            assert name in left
            assert mirror_of(name, b.ledger) in left
            assert mirror_of(name, a.ledger) not in left
            await b.register(prune=True)
            assert name not in await read_all(b.server)

    asyncio.run(scenario())


def test_workers_that_register_at_once_agree(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as a, machine(prefect_server) as b:
            feature = f"c{a.ledger}"
            stocks = (*a.stocks(24, 8), fleet(2, feature))
            connections = [await Server.open(prefect_server.url) for _ in range(2)]
            workers = [Machine(connection, a.client) for connection in connections]
            for worker in workers:
                worker.name, worker.ledger = a.name, a.ledger
            reports = await asyncio.gather(
                *(worker.register(*stocks) for worker in workers), b.register(fleet(2, feature))
            )
            created = [entry.name for report in reports for entry in report.entries if entry.action == "create"]
            assert len(created) == len(set(created)) == 7
            assert (await a.limits())["gpu-mem:M"] == 32
            for connection in connections:
                await connection.close()

    asyncio.run(scenario())


def test_two_ledgers_that_claim_a_name_at_once_do_not_both_get_it(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as m:
            ledgers = [f"{m.ledger}-{n}" for n in range(3)]
            outcomes = await asyncio.gather(
                *(m.register(*m.stocks(24), ledger_id=ledger) for ledger in ledgers), return_exceptions=True
            )
            winners = [outcome for outcome in outcomes if isinstance(outcome, RegistrationReport)]
            assert len(winners) == 1
            assert sum(isinstance(outcome, NameTaken) for outcome in outcomes) == 2
            mirrors = {name.partition("@")[2] for name in await m.limits() if "@" in name}
            assert mirrors == {winners[0].ledger_id.replace(m.ledger, "L")}

    asyncio.run(scenario())


@pytest.mark.parametrize("request_path", ["POST /api/variables/ ", "POST /api/v2/concurrency_limits/ "])
def test_a_registration_whose_answer_is_lost_reads_again(prefect_server: PrefectServer, request_path: str) -> None:
    async def scenario() -> None:
        async with lossy_proxy(prefect_server.url) as proxy, machine(prefect_server, proxy.url) as m:
            proxy.lose_answer_to(request_path)
            report = await m.register(*m.stocks(24))
            assert proxy.lost == 1
            assert report.claim == "created"
            assert (await m.limits())["gpu-mem:M"] == 24

    asyncio.run(scenario())


def test_more_limits_than_a_page(prefect_server: PrefectServer) -> None:
    async def scenario() -> None:
        async with machine(prefect_server) as m:
            bays = Stock(resource="bay", scope=Scope.WORKER, cells=tuple((number, 1) for number in range(110)))
            await m.register(bays)
            limits = await m.limits()
            assert len(limits) == 222
            again = await m.register(bays)
            assert {entry.action for entry in again.entries} == {"unchanged"}

    asyncio.run(scenario())


def test_an_unreachable_server_is_named() -> None:
    async def scenario() -> None:
        server = await Server.open("http://127.0.0.1:9/api")
        with pytest.raises(ServerUnreachable, match=r"http://127\.0\.0\.1:9/api"):
            await register(server, machine="m", ledger_id="L", host="h", stocks=[], cards={})
        await server.close()

    asyncio.run(scenario())
