"""Notes in the ledger of the grant that a task process serves: made when it begins, gone with the grant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.support.polling import until
from tests.support.processes import SharedMachine
from tests.unit.pool import calls

from prefect_slots import SlotPool, current_grant
from prefect_slots.acquire import client

MEMORY = {"mem": 1}


def serving(machine: SharedMachine) -> list[tuple[Any, ...]]:
    return machine.all("SELECT held, pid FROM serving ORDER BY rowid")


def grant() -> str:
    mine = current_grant()
    assert mine is not None
    return mine.id


def hold_in_turn(pool: SlotPool, folder: Path) -> None:
    """Submit what uses this task's grant, and then wait."""
    assert pool.submit(calls.hold, folder, "inner").result(60) == "inner"
    calls.hold(folder, "outer")


def test_grants_of_memory_are_noted_with_their_processes_and_others_are_not(
    pool: SlotPool, machine: SharedMachine, tmp_path: Path
) -> None:
    wants: dict[str, dict[str, Any]] = {"seat": {"license": "ansys"}, "card": {"gpu_mem": 8}, "host": MEMORY}
    held: dict[str, int] = {}
    for name, needs in wants.items():
        pool.submit(calls.hold, tmp_path, name, requires=needs)
        held[name] = calls.begun(tmp_path, name)
    until(lambda: {pid for _, pid in serving(machine)} >= {held["host"]}, what="the last one noted")
    assert sorted(pid for _, pid in serving(machine)) == sorted([held["card"], held["host"]])
    calls.release(tmp_path, *wants)
    until(lambda: serving(machine) == [], what="an end of all of them")


@pytest.mark.usefixtures("machine")
def test_a_grant_is_noted_once_however_many_tasks_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[str] = []
    note = client.note_serving

    def counted(target: client.Target, pid: int, started: float, held: str) -> None:
        noted.append(held)
        note(target, pid, started, held)

    monkeypatch.setattr(client, "note_serving", counted)
    with SlotPool(1) as pool:
        grants = [future.result(30) for future in [pool.submit(grant, requires=MEMORY) for _ in range(100)]]
    assert sorted(noted) == sorted(set(grants))
    assert len(noted) < 100


def test_a_process_is_that_of_the_grant_that_it_serves_now(
    pool: SlotPool, machine: SharedMachine, tmp_path: Path
) -> None:
    pids: list[int] = []
    seen: list[Any] = []
    for name in ("first", "second"):
        pool.submit(calls.hold, tmp_path, name, requires=MEMORY)
        pids.append(calls.begun(tmp_path, name))
        until(lambda pid=pids[-1]: [row[1] for row in serving(machine)] == [pid], what="one process noted")
        ((held, _),) = serving(machine)
        assert machine.all("SELECT id, for_children FROM held") == [(held, 1)]
        seen.append(held)
        calls.release(tmp_path, name)
        until(lambda: machine.count("held") == 0, what="its end")
    assert pids[0] == pids[1]
    assert seen[0] != seen[1]


def test_who_does_what_a_task_has_submitted_serves_its_grant_as_long_as_it_does_that(
    pool: SlotPool, machine: SharedMachine, tmp_path: Path
) -> None:
    pool.submit(hold_in_turn, pool, tmp_path, requires=MEMORY)
    inner = calls.begun(tmp_path, "inner")
    until(lambda: len(serving(machine)) == 2, what="both processes")
    (first, own), second = serving(machine)
    assert second == (first, inner)
    calls.release(tmp_path, "inner")
    assert calls.begun(tmp_path, "outer") == own
    other = pool.submit(calls.hold, tmp_path, "other")
    assert calls.begun(tmp_path, "other") == inner
    until(lambda: serving(machine) == [(first, own)], what="the grant's own process alone")
    calls.release(tmp_path, "outer", "other")
    assert other.result(30) == "other"
