"""All laws of the book watched over in one play, and everybody served at its end: what `make soak` plays 100,000 times.

`make test` tries the laws one by one, each in the file that is named after it.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule
from tests.property.effort import effort
from tests.property.test_views_equal_the_book import ViewsEqualTheBook

from prefect_slots.testing import laws
from prefect_slots.testing.play import Step


class AllLawsAtOnce(ViewsEqualTheBook):
    overtakes: laws.Overtakes | None = None

    def watch(self, step: Step) -> None:
        if self.overtakes is None:
            self.overtakes = laws.Overtakes(self.situation.max_overtakes)
        laws.never_overcommitted(step)
        laws.all_or_nothing(step)
        laws.no_straddling(step)
        self.overtakes.watch(step)
        self.overtakes.check(step.after)
        laws.work_conserving(step, self.situation.max_overtakes)

    @rule(order=st.lists(st.integers(0, 63), max_size=12))
    def drain(self, order: list[int]) -> None:
        self.play.drain(order)

    def teardown(self) -> None:
        if hasattr(self, "play"):
            self.play.drain([])


TestAllLawsAtOnce = AllLawsAtOnce.TestCase
TestAllLawsAtOnce.settings = effort(200)
