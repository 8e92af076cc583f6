"""Law 9, its pure half: deciding on the front of each line, and keeping only the changes, gives the model's book.

The other half, that the ledger on disk does the same, drives the same machine with an adapter to the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.property.effort import effort

from prefect_slots.testing.bookkeeping import BookKeeper, MemoryLedger, TruncatingLedger
from prefect_slots.testing.interleavings import ask, cells
from prefect_slots.testing.machines import BookMachine
from prefect_slots.testing.play import Play, waiting
from prefect_slots.testing.strategies import Situation


class ViewsEqualTheBook(BookMachine):
    def keepers(self, situation: Situation) -> Sequence[BookKeeper]:
        return [
            *super().keepers(situation),
            TruncatingLedger(situation.cells, max_overtakes=situation.max_overtakes, front=1),
            TruncatingLedger(situation.cells, max_overtakes=situation.max_overtakes),
        ]


TestViewsEqualTheBook = ViewsEqualTheBook.TestCase
TestViewsEqualTheBook.settings = effort(300)


@pytest.mark.parametrize("allowed", [0, 1, 20])
def test_a_long_line_is_served_in_order_however_little_is_shown(allowed: int) -> None:
    machine = cells(gpu=[4, 4], mem=[9])
    keepers = [
        MemoryLedger(machine, max_overtakes=allowed),
        TruncatingLedger(machine, max_overtakes=allowed, front=1),
        TruncatingLedger(machine, max_overtakes=allowed),
    ]
    play = Play(machine, keepers)
    for number in range(40):
        play.ask(ask(gpu=1 + number % 3), priority=number % 2)
        play.ask(ask(gpu=2, mem=3))
    while play.book.grants:
        play.end(7)
    assert not waiting(play.book)


def test_a_line_whose_tickets_all_stand_aside_starts_counting_anew() -> None:
    # A table keeps the count of a line as long as a ticket of it is known; a view does not show a line that nobody
    # stands in. A newcomer measured against the one and based on the other would reserve at once.
    machine = cells(a=[1], b=[1])
    play = Play(machine, [MemoryLedger(machine, max_overtakes=1), TruncatingLedger(machine, max_overtakes=1)])
    first = play.ask(ask(a=1))
    play.ask(ask(a=1, b=1))
    assert first in {grant.id for grant in play.book.grants}
    play.ask(ask(b=1))
    play.end(0)
    play.end(0)
    play.refuse(0)
    play.ask(ask(a=1))
    newcomer = play.ask(ask(a=1, b=1))
    shape, ticket = waiting(play.book)[newcomer]
    line = next(line for line in play.book.lines if line.shape == shape)
    assert line.overtakes == ticket.base
    assert not ticket.reserved
