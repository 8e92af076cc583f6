"""Law 2: a ticket holds every cell it asked for, or none; and no ticket is lost."""

from __future__ import annotations

from tests.property.effort import effort
from tests.support import laws

from prefect_slots.testing.machines import BookMachine
from prefect_slots.testing.play import Step


class AllOrNothing(BookMachine):
    def watch(self, step: Step) -> None:
        laws.all_or_nothing(step)


TestAllOrNothing = AllOrNothing.TestCase
TestAllOrNothing.settings = effort(140)
