"""Law 6: nothing waits that fits and that no reservation holds back."""

from __future__ import annotations

from hypothesis import given
from tests.property.effort import effort
from tests.support import laws

from prefect_slots.model.book import Book
from prefect_slots.scheduling.explain import shortages
from prefect_slots.testing.machines import BookMachine
from prefect_slots.testing.play import Step, waiting
from prefect_slots.testing.strategies import books


class WorkConserving(BookMachine):
    def watch(self, step: Step) -> None:
        laws.work_conserving(step, self.situation.max_overtakes)


TestWorkConserving = WorkConserving.TestCase
TestWorkConserving.settings = effort(105)


@effort(85)
@given(book=books())
def test_whoever_waits_is_told_what_is_missing(book: Book) -> None:
    for ticket, (shape, _) in waiting(book).items():
        missing = shortages(book, shape.requirement, ticket)
        assert missing, f"{ticket} waits for no reason: {book}"
        assert {shortage.demand for shortage in missing} <= set(shape.requirement.all_demands)
