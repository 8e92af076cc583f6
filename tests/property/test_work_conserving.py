"""Law 6: nothing waits that fits and that no reservation holds back."""

from __future__ import annotations

from tests.property.effort import effort

from prefect_slots.testing import laws
from prefect_slots.testing.machines import BookMachine
from prefect_slots.testing.play import Step


class WorkConserving(BookMachine):
    def watch(self, step: Step) -> None:
        laws.work_conserving(step, self.situation.max_overtakes)


TestWorkConserving = WorkConserving.TestCase
TestWorkConserving.settings = effort(600)
