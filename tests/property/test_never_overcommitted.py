"""Law 1: for every cell, granted amounts never exceed capacity, at any step."""

from __future__ import annotations

from tests.property.effort import effort
from tests.support import laws

from prefect_slots.testing.machines import BookMachine
from prefect_slots.testing.play import Step


class NeverOvercommitted(BookMachine):
    def watch(self, step: Step) -> None:
        laws.never_overcommitted(step)


TestNeverOvercommitted = NeverOvercommitted.TestCase
TestNeverOvercommitted.settings = effort(110)
