"""What processes use of the host's memory: the kernel's words, and real processes that share pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.polling import until
from tests.unit.system.test_container import put

from prefect_slots.system.processes import (
    ProcessInfo,
    descendants,
    has_ended,
    is_running,
    named,
    parse_locks,
    parse_resident,
    parse_share,
    parse_stat,
    query_lineage,
    query_resident,
    query_share,
    query_table,
    same_start,
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
        pids = [pid for pid, each in query_table().items() if parent.pid in (pid, each.parent)]
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
    own = query_table()[os.getpid()]
    assert own.parent == os.getppid()
    assert own.started > 0


def stat(parent: int, ticks: int, name: str = "python") -> str:
    return f"60 ({name}) S {parent} {' '.join(['0'] * 17)} {ticks} 0 0\n"


def test_a_parent_that_was_started_later_is_none(tmp_path: Path):
    ticks = {1: (0, 0), 50: (1, 900_00), 60: (50, 100_00), 61: (50, 901_00)}
    put(tmp_path, {f"proc/{pid}/stat": stat(parent, at) for pid, (parent, at) in ticks.items()})
    put(tmp_path, {"proc/stat": "cpu 1\n", "proc/70/stat": "", "proc/71/comm": "gone"})
    assert {pid: each.parent for pid, each in query_table(tmp_path).items()} == {1: 0, 50: 1, 60: 0, 61: 50}


@pytest.mark.parametrize("name", ["python", "a b", "x) S 99 (", "((", ""])
def test_a_program_may_be_called_anything(name: str):
    assert parse_stat(stat(7, 5 * os.sysconf("SC_CLK_TCK"), name), 100.0) == ProcessInfo(
        parent=7, started=105.0, name=name
    )


def test_it_was_started_when_the_ledger_says_so():
    assert abs(query_table()[os.getpid()].started - psutil.Process().create_time()) < 0.5


@pytest.mark.parametrize("seconds", [0.0, 0.4, 1.0, -1.0])
def test_a_clock_set_between_two_readings_makes_no_other_process(seconds: float):
    started = psutil.Process().create_time()
    assert same_start(started, started + seconds)
    assert is_running(os.getpid(), started + seconds)
    assert is_running(os.getpid(), started + seconds, query_table())


def test_a_process_started_at_another_time_is_another():
    own = os.getpid()
    for started in (0.0, psutil.Process().create_time() - 2.0, psutil.Process().create_time() + 2.0):
        assert not is_running(own, started)
        assert not is_running(own, started, query_table())
    assert not is_running(2**22 + 1, 0.0)
    assert not is_running(own, psutil.Process().create_time(), {})


def test_lineage_goes_up_to_the_first_process():
    lineage = query_lineage([os.getpid(), 2**22 + 1])
    assert lineage[os.getpid()].parent == os.getppid()
    assert lineage[os.getpid()].name == psutil.Process().name()
    assert {os.getpid(), os.getppid(), 1} <= lineage.keys()
    assert lineage.keys() <= {0, *psutil.pids()}


def test_a_family_of_real_processes_is_found_from_its_oldest():
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE)\n"
        "print(child.pid, flush=True)\n"
        "input()\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert descendants([parent.pid], query_table()) == {parent.pid, child}
        assert descendants([child], query_table()) == {child}
        parent.communicate("\n")


PIDS = st.integers(1, 9)
SETS = st.sets(PIDS)
PROCESSES = {
    1: ProcessInfo(started=0.0, parent=0, name="init"),
    10: ProcessInfo(started=0.0, parent=1, name="Xorg"),
    20: ProcessInfo(started=0.0, parent=1, name="python"),
    21: ProcessInfo(started=0.0, parent=20, name="python"),
    22: ProcessInfo(started=0.0, parent=21, name="ffmpeg"),
    30: ProcessInfo(started=0.0, parent=1, name="python"),
}


def test_a_family_is_all_descendants_and_a_process_that_is_gone_is_its_own():
    assert descendants([20], PROCESSES) == {20, 21, 22}
    assert descendants([22, 99], PROCESSES) == {22, 99}
    assert descendants([], PROCESSES) == set()


@settings(deadline=None)
@given(parents=st.dictionaries(PIDS, st.integers(0, 9)), roots=SETS)
def test_a_family_is_the_smallest_set_that_holds_its_children(parents: dict[int, int], roots: set[int]):
    processes = {pid: ProcessInfo(started=0.0, parent=parent, name="") for pid, parent in parents.items()}
    found = descendants(roots, processes)
    assert roots <= found
    assert all(pid in found for pid, parent in parents.items() if parent in found)
    assert all(pid in roots or parents[pid] in found for pid in found)


def test_programs_are_found_by_their_whole_names():
    assert named({"Xorg", "ffm"}, PROCESSES) == {10}


LOCKS = """\
1: FLOCK  ADVISORY  WRITE 77 fd:01:9 0 EOF
2: POSIX  ADVISORY  READ  11 fd:01:42 124 124
3: POSIX  ADVISORY  WRITE 12 fd:01:42 121 121
4: POSIX  ADVISORY  WRITE 13 fd:02:42 120 120
5: POSIX  ADVISORY  WRITE 14 fd:01:43 120 120
6: POSIX  ADVISORY  WRITE 15 fd:01:42 120 120
6: -> POSIX  ADVISORY  WRITE 16 fd:01:42 120 120
"""


def test_of_all_locks_only_the_writer_s_on_this_file_counts() -> None:
    assert parse_locks(LOCKS, (0xFD, 1), 42, 120) == 15
    assert parse_locks(LOCKS, (0xFD, 2), 42, 120) == 13
    assert parse_locks(LOCKS, (0xFD, 1), 41, 120) is None
    assert parse_locks("no such thing", (0xFD, 1), 42, 120) is None


def test_a_process_that_nobody_has_reaped_has_ended():
    with subprocess.Popen(["true"]) as child:
        started = psutil.Process(child.pid).create_time()
        until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, 30, what="the zombie")
        assert has_ended(child.pid, started)
    assert has_ended(child.pid, started)
    assert not has_ended(os.getpid(), psutil.Process().create_time())
    assert has_ended(os.getpid(), psutil.Process().create_time() - 60)
