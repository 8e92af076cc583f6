"""Law 4: if every holder releases some day, every ticket that fits is granted, nested ones and draws included."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule
from tests.property.effort import effort
from tests.support.interleavings import ask, cells

from prefect_slots.testing.bookkeeping import MemoryLedger
from prefect_slots.testing.machines import BookMachine
from prefect_slots.testing.play import Play, waiting


class NoDeadlock(BookMachine):
    @rule(order=st.lists(st.integers(0, 63), max_size=12))
    def drain(self, order: list[int]) -> None:
        self.play.drain(order)

    def teardown(self) -> None:
        if hasattr(self, "play"):
            self.play.drain([])


TestNoDeadlock = NoDeadlock.TestCase
TestNoDeadlock.settings = effort(170)


def _play(max_overtakes: int, **capacities: list[int]) -> Play:
    machine = cells(**capacities)
    return Play(machine, [MemoryLedger(machine, max_overtakes=max_overtakes)])


def test_a_child_that_outlives_its_block_still_minds_the_order_of_all_that_encloses_it() -> None:
    # The outer holds c, its child (begun in a block that has ended) may not wait for b, which comes before c.
    play = _play(3, a=[1], b=[1], c=[1], d=[1])
    outer = play.ask(ask(a=1, c=1))
    middle = play.ask_inside(0, ask(d=1))
    number = [grant.id for grant in play.book.grants].index(str(middle))
    inner = play.ask_inside(number, ask(a=1))
    assert inner is not None
    play.end([grant.id for grant in play.book.grants].index(str(middle)))
    other = play.ask(ask(b=1))
    play.ask_inside([grant.id for grant in play.book.grants].index(inner), ask(b=1))
    play.ask_inside([grant.id for grant in play.book.grants].index(other), ask(c=1))
    assert outer in {grant.id for grant in play.book.grants}
    play.drain([])


def test_a_reservation_does_not_bar_the_nested_request_that_it_waits_for() -> None:
    play = _play(0, a=[1], c=[1])
    holder = play.ask(ask(a=1))
    reserver = play.ask(ask(a=1, c=1))
    nested = play.ask_inside(0, ask(c=1))
    assert {grant.id for grant in play.book.grants} == {holder, nested}
    assert list(waiting(play.book)) == [reserver]
    play.drain([])
