"""Whose memory is whose: laws over every machine of processes and grants."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from prefect_slots.ledger.queries import Part
from prefect_slots.model.book import CellId
from prefect_slots.usage.overuse import Belonging, groups

MIB = 2**20
PIDS = range(1, 8)
GRANTS = "abcd"
# A parent is older than its children.
PARENTS = st.fixed_dictionaries({pid: st.integers(0, pid - 1) for pid in PIDS})
NAMED = st.dictionaries(st.sampled_from(PIDS), st.sampled_from([*GRANTS, "gone"]))
USED = st.dictionaries(st.sampled_from(PIDS), st.integers(0, 40).map(lambda mib: mib * MIB))


def part(grant: str, pid: int | None, source: str | None, served_by: list[int] | None = None) -> Part:
    return Part(
        cell=CellId("mem", 0), grant=grant, source=source, label=grant, declared=8, pid=pid, started=0.0,
        command=None, for_children=served_by is not None, processes=tuple((each, 0.0) for each in served_by or ()),
    )  # fmt: skip


@st.composite
def holdings(draw: st.DrawFn) -> tuple[Part, ...]:
    """Grants, some of which draw on earlier ones, and some of which task processes serve, one each."""
    parts: list[Part] = []
    idle = list(draw(st.permutations(PIDS)))
    for number, grant in enumerate(GRANTS[: draw(st.integers(1, len(GRANTS)))]):
        source = draw(st.sampled_from([None, *GRANTS[:number]]))
        served_by = (
            [idle.pop() for _ in range(draw(st.integers(0, min(2, len(idle)))))] if draw(st.booleans()) else None
        )
        parts.append(part(grant, draw(st.none() | st.sampled_from(PIDS)), source, served_by))
    return tuple(parts)


def descends(pid: int, parents: Mapping[int, int]) -> list[int]:
    line = [pid]
    while line[-1]:
        line.append(parents[line[-1]])
    return line


@settings(deadline=None)
@given(parts=holdings(), parents=PARENTS, named=NAMED, used=USED)
def test_what_belongs_to_grants_is_counted_once_and_nothing_else_is(
    parts: tuple[Part, ...], parents: dict[int, int], named: dict[int, str], used: dict[int, int]
):
    found = list(groups(Belonging(parts, named, parents), used))
    pids = [pid for group in found for pid in group.pids]
    roots = {each.grant for each in parts if each.source is None}
    served = {pid for each in parts for pid, _ in each.processes}
    holders = {each.pid for each in parts if each.source is None and not each.for_children} | served
    alive = {each.grant for each in parts}
    under = {pid for pid, grant in named.items() if grant in alive} - served
    ours = {pid for pid in used if pid in under or holders.intersection(descends(pid, parents))}
    assert sorted(pids) == sorted(ours)
    assert sum(group.used for group in found) == sum(used[pid] for pid in ours) // MIB
    assert sorted(each.grant for group in found for each in group.parts) == sorted(roots)


@settings(deadline=None)
@given(parts=holdings(), parents=PARENTS, named=NAMED, used=USED, untold=st.sampled_from(PIDS))
def test_a_process_that_does_not_tell_leaves_out_its_own_grants_alone(
    parts: tuple[Part, ...], parents: dict[int, int], named: dict[int, str], used: dict[int, int], untold: int
):
    belonging = Belonging(parts, named, parents)
    told = list(groups(belonging, {**used, untold: 0}))
    assert list(groups(belonging, {**used, untold: None})) == [each for each in told if untold not in each.pids]


@settings(deadline=None)
@given(parts=holdings(), parents=PARENTS, named=NAMED, used=USED)
def test_a_task_process_uses_what_its_own_grant_declared_whoever_its_pool_is(
    parts: tuple[Part, ...], parents: dict[int, int], named: dict[int, str], used: dict[int, int]
):
    known = {each.grant: each for each in parts}
    holders = {each.pid for each in parts if not each.for_children}
    found = {pid: group for group in groups(Belonging(parts, named, parents), used) for pid in group.pids}
    for each in parts:
        root = each
        while root.source is not None:
            root = known[root.source]
        # Who holds something beside it itself is judged by both.
        if root.user not in holders or root.user is None:
            for pid in {pid for pid, _ in each.processes} & found.keys() - holders:
                assert [part.grant for part in found[pid].parts] == [root.grant]


@settings(deadline=None)
@given(used=USED, spared=st.integers(0, 20), parents=PARENTS)
def test_what_every_process_is_spared_is_no_excess(used: dict[int, int], spared: int, parents: dict[int, int]):
    (group,) = groups(Belonging([part("a", 1, None)], {}, parents), used, spared=spared * MIB)
    above = sum(max(0, used[pid] // MIB - spared) for pid in group.pids)
    assert group.excess == max(0, above - 8)
    assert group.used == sum(used[pid] for pid in group.pids) // MIB
