"""A process killed at each point at which a crash leaves something: the next gets everything, then nothing is left."""

from __future__ import annotations

import contextvars
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.boxes import Box
from tests.bystander import everything, registered, take_everything, watch
from tests.forked import Forked, Needs
from tests.polling import until
from tests.prefect_server import PrefectServer

from prefect_slots import requires
from prefect_slots.ledger.points import Point

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("server")]

# Reached by the repair of a restarted server only.
OF_REPAIR = {Point.LATCHED, Point.REPAIR_WRITTEN, Point.REPAIRED}
# A call whose process died before the answer is settled by the protocol's 15 s of silence, not sooner.
SETTLING = 60.0


def several(box: Box) -> Needs:
    """What takes three calls to the server: both cards together, each card, the seats."""
    return {"gpu_mem": 24, "gpus": 2, "license": {box.matlab: 2}}


@pytest.fixture
def box(prefect_server: PrefectServer, tmp_path: Path) -> Iterator[Box]:
    """A machine in which this process takes part."""
    with registered(Box(tmp_path, prefect_server.url)) as made:
        yield made


def killed_in_its_life() -> list[Any]:
    """Return every point, with one limit and with several; of several calls it is the second that is cut off."""
    cases: list[Any] = []
    for point in [point for point in Point if point not in OF_REPAIR]:
        for kind in ("one limit", "several"):
            once = point in (Point.GRANTED, Point.CELLS_FREED)
            first = kind == "one limit" and point not in (Point.IN_TRANSACTION, Point.COMMITTED)
            marks = [pytest.mark.slow] if point is Point.INTENT_WRITTEN else []
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
    "point", [Point.IN_TRANSACTION, Point.COMMITTED, Point.CELLS_FREED, Point.LEASE_RELEASED], ids=lambda p: p.value
)
def test_who_waits_is_served_though_the_holder_is_killed_as_it_gives_back(box: Box, point: Point) -> None:
    holder = Forked(box, several(box), dies_at=(point, 1), counting="leaving")
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


@pytest.mark.parametrize("point", [None, Point.GRANTED, Point.LEASE_TAKEN], ids=str)
def test_a_waiter_is_killed_in_the_queue_or_when_its_turn_has_come(box: Box, point: Point | None) -> None:
    watch(box)
    with requires(**everything(box)):
        waiter = Forked(box, several(box), dies_at=(point, 1) if point else None)
        until(lambda: box.rows("ticket") == 1, what="the waiter")
        if point is None:
            assert waiter.kill() == -signal.SIGKILL
            until(lambda: box.rows("ticket") == 0, what="its leaving the queue")
    if point is not None:
        assert waiter.ended() == -signal.SIGKILL
    take_everything(box)
    box.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("point", "nth"),
    [
        (Point.IN_TRANSACTION, 3),
        (Point.COMMITTED, 2),
        (Point.COMMITTED, 3),
        # It dies with a call of its own unanswered.
        pytest.param(Point.LEASE_RELEASED, 1, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_who_clears_up_after_a_killed_holder_is_killed_too(box: Box, point: Point, nth: int) -> None:
    # A newcomer's first transaction enrols it, the second frees the dead one's cells, the third takes over its leases.
    holder = Forked(box, several(box))
    assert holder.holds()
    assert holder.kill() == -signal.SIGKILL
    assert Forked(box, {"cpus": 1}, dies_at=(point, nth)).dies() == -signal.SIGKILL
    assert box.rows("lease") > 0
    watch(box)
    take_everything(box)
    box.assert_nothing_is_left(SETTLING)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_at_every_step_of_a_whole_life(box: Box) -> None:
    watch(box)
    whole = Forked(box, several(box))
    assert whole.dies() == 0
    assert set(whole.points) == set(Point) - OF_REPAIR
    step = 0
    while True:
        step += 1
        until(lambda: box.rows("owner") == 1, what="the end of whoever was killed before")
        code = Forked(box, several(box), dies_at=(None, step)).dies()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        take_everything(box)
    assert step > len(whole.points) / 2
    box.assert_nothing_is_left(SETTLING)
