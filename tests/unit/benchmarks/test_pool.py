"""The pools' benchmark: what is compared with what, and that nothing of a session is overlooked or left behind."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmarks import pool, pool_session
from benchmarks.case import Measured
from benchmarks.pool_peers import WORKERS
from benchmarks.pool_session import Session, session
from tests.support.processes import SharedMachine

CAPACITIES = {"scanner": 2, "seat": 2, "single": 1}
# Its child ends, and what that has started lives on, in a session of its own.
LEAVES_ONE_BEHIND = """
import subprocess, sys
child = "import subprocess, sys; subprocess.Popen(['sleep', '1000'], start_new_session=True)"
subprocess.run([sys.executable, "-c", child], check=True)
print(0.5, flush=True)
sys.stdin.read()
"""


def number(case: str, peer: str, value: float) -> Measured:
    return Measured(case=case, peer=peer, metric="median", value=value, unit="ms")


def test_hand_off_is_held_to_the_better_of_ray_and_dask() -> None:
    measured = [number(pool.ALIKE, peer, value) for peer, value in (("ours", 0.6), ("ray", 2.0), ("dask", 1.0))]
    assert [(bar.text, bar.value, bar.met) for bar in pool.bars(measured)] == [
        ("hand-off, one kind: ours / ray or dask", 0.6, False)
    ]


def test_tasks_a_second_have_a_bar_for_each_peer_that_was_measured() -> None:
    measured = [number(pool.MANY, peer, value) for peer, value in (("ours", 5000), ("ray", 2000), ("bound", 12500))]
    assert [(bar.value, bar.at_least, bar.met) for bar in pool.bars(measured)] == [(2.5, 2.5, True), (0.4, 0.4, True)]


@pytest.mark.parametrize("peer", ["ours", "bound"])
def test_a_session_does_what_is_measured_and_ends(peer: str, tmp_path: Path) -> None:
    config = "".join(f"[resources.{name}]\ncapacity = {number}\n" for name, number in CAPACITIES.items())
    machine = SharedMachine(tmp_path, config)
    with session(peer, machine.settings, tmp_path / "log") as started:
        assert started.startup > 0
        while started.ask("pids", 4) < WORKERS:
            pass  # one still starts
        assert started.ask("many", 20) > 0
        assert min(started.ask("alike", 5)) >= 0
        assert len(started.ask("unlike", 6)) == 5
        processes = started.processes()
        assert len(processes) > WORKERS
        assert started.memory() > len(processes) * 2**20
    assert not started.processes()


def test_what_has_left_its_parent_is_counted_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_session, "ENDING_SECONDS", 0.1)
    started = Session([sys.executable, "-c", LEAVES_ONE_BEHIND], {}, tmp_path / "log")
    assert started.startup == 0.5
    left = [process for process in started.processes() if process.name() == "sleep"]
    assert [process.ppid() == started.pid for process in left] == [False]
    started.end()
    assert not started.processes()


def test_a_session_that_fails_says_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such peer"):
        Session([sys.executable, "-c", "raise SystemExit('no such peer')"], {}, tmp_path / "log")
