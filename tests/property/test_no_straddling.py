"""Law 3: a demand's amount per cell lies on single cells, all different."""

from __future__ import annotations

from tests.property.effort import effort
from tests.support import laws

from prefect_slots.model.book import CellId, CellState
from prefect_slots.model.requirement import WHOLE, Demand, Requirement, Share
from prefect_slots.testing.machines import BookMachine
from prefect_slots.testing.play import Step
from prefect_slots.testing.strategies import Situation


class NoStraddling(BookMachine):
    def watch(self, step: Step) -> None:
        laws.no_straddling(step)


TestNoStraddling = NoStraddling.TestCase
TestNoStraddling.settings = effort(140)


def test_the_whole_inside_a_whole_is_what_was_granted_though_the_cell_has_grown() -> None:
    play = NoStraddling()
    cell = CellState(id=CellId("cpus", 0), capacity=1)
    whole = Requirement(demands=(Demand(resource="cpus", amount=Share(WHOLE)),))
    play.start(situation=Situation(cells=(cell,), wishes=(whole,), max_overtakes=0))
    play.ask(expected=None, priority=0, run="", wish=0)
    play.resize(capacity=2, which=0)
    play.ask_inside(expected=None, priority=0, where=0, wish=0)
    play.teardown()
