"""Real processes that use memory under grants of a real ledger: whose it is, and what is more than was declared."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from tests.support.processes import member

from prefect_slots.ledger import queries, registry, usage
from prefect_slots.ledger.store import Ledger
from prefect_slots.model.book import TOKEN, Asked, Ended, Shape, Ticket
from prefect_slots.model.request import Request
from prefect_slots.model.requirement import declare
from prefect_slots.model.resource import MEM, Cell, Inventory, Resource
from prefect_slots.usage import memory
from prefect_slots.usage.memory import note_memory, read_memory
from prefect_slots.usage.overuse import Group, Noted

# Writes that many MiB, has children that only look at it, and may leave one behind that is nobody's descendant.
USES = """
import os, sys
mib, children, orphan = map(int, sys.argv[1:])
if orphan:
    if os.fork():
        os._exit(0)
    os.setsid()
kept = b"x" * (mib * 2**20)
for _ in range(children):
    if not os.fork():
        os.read(0, 1)
        os._exit(0)
print(os.getpid(), flush=True)
os.read(0, 1)
"""


class Host:
    """A ledger of a machine with 64 GiB, in which this process holds memory for the others."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.rests: dict[int, float] = {}
        mem = Resource(name=MEM, unit="MiB", cells=(Cell(key="0", capacity=65536),), origin="host")
        cores = Resource(name="cpus", unit="cores", cells=(Cell(key="0", capacity=8),), origin="host")
        ledger.transact(lambda tx: registry.register(tx, Inventory(resources=(cores, mem))))

    def hold(self, ticket: str, *, for_children: bool = False, **needs: float) -> None:
        shape = Shape(requirement=declare(**needs), priority=0)
        request = Request(label=f"{ticket} (flow.py:1)", for_children=for_children)
        self.ledger.transact(
            lambda tx: tx.apply(Asked(shape=shape, ticket=Ticket(id=ticket, seq=tx.next_seq())), request)
        )

    def command(self, pid: int, started: float | None = None) -> None:
        at = psutil.Process(pid).create_time() if started is None else started
        self.ledger.transact(lambda tx: usage.note_command(tx, pid, at))

    def serve(self, pid: int, grant: str, started: float | None = None) -> None:
        at = psutil.Process(pid).create_time() if started is None else started
        self.ledger.transact(lambda tx: usage.note_serving(tx, pid, at, grant))

    def read(self) -> tuple[Group, ...]:
        parts = self.ledger.read(lambda tx: queries.holdings(tx, MEM))
        return read_memory(parts, self.ledger.id, self.rests)

    def look(self) -> Noted:
        found = self.read()
        self.rests.clear()
        return self.ledger.transact(lambda tx: note_memory(tx, found))

    @contextmanager
    def process(self, mib: int, *, children: int = 0, orphan: bool = False, under: str = "") -> Generator[int]:
        env = {**os.environ, TOKEN: f"{self.ledger.id}:{under}"} if under else dict(os.environ)
        argv = [sys.executable, "-c", USES, str(mib), str(children), str(int(orphan))]
        with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            pid = int(process.stdout.readline())
            if orphan:
                process.wait(30)
            yield pid
            process.stdin.write(b"." * (children + 1))
            process.stdin.flush()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with member(tmp_path) as (ledger, _):
        yield Host(ledger)


def spare_this_process(host: Host, monkeypatch: pytest.MonkeyPatch) -> int:
    """Raise the bytes that a starting process is spared to the size of this one, and return them.

    It has run other tests before: with the children they left it may be larger than an interpreter with a flow's
    libraries, and it grows a little while it is looked at.
    """
    (group,) = host.read()
    spared = max(memory.STARTUP_BYTES, (group.used + 16) * 2**20)
    monkeypatch.setattr(memory, "STARTUP_BYTES", spared)
    return spared


def used(groups: tuple[Group, ...]) -> dict[str, int]:
    return {",".join(part.grant for part in group.parts): group.used for group in groups}


def test_a_command_that_uses_more_than_it_declared_is_told_once_and_may_be_ended_after_two_looks(host: Host):
    host.hold("run", mem=0.125)
    with host.process(200) as pid:
        host.command(pid)
        (first,), (second,) = host.look().excesses, host.look().excesses
    assert str(first).startswith("run (flow.py:1) uses 2")
    assert "MiB of mem and declared 128MiB; nobody else holds any" in str(first)
    assert (first.row.warned, first.may_be_ended, second.row.warned, second.may_be_ended) == (False, False, True, True)


