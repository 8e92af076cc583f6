"""All laws of the book watched over in one play, and everybody served at its end: what `make soak` plays 100,000 times.

`make test` tries the laws one by one, each in the file that is named after it.
"""

from __future__ import annotations

from tests.property.effort import effort
from tests.property.test_no_deadlock import NoDeadlock
from tests.property.test_views_equal_the_book import ViewsEqualTheBook
from tests.support import laws

from prefect_slots.testing.play import Step


class AllLawsAtOnce(NoDeadlock, ViewsEqualTheBook):
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


TestAllLawsAtOnce = AllLawsAtOnce.TestCase
TestAllLawsAtOnce.settings = effort(35)
