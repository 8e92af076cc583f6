"""A process killed at each point at which a crash leaves something: the next gets everything, then nothing is left."""

from __future__ import annotations

import contextvars
import signal
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from tests.support.boxes import Box
from tests.support.bystander import everything, registered, take_everything, watch
from tests.support.forked import Forked, Needs
from tests.support.polling import until
from tests.support.prefect_server import PrefectServer

from prefect_slots import requires
from prefect_slots.ledger.failpoints import Point
from prefect_slots.limits.naming import mirror_of

pytestmark = [
    pytest.mark.server,
    pytest.mark.xdist_group("faults"),
    # Connections that Prefect's own flow engine left open in earlier tests are closed by the garbage collector here.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

# Reached by the repair of a restarted server only.
OF_REPAIR = {Point.LATCHED, Point.REPAIR_WRITTEN, Point.REPAIRED}
# A call whose process died before the answer is settled by the protocol's 15 s of silence, not sooner.
SETTLING = 60.0


def several(box: Box) -> Needs:
    """What takes three calls to the server: both cards together, each card, the seats."""
    return {"gpu_mem": 24, "gpus": 2, "license": {box.matlab: 2}}


def part(box: Box) -> Needs:
    """What nobody else here asks exactly so much of, so that its leases are handed over to nobody."""
    return {"gpu_mem": 8, "license": {box.matlab: 1}}


AS_IT_GIVES_BACK = (Point.IN_TRANSACTION, Point.COMMITTED, Point.CELLS_FREED, Point.LEASE_RELEASED)
NEVER = (Point.LEASE_RELEASED, several)  # whoever waits for everything is handed those leases


@pytest.fixture
def box(prefect_server: PrefectServer, tmp_path: Path) -> Iterator[Box]:
    """A machine in which this process takes part."""
    with registered(Box(tmp_path, prefect_server.url)) as made:
        yield made


def ledger_id(box: Box) -> str:
    with closing(sqlite3.connect(box.state / "ledger.sqlite3")) as connection:
        return str(connection.execute("SELECT value FROM meta WHERE key='ledger_id'").fetchone()[0])


def killed_in_its_life() -> list[Any]:
    """Return every point, with one limit and with several; of several calls it is the second that is cut off."""
    cases: list[Any] = []
    for point in [point for point in Point if point not in OF_REPAIR]:
        for kind in ("one limit", "several"):
            once = point in (Point.GRANTED, Point.CELLS_FREED)
            first = kind == "one limit" and point not in (Point.IN_TRANSACTION, Point.COMMITTED)
            # One limit is a part of several; the settling of an intent takes the protocol's 15 s.
            marks = [pytest.mark.slow] if kind == "one limit" or point is Point.INTENT_WRITTEN else []
            nth = 1 if once or first else 2
            cases.append(pytest.param(point, nth, kind, marks=marks, id=f"{point.value}, {kind}"))
    return cases


@pytest.mark.parametrize(("point", "nth", "kind"), killed_in_its_life())
def test_the_next_gets_everything_and_nothing_is_left(box: Box, point: Point, nth: int, kind: str) -> None:
    watch(box)
    needs: Needs = {"scanner": 1} if kind == "one limit" else several(box)
    assert Forked(box, needs, dies_at=(point, nth)).dies() == -signal.SIGKILL
    take_everything(box)
    box.assert_nothing_is_left(SETTLING)


@pytest.mark.parametrize(
    ("point", "needs"),
    [
        *((point, several) for point in AS_IT_GIVES_BACK if (point, several) != NEVER),
        *(pytest.param(point, part, marks=pytest.mark.slow) for point in AS_IT_GIVES_BACK),
    ],
    ids=lambda what: what.value if isinstance(what, Point) else what.__name__,
)
def test_who_waits_is_served_though_the_holder_is_killed_as_it_gives_back(
    box: Box, point: Point, needs: Callable[[Box], Needs]
) -> None:
    holder = Forked(box, needs(box), dies_at=(point, 1), counting="leaving")
    assert holder.holds()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(contextvars.copy_context().run, take_everything, box)
        until(lambda: box.rows("ticket") == 1, what="the waiter")
        holder.leave()
        assert holder.ended() == -signal.SIGKILL
        waiting.result(60)
    box.assert_nothing_is_left()


def test_a_holder_is_killed(box: Box) -> None:
    watch(box)
    holder = Forked(box, several(box))
    assert holder.holds()
    assert len(box.limits()) == 5
    assert holder.kill() == -signal.SIGKILL
    take_everything(box)
    box.assert_nothing_is_left()


@pytest.mark.parametrize("kind", ["with what was handed over", "with nothing yet"])
def test_a_waiter_is_killed_when_its_turn_has_come(box: Box, kind: str) -> None:
    watch(box)
    with requires(**everything(box)):
        needs = several(box) if kind == "with what was handed over" else part(box)
        waiter = Forked(box, needs, dies_at=(Point.GRANTED, 1))
        until(lambda: box.rows("ticket") == 1, what="the waiter")
    assert waiter.ended() == -signal.SIGKILL
    take_everything(box)
    box.assert_nothing_is_left()


def test_a_waiter_is_killed_in_the_queue(box: Box) -> None:
    watch(box)
    with requires(**everything(box)):
        waiter = Forked(box, several(box))
        until(lambda: box.rows("ticket") == 1, what="the waiter")
        assert waiter.kill() == -signal.SIGKILL
        until(lambda: box.rows("ticket") == 0, what="its leaving the queue")
    take_everything(box)
    box.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("point", "nth"),
    [
        *((Point.IN_TRANSACTION, nth) for nth in (2, 4)),
        *((Point.COMMITTED, nth) for nth in (2, 4)),
        # It dies with a call of its own unanswered.
        pytest.param(Point.LEASE_RELEASED, 1, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_who_clears_up_after_a_killed_holder_is_killed_too(box: Box, point: Point, nth: int) -> None:
    # A newcomer enrols, frees the dead one's cells, enrols at the server, then takes over the dead one's leases.
    holder = Forked(box, several(box))
    assert holder.holds()
    assert holder.kill() == -signal.SIGKILL
    assert Forked(box, {"cpus": 1}, dies_at=(point, nth)).dies() == -signal.SIGKILL
    assert box.rows("lease") > 0
    watch(box)
    take_everything(box)
    box.assert_nothing_is_left(SETTLING)


@pytest.mark.parametrize(
    "point",
    [
        Point.LATCHED,
        # The next does not subtract before it is sure that the dead one's request has come or never will.
        pytest.param(Point.REPAIR_WRITTEN, marks=pytest.mark.slow),
        pytest.param(Point.REPAIRED, marks=pytest.mark.slow),
    ],
    ids=lambda p: p.value,
)
def test_who_repairs_a_count_is_killed(box: Box, monkeypatch: pytest.MonkeyPatch, point: Point) -> None:
    box.env["PREFECT_SLOTS_REFRESH_SECONDS"] = "1"
    monkeypatch.setenv("PREFECT_SLOTS_REFRESH_SECONDS", "1")
    forgotten = [f"scanner:{box.name}", mirror_of(f"scanner:{box.name}", ledger_id(box))]
    # What a server that has lost its leases at a restart still counts.
    body = {"names": forgotten, "slots": 1, "mode": "concurrency"}
    box.send("POST", "v2/concurrency_limits/increment", body)
    assert set(box.active()) == set(forgotten)
    repairing = Forked(box, {"cpus": 1}, dies_at=(point, 1))
    repairing.holds()
    assert repairing.ended() == -signal.SIGKILL
    watch(box)
    take_everything(box)
    box.assert_nothing_is_left(SETTLING)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_every_step_of_a_life_beside_a_worker(box: Box) -> None:
    watch(box)
    whole = Forked(box, several(box))
    assert whole.dies() == 0
    assert set(whole.points) == set(Point) - OF_REPAIR
    for step in count(1):
        until(lambda: box.rows("owner") == 1, SETTLING, what="the end of whoever was killed before")
        code = Forked(box, several(box), dies_at=(None, step)).dies()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        take_everything(box)
    box.assert_nothing_is_left(SETTLING)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_every_step_of_a_life_alone(prefect_server: PrefectServer, tmp_path: Path) -> None:
    machines: list[Box] = []
    with ExitStack() as registrations:
        for step in count(1):
            folder = tmp_path / str(step)
            folder.mkdir()
            machines.append(registrations.enter_context(registered(Box(folder, prefect_server.url))))
            code = Forked(machines[-1], several(machines[-1]), dies_at=(None, step)).dies()
            watch(machines[-1])
            take_everything(machines[-1])
            if code == 0:
                break
            assert code == -signal.SIGKILL
        for machine in machines:
            machine.assert_nothing_is_left(SETTLING)
