"""A map's progress: what is done, runs and waits, and what for."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console
from tests.unit.pool import calls

from prefect_slots import SlotPool
from prefect_slots.pool.progress import Progress, shown
from prefect_slots.pool.task import results_of


def drawn(progress: Progress) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(progress)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_it_says_what_runs_and_what_the_rest_waits_for(pool: SlotPool, tmp_path: Path) -> None:
    futures = [pool.submit(calls.hold, tmp_path, name, requires={"scanner": 1}) for name in ("a", "b", "c")]
    progress = Progress("scan", futures, pool.reasons)
    calls.begun(tmp_path, "a")
    text = drawn(progress)
    assert "scan" in text
    assert "0 done, 1 running, 2 waiting" in text
    assert "waits for 1 of scanner; 0 free" in text
    futures[2].cancel()
    calls.release(tmp_path, "a", "b")
    assert [future.result(30) for future in futures[:2]] == ["a", "b"]
    assert "3 done, 0 running, 0 waiting, 1 failed" in drawn(progress)


def test_results_come_through_while_it_is_shown(pool: SlotPool, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(pool.map(calls.double, range(3), requires={"scanner": 1}, progress=True)) == [0, 2, 4]
    assert "3 done, 0 running, 0 waiting" in capsys.readouterr().err
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    futures = [pool.submit(calls.double, n) for n in range(2)]
    assert list(shown(results_of(futures, None), futures, "double", pool.reasons, console)) == [0, 2]
    assert isinstance(console.file, io.StringIO)
    assert "2 done" in console.file.getvalue()
