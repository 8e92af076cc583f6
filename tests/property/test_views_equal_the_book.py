"""Law 9, its pure half: deciding on the front of each line, and keeping only the changes, gives the model's book.

The other half, that the ledger on disk does the same, drives the same machine with an adapter to the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.property.effort import effort
from tests.property.stories import Story, all_of_a_line_stand_aside, long_lines
from tests.support.interleavings import cells
from tests.support.truncating_ledger import TruncatingLedger

from prefect_slots.model.book import FRONT
from prefect_slots.testing.bookkeeping import BookKeeper, MemoryLedger
from prefect_slots.testing.machines import BookMachine
from prefect_slots.testing.play import Play
from prefect_slots.testing.strategies import Situation


class ViewsEqualTheBook(BookMachine):
    def keepers(self, situation: Situation) -> Sequence[BookKeeper]:
        return [
            *super().keepers(situation),
            TruncatingLedger(situation.cells, max_overtakes=situation.max_overtakes, front=1),
            TruncatingLedger(situation.cells, max_overtakes=situation.max_overtakes),
        ]


TestViewsEqualTheBook = ViewsEqualTheBook.TestCase
TestViewsEqualTheBook.settings = effort(140)


@pytest.mark.parametrize("allowed", [0, 1, 20])
@pytest.mark.parametrize("front", [1, FRONT])
@pytest.mark.parametrize("story", [long_lines, all_of_a_line_stand_aside], ids=lambda story: story.__name__)
def test_a_view_tells_the_same_story_however_little_it_shows(story: Story, front: int, allowed: int) -> None:
    machine = cells(g=[4, 4], mem=[9])
    truncating = TruncatingLedger(machine, max_overtakes=allowed, front=front)
    story(Play(machine, [MemoryLedger(machine, max_overtakes=allowed), truncating]))


def test_a_newcomer_has_not_been_overtaken_before_it_came() -> None:
    machine = cells(g=[4, 4], mem=[9])
    play = Play(machine, [TruncatingLedger(machine, max_overtakes=1)])
    all_of_a_line_stand_aside(play)
    (line,) = play.book.lines
    assert [line.overtakes - ticket.base for ticket in line.tickets] == [0]
    assert not line.tickets[0].reserved
