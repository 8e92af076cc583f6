"""What processes use of the host's memory: the kernel's words, and real processes that share pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tests.unit.system.test_container import put

from prefect_slots.system.processes import (
    Running,
    parse_resident,
    parse_share,
    parse_stat,
    query_resident,
    query_running,
    query_share,
)

MIB = 2**20
STATUS = "Name:\tpython\nVmRSS:\t5000 kB\nRssAnon:\t4000 kB\nRssFile:\t 800 kB\nRssShmem:\t 200 kB\nThreads:\t1\n"
ROLLUP = """55dc161db000-7ffd9f716000 ---p 00000000 00:00 0                          [rollup]
Rss:                5000 kB
Pss:                4500 kB
Pss_Dirty:          4000 kB
Pss_Anon:           3000 kB
Pss_File:           1400 kB
Pss_Shmem:           100 kB
"""
# Three children that only look at what their parent has written.
FAMILY = """
import os
kept = b"x" * (60 * 2**20)
for _ in range(3):
    if not os.fork():
        os.read(0, 1)
        os._exit(0)
print("ready", flush=True)
input()
"""


def test_what_is_mapped_from_files_is_left_out():
    assert parse_resident(STATUS) == 4200 * 1024
    assert parse_share(ROLLUP) == 3100 * 1024


@pytest.mark.parametrize("text", ["", "Name:\tkthreadd\nThreads:\t1\n", "VmRSS:\t 5 kB\n", "Pss: 4 kB\n"])
def test_what_is_not_told_apart_is_unknown(text: str):
    assert (parse_resident(text), parse_share(text)) == (None, None)


def test_pages_that_processes_share_are_resident_in_each_and_the_share_of_one():
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        pids = [pid for pid, each in query_running().items() if parent.pid in (pid, each.parent)]
        resident = [query_resident(pid) or 0 for pid in pids]
        share = [query_share(pid) or 0 for pid in pids]
        parent.communicate(b"....\n")
    assert len(pids) == 4
    assert min(resident) > 60 * MIB
    assert 60 * MIB < sum(share) < 120 * MIB
    assert [query_resident(pids[0]), query_share(pids[0])] == [0, 0]


def test_another_user_s_share_is_unknown_and_not_nothing():
    code = (
        "import os\nfrom prefect_slots.system.processes import query_resident, query_share\n"
        "if not os.geteuid():\n    os.setuid(65534)\n"
        "print(query_share(1), (query_resident(1) or 0) > 0)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert told == "None True\n"


def test_this_process_is_among_those_that_run():
    own = query_running()[os.getpid()]
    assert own.parent == os.getppid()
    assert own.started > 0


def stat(parent: int, ticks: int, name: str = "python") -> str:
    return f"60 ({name}) S {parent} {' '.join(['0'] * 17)} {ticks} 0 0\n"


def test_a_parent_that_was_started_later_is_none(tmp_path: Path):
    ticks = {1: (0, 0), 50: (1, 900_00), 60: (50, 100_00), 61: (50, 901_00)}
    put(tmp_path, {f"proc/{pid}/stat": stat(parent, at) for pid, (parent, at) in ticks.items()})
    put(tmp_path, {"proc/stat": "cpu 1\n", "proc/70/stat": "", "proc/71/comm": "gone"})
    assert {pid: each.parent for pid, each in query_running(tmp_path).items()} == {1: 0, 50: 1, 60: 0, 61: 50}


@pytest.mark.parametrize("name", ["python", "a b", "x) S 99 (", "((", ""])
def test_a_program_may_be_called_anything(name: str):
    assert parse_stat(stat(7, 5 * os.sysconf("SC_CLK_TCK"), name), 100.0) == Running(parent=7, started=105.0)


def test_it_was_started_when_the_ledger_says_so():
    assert abs(query_running()[os.getpid()].started - psutil.Process().create_time()) < 0.5