def test_the_wrapper_of_a_command_counts_for_nothing(host: Host):
    host.hold("run", mem=1)
    with host.process(10) as pid:
        host.command(pid)
        (group,) = host.read()
        assert group.pids == (pid,)
        assert os.getpid() not in group.pids


def test_what_a_task_finds_in_its_process_is_no_excess_of_its_own(host: Host, monkeypatch: pytest.MonkeyPatch):
    host.hold("task", mem=0.01)
    largest = spare_this_process(host, monkeypatch)
    assert host.look().excesses == ()
    ((_, spent),) = host.ledger.read(usage.read_spent).items()
    assert spent.peak > 10
    host.ledger.transact(lambda tx: tx.apply(Ended(grant="task")))
    host.hold("other", mem=0.01)
    with host.process(largest // 2**20 + 44) as pid:
        (excess,) = host.look().excesses
        assert pid in host.read()[0].pids
    assert 30 < excess.group.excess < 100
    assert excess.group.used > 300


def test_pages_that_a_family_shares_count_once(host: Host):
    host.hold("run", mem=0.5)
    with host.process(300, children=2) as pid:
        host.command(pid)
        assert host.look().excesses == ()
        ((_, spent),) = host.ledger.read(usage.read_spent).items()
        assert 300 <= spent.peak < 500


def test_while_the_share_of_a_family_rests_nothing_is_said_of_it(host: Host):
    host.hold("run", mem=0.125)
    with host.process(200) as pid:
        host.command(pid)
        assert list(used(host.read())) == ["run"]
        assert host.rests.keys() == {pid}
        host.rests[pid] += 3600
        assert host.read() == ()


def test_a_process_that_outlived_its_parent_is_still_its_grant_s(host: Host):
    host.hold("run", mem=1)
    with host.process(50, orphan=True, under="run") as pid:
        assert psutil.Process(pid).ppid() != os.getpid()
        (group,) = host.read()
        assert {pid, os.getpid()} <= set(group.pids)


def test_a_process_of_another_ledger_s_grant_and_one_of_nobody_s_are_left_out(host: Host):
    host.hold("run", mem=1)
    with host.process(1, orphan=True) as nobody, host.process(1, orphan=True, under="gone") as gone:
        (group,) = host.read()
        assert not {nobody, gone} & set(group.pids)


def test_grants_that_one_process_holds_at_once_are_judged_together(host: Host, monkeypatch: pytest.MonkeyPatch):
    host.hold("one", mem=0.25)
    host.hold("two", mem=0.125)
    spared = spare_this_process(host, monkeypatch) // 2**20
    with host.process(spared + 100, under="two"):
        assert host.look().excesses == ()
    with host.process(spared + 450, under="two"):
        (excess,) = host.look().excesses
    assert sorted(part.grant for part in excess.group.parts) == ["one", "two"]
    assert (excess.at_risk, excess.process) == ((), None)


def test_a_task_process_s_memory_is_that_of_its_grant_alone_and_its_pool_s_is_nobody_s(host: Host):
    host.hold("greedy", for_children=True, mem=0.125)
    host.hold("modest", for_children=True, mem=0.125)
    assert host.read() == ()
    with host.process(500) as one, host.process(10) as other, host.process(1, orphan=True, under="modest") as left:
        host.serve(one, "greedy")
        host.serve(other, "modest")
        (excess,) = host.look().excesses
        assert {group.parts[0].grant: group.pids for group in host.read()} == {
            "greedy": (one,),
            "modest": (other, left),
        }
        assert excess.process == (one, psutil.Process(one).create_time())
    assert str(excess).startswith("greedy (flow.py:1) uses 5")
    assert str(excess).endswith("MiB of mem and declared 128MiB; at risk beside it: modest (flow.py:1)")
    seen = {spent.held: spent for spent in host.ledger.read(usage.read_spent).values()}
    assert seen["greedy"].peak > 500 > seen["modest"].peak > 10
    assert [spent.together for spent in seen.values()] == [False, False]


def test_a_task_process_that_serves_another_grant_is_no_more_the_old_one_s(host: Host):
    host.hold("old", for_children=True, mem=0.125)
    host.hold("new", for_children=True, mem=0.125)
    with host.process(200) as pid:
        host.serve(pid, "old")
        host.look()
        host.ledger.transact(lambda tx: tx.apply(Ended(grant="old")))
        assert host.read() == ()
        host.serve(pid, "new")
        assert [(group.parts[0].grant, group.pids) for group in host.read()] == [("new", (pid,))]
        host.serve(pid, "")
        assert host.read() == ()
        host.serve(pid, "new", started=psutil.Process(pid).create_time() - 100)
        assert host.read() == ()


def test_who_does_what_a_task_has_submitted_uses_what_that_declared(host: Host):
    host.hold("outer", for_children=True, mem=0.125)
    with host.process(400) as outer, host.process(400) as inner:
        host.serve(outer, "outer")
        host.serve(inner, "outer")
        (excess,) = host.look().excesses
        assert [set(group.pids) for group in host.read()] == [{outer, inner}]
        assert excess.process is not None
        assert excess.process[0] == outer
    assert excess.group.used > 800


def test_a_task_process_that_asks_for_more_itself_is_judged_by_both(host: Host, tmp_path: Path):
    host.hold("task", for_children=True, mem=0.125)
    host.serve(os.getpid(), "task")
    host.hold("more", mem=0.5)
    with host.process(500):
        assert host.look().excesses == ()
        assert [sorted(part.grant for part in group.parts) for group in host.read()] == [["more", "task"]]
    with host.process(1100):
        (excess,) = host.look().excesses
    assert excess.process is None


def test_a_descendant_that_holds_memory_of_its_own_is_no_part_of_its_ancestor_s(host: Host, tmp_path: Path):
    host.hold("outer", mem=4)
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.support.processes import member\n"
        "from tests.unit.usage.test_memory import Host\n"
        "with member(Path(sys.argv[1])) as (ledger, _):\n"
        "    host = Host(ledger)\n    host.hold('inner', mem=2)\n    print('ready', flush=True)\n    input()\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        found = {",".join(part.grant for part in group.parts): group.pids for group in host.read()}
        child.communicate(b"\n")
    assert found["inner"] == (child.pid,)
    assert child.pid not in found["outer"]


def test_a_process_that_has_only_the_number_of_an_owner_s_is_not_looked_at(host: Host):
    host.hold("task", mem=1)
    host.ledger.transact(lambda tx: tx.run("UPDATE owner SET started=started-100"))
    assert host.read() == ()
    with host.process(200) as pid:
        host.command(pid, started=psutil.Process(pid).create_time() - 100)
        assert host.look().excesses == ()
    assert host.ledger.read(usage.read_spent) == {}


def test_who_declared_no_memory_is_not_looked_at(host: Host):
    host.hold("cores", cpus=1)
    with host.process(300):
        assert host.read() == ()


def test_a_grant_that_ends_while_it_is_looked_at_is_nobody_s_excess(host: Host):
    host.hold("run", mem=0.125)
    with host.process(200) as pid:
        host.command(pid)
        found = host.read()
    host.ledger.transact(lambda tx: tx.apply(Ended(grant="run")))
    assert host.ledger.transact(lambda tx: note_memory(tx, found)) == Noted(excesses=(), suggestions=())
    assert host.ledger.read(usage.read_spent) == {}


def test_who_declared_far_too_much_is_told_when_it_has_ended(host: Host):
    host.hold("run", mem=16)
    with ExitStack() as over:
        host.command(over.enter_context(host.process(100)))
        said = [host.look().suggestions for _ in range(3)]
    host.ledger.transact(lambda tx: tx.apply(Ended(grant="run")))
    (suggestion,) = host.look().suggestions
    assert said == [(), (), ()]
    assert "run (flow.py:1) declared 16GiB of mem and used at most 1" in suggestion
    assert suggestion.endswith("in 3 looks; mem=1 might do")
    assert host.look().suggestions == ()


def test_all_who_hold_memory_are_at_risk_and_only_some_are_named(host: Host):
    host.hold("run", mem=0.01)
    with member(host.ledger.folder) as (ledger, _):
        others = Host(ledger)
        for number in range(7):
            others.hold(f"other-{number}", mem=1)
        with host.process(100) as pid:
            host.command(pid)
            (excess,) = host.look().excesses
    assert str(excess).count("other-") == 5
    assert str(excess).endswith("other-4 (flow.py:1), 2 more")
