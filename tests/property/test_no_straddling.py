"""Law 3: a demand's amount per cell lies on single cells, all different."""

from __future__ import annotations

from tests.property.effort import effort
from tests.support import laws

from prefect_slots.testing.machines import BookMachine
from prefect_slots.testing.play import Step


class NoStraddling(BookMachine):
    def watch(self, step: Step) -> None:
        laws.no_straddling(step)


TestNoStraddling = NoStraddling.TestCase
TestNoStraddling.settings = effort(140)
