"""Decisions: every event, what it writes, and that what is gone changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.support.interleavings import ask, cells

from prefect_slots.model.book import (
    Asked,
    Book,
    Change,
    Changed,
    Closed,
    Counted,
    Decision,
    Dequeued,
    Ended,
    Event,
    Freed,
    Granted,
    Left,
    Nesting,
    Queued,
    Refused,
    Reserved,
    Resumed,
    Returned,
    Shape,
    SteppedAside,
    Ticket,
)
from prefect_slots.model.requirement import WHOLE, Demand, Requirement, Share
from prefect_slots.scheduling.decide import decide
from prefect_slots.testing.play import waiting


def _decide(book: Book, event: Event, allowed: int = 1) -> Decision:
    return decide(book, event, 7.5, max_overtakes=allowed)


def _ask(book: Book, ticket: str, wanted: Requirement, allowed: int = 1, *, within: str = "") -> Decision:
    """Ask for `wanted`; `within` names the grant to draw on."""
    nesting = Nesting(ticket=ticket, parent=within, root=within, source=within) if within else None
    shape = Shape(requirement=wanted, nesting=nesting)
    return _decide(book, Asked(shape=shape, ticket=Ticket(id=ticket, seq=int(ticket[1:]))), allowed)


def _busy(*wanted: Requirement, allowed: int = 1, **free: list[int]) -> Book:
    book = Book(cells=cells(**free))
    for number, requirement in enumerate(wanted):
        book = _ask(book, f"t{number}", requirement, allowed).book
    return book


def _kinds(decision: Decision) -> list[type[Change]]:
    return [type(change) for change in decision.changes]


def _granted(decision: Decision) -> list[str]:
    return [change.grant.id for change in decision.changes if isinstance(change, Granted)]


def test_who_asks_for_what_is_free_gets_it() -> None:
    decision = _ask(Book(cells=cells(g=[2])), "t1", ask(g=1))
    granted = decision.changes[-1]
    assert isinstance(granted, Granted)
    assert (granted.grant.ends, granted.grant.seq, granted.grant.id) == (None, 1, "t1")
    assert (decision.book.grants, decision.book.lines) == ((granted.grant,), ())


def test_who_does_not_fit_is_queued() -> None:
    decision = _ask(_busy(ask(g=2), g=[2]), "t1", ask(g=1))
    assert _kinds(decision) == [Queued, Counted]
    assert list(waiting(decision.book)) == ["t1"]


def test_an_ending_frees_the_cells_and_grants_who_fits_now() -> None:
    book = _busy(ask(g=2), ask(g=1), ask(g=1), ask(g=1), g=[2])
    decision = _decide(book, Ended(grant="t0"))
    assert _kinds(decision) == [Freed, Granted, Granted]
    assert _granted(decision) == ["t1", "t2"]


def test_who_leaves_makes_room_in_the_line() -> None:
    book = _busy(ask(g=1), ask(g=2), ask(g=1), g=[2], allowed=0)
    decision = _decide(book, Left(ticket="t1"), 0)
    assert decision.changes[0] == Dequeued(ticket="t1")
    assert _granted(decision) == ["t2"]


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        (Ended(grant="gone"), ()),
        (Returned(grant="gone", blocked_on="x"), ()),
        (Changed(), ()),
        (Left(ticket="gone"), (Dequeued(ticket="gone"),)),
    ],
)
def test_events_about_what_is_gone_change_nothing(event: Event, changes: tuple[Change, ...]) -> None:
    book = _busy(ask(g=2), ask(g=1), g=[2])
    decision = _decide(book, event)
    assert (decision.book, decision.changes) == (book, changes)


def test_an_overtake_is_counted_and_the_overtaken_then_reserves() -> None:
    book = _busy(ask(g=1), ask(g=3), g=[3])
    decision = _ask(book, "t2", ask(g=1))
    (counted, reserved) = [change for change in decision.changes if isinstance(change, (Counted, Reserved))][-2:]
    assert isinstance(counted, Counted)
    assert counted.overtakes == 1
    assert isinstance(reserved, Reserved)
    assert (reserved.ticket, [amount for _, amount in reserved.cells]) == ("t1", [3])
    assert _granted(_ask(decision.book, "t3", ask(g=1))) == []


def test_a_reservation_made_and_used_at_once_is_not_written() -> None:
    decision = _ask(Book(cells=cells(g=[2])), "t1", ask(g=1), allowed=0)
    assert Reserved not in _kinds(decision)
    assert _granted(decision) == ["t1"]


def test_a_refused_grant_steps_aside_with_its_count_and_its_cells_go_on() -> None:
    book = _busy(ask(g=1), ask(g=2), ask(g=1), ask(g=2), g=[2], allowed=9)
    book = _decide(_decide(book, Ended(grant="t0"), 9).book, Ended(grant="t2"), 9).book
    decision = _decide(book, Returned(grant="t1", blocked_on="license:a"), 9)
    aside = decision.changes[0]
    assert isinstance(aside, SteppedAside)
    assert (aside.grant.id, aside.grant.overtaken, aside.blocked_on) == ("t1", 1, "license:a")
    assert _granted(decision) == ["t3"]


def test_a_resumed_ticket_stands_at_its_old_place_with_its_old_count() -> None:
    book = _busy(ask(g=2), ask(g=2), g=[2], allowed=5)
    decision = _decide(book, Resumed(shape=Shape(requirement=ask(g=2)), ticket=Ticket(id="t", seq=0), overtaken=3), 5)
    assert [ticket for _, ticket in waiting(decision.book).values()] == [
        Ticket(id="t", seq=0, turn=1, base=-3),
        Ticket(id="t1", seq=1, turn=1),
    ]


def test_a_closed_grant_keeps_its_cells_until_its_last_draw_has_ended() -> None:
    book = _ask(_busy(ask(g=2), g=[2]), "t1", ask(g=1), within="t0").book
    book = _ask(book, "t2", ask(g=1)).book
    decision = _decide(book, Ended(grant="t0"))
    assert decision.changes == (Closed(grant="t0"),)
    assert _decide(decision.book, Ended(grant="t0")).changes == ()
    decision = _decide(decision.book, Ended(grant="t1"))
    assert decision.changes[:2] == (Freed(grant="t1"), Freed(grant="t0"))
    assert _granted(decision) == ["t2"]


def test_waiting_draws_are_refused_when_their_grant_closes_or_ends() -> None:
    book = _ask(_busy(ask(g=2), g=[2]), "t1", ask(g=2), within="t0").book
    book = _ask(book, "t2", ask(g=1), within="t0").book
    closing = _decide(book, Ended(grant="t0"))
    assert closing.changes == (Closed(grant="t0"), Refused(ticket="t2"))
    assert closing.book.lines == ()


def test_a_draw_on_a_grant_that_is_gone_or_closed_is_refused_at_once() -> None:
    book = _ask(_busy(ask(g=2), g=[2]), "t1", ask(g=2), within="t0").book
    for met in (_decide(book, Ended(grant="t0")).book, Book(cells=book.cells)):
        decision = _ask(met, "t3", ask(g=1), within="t0")
        assert decision.changes[-1] == Refused(ticket="t3")
        assert decision.book.lines == ()


def test_a_grant_that_is_drawn_on_is_past_being_refused_by_the_server() -> None:
    book = _ask(_busy(ask(g=2), g=[2]), "t1", ask(g=1), within="t0").book
    assert _decide(book, Returned(grant="t0", blocked_on="x")).changes == ()


def test_draws_that_wait_for_a_grant_that_steps_aside_are_refused() -> None:
    book = _ask(_busy(ask(g=2), g=[2]), "t1", ask(g=3), within="t0").book
    decision = _decide(book, Returned(grant="t0", blocked_on="x"))
    assert _kinds(decision) == [SteppedAside, Refused]


def test_a_newcomer_to_a_line_whose_end_is_not_shown_is_queued_unseen() -> None:
    book = _busy(ask(g=2), *[ask(g=2)] * 3, g=[2], allowed=9)
    (line,) = book.lines
    seen = Book(
        cells=book.cells,
        grants=book.grants,
        lines=(type(line)(shape=line.shape, tickets=line.tickets[:2], truncated=True),),
    )
    decision = _ask(seen, "t9", ask(g=2), 9)
    assert _kinds(decision) == [Queued]
    assert decision.book.lines == seen.lines


def test_a_line_of_which_nothing_is_shown_any_more_is_to_be_loaded_again() -> None:
    book = _busy(ask(g=2), ask(g=2), g=[2])
    (line,) = book.lines
    seen = Book(
        cells=book.cells,
        grants=book.grants,
        lines=(type(line)(shape=line.shape, tickets=line.tickets, truncated=True),),
    )
    decision = _decide(seen, Ended(grant="t0"))
    assert _granted(decision) == ["t1"]
    assert decision.again
    assert _decide(seen, Left(ticket="t1")).again
    assert not _decide(book, Ended(grant="t0")).again


def test_a_draw_that_a_grown_card_puts_out_of_reach_is_refused() -> None:
    most = Requirement((Demand(resource="gpu", amount=Share(WHOLE * 3 // 4)),))
    book = _busy(most, gpu=[4])
    book = _ask(book, "t1", most, within="t0").book
    book = _ask(book, "t2", most, within="t0").book
    assert list(waiting(book)) == ["t2"]
    grown = replace(book, cells=cells(gpu=[8]))
    decision = _decide(grown, Changed())
    assert decision.changes == (Refused(ticket="t2"),)
    assert _granted(_decide(decision.book, Ended(grant="t1"))) == []
    assert _kinds(_decide(_decide(decision.book, Ended(grant="t1")).book, Ended(grant="t0"))) == [Freed]
