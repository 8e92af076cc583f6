"""Plays that chance seldom finds: long lines, and a line whose tickets all stand aside.

They need a machine with two cells of 4 `g` and one of 9 `mem`; each step is compared between all keepers of the play.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.support.interleavings import ask

from prefect_slots.testing.play import Play, waiting

Story = Callable[[Play], None]


def long_lines(play: Play) -> None:
    """Three lines of many tickets each, served to the end."""
    for number in range(40):
        play.ask(ask(g=1 + number % 3), priority=number % 2)
        play.ask(ask(g=2, mem=3))
    while play.book.grants:
        play.end(7)
    assert not waiting(play.book)


def all_of_a_line_stand_aside(play: Play) -> None:
    """Nobody stands in a line any more, but its tickets are known; then somebody new joins it.

    A table keeps the count of a line as long as a ticket of it is known; a view does not show a line that nobody
    stands in. A newcomer measured against the one and based on the other would reserve at once.
    """
    small, big = ask(mem=4), ask(mem=9)
    for wanted in (small, big, big, small):
        play.ask(wanted)
    play.end(0)
    play.end(0)
    play.refuse(0)
    newcomer = play.ask(big)
    assert len(play.aside) == 1
    assert newcomer in waiting(play.book)
