"""The laws, stated over books and recomputed from nothing but the book.

Each function raises `AssertionError` when a step breaks its law. Nothing of `prefect_slots.scheduling` is used here, or
a mistake there would excuse itself.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from prefect_slots.model.amount import Exclusive
from prefect_slots.model.book import (
    Book,
    CellId,
    Dequeued,
    Grant,
    Granted,
    Holding,
    Line,
    Queued,
    Refused,
    Reserved,
    Resumed,
    Shape,
    Slot,
    SteppedAside,
    Ticket,
)
from prefect_slots.model.requirement import WHOLE, Demand, Requirement, Share
from prefect_slots.testing.play import Step, waiting


def _used(book: Book, source: str | None) -> Counter[CellId]:
    used: Counter[CellId] = Counter()
    for grant in book.grants:
        if grant.shape.pool == source:
            for cell, amount in grant.holdings:
                used[cell] += amount
    return used


def _most(book: Book, source: str | None) -> dict[CellId, int]:
    if source is None:
        return {cell.id: max(0, cell.capacity - cell.foreign) for cell in book.cells}
    return dict(next(grant.holdings for grant in book.grants if grant.id == source))


def _free(book: Book, source: str | None) -> dict[CellId, int]:
    used = _used(book, source)
    return {cell: units - used[cell] for cell, units in _most(book, source).items()}


def _bases(book: Book, source: str | None) -> dict[CellId, int]:
    """Return the base of shares of each cell: its capacity, or the part of a grant that was given the whole of it.

    Capacities may have changed since that grant, and what draws on it can have no more.
    """
    bases = {cell.id: cell.capacity for cell in book.cells}
    for grant in book.grants:
        if grant.id == source:
            whole = {demand.resource for demand in _demands(grant) if demand.amount == Share(WHOLE)}
            for cell, amount in grant.holdings:
                if cell.resource in whole:
                    bases[cell] = Exclusive(amount) if isinstance(bases.get(cell), Exclusive) else amount
    return bases


def _has_room(book: Book, demand: Demand, amounts: Mapping[CellId, int], source: str | None) -> bool:
    suiting = {cell.id for cell in book.cells if demand.gpu.accepts(cell.label, cell.compute_capability)}
    bases = _bases(book, source)
    able = [
        cell
        for cell, units in amounts.items()
        if cell.resource == demand.resource and cell in suiting and units >= demand.on(bases[cell])
    ]
    return len(able) >= demand.cells


def _fits(book: Book, requirement: Requirement, amounts: Mapping[CellId, int], source: str | None) -> bool:
    return any(
        all(_has_room(book, demand, amounts, source) for demand in alternative.demands)
        for alternative in requirement.alternatives
    )


def _demands(grant: Grant) -> tuple[Demand, ...]:
    return grant.shape.requirement.alternatives[grant.chosen].demands


def fits_idle(book: Book, shape: Shape) -> bool:
    """Tell whether `shape` would fit if nobody held anything where it looks for room."""
    return _fits(book, shape.requirement, _most(book, shape.pool), shape.pool)


def _granted(step: Step) -> list[Grant]:
    return [change.grant for change in step.changes if isinstance(change, Granted)]


def _as_decided(step: Step) -> Iterator[tuple[Grant, Book]]:
    """Yield each grant with the book of those who waited for something when it was decided, and what was theirs."""
    then = waiting(step.before)
    for change in step.changes:
        match change:
            case Queued(shape=shape, ticket=ticket):
                then[ticket.id] = shape, ticket
            case Dequeued(ticket=ticket) | Refused(ticket=ticket):
                then.pop(ticket, None)
            case Reserved(ticket=ticket, cells=cells):
                shape, place = then[ticket]
                then[ticket] = shape, replace(place, reserved=cells)
            case Granted(grant=grant):
                then.pop(grant.id, None)
                lines = tuple(Line(shape=shape, tickets=(ticket,)) for shape, ticket in then.values())
                yield grant, replace(step.after, lines=lines)
            case _:
                pass


def never_overcommitted(step: Step) -> None:
    """Law 1: granted amounts never exceed capacity; after a cut nothing new is granted until it fits again."""
    new = {cell for grant in _granted(step) if grant.shape.pool is None for cell, _ in grant.holdings}
    before, after, most = _used(step.before, None), _used(step.after, None), _most(step.after, None)
    for cell, units in after.items():
        assert units <= before[cell] or cell in new, f"{cell} is used more, and nobody was granted it: {step}"
        assert cell not in new or units <= most.get(cell, 0), (
            f"{units} of {most.get(cell, 0)} granted on {cell}: {step}"
        )
    ids = {grant.id for grant in step.after.grants}
    for source in {grant.shape.pool for grant in step.after.grants} - {None}:
        assert source in ids, f"grants draw on {source}, which is gone: {step}"
        over = {cell: units for cell, units in _free(step.after, source).items() if units < 0}
        assert not over, f"more is drawn than {source} holds: {over}, {step}"
        assert _used(step.after, source).keys() <= _most(step.after, source).keys(), f"drawn elsewhere: {step}"


def all_or_nothing(step: Step) -> None:
    """Law 2: a ticket holds everything it asked for, or nothing; and no ticket is ever lost."""
    ids = [*waiting(step.after), *(grant.id for grant in step.after.grants)]
    assert len(ids) == len(set(ids)), f"somebody waits for what is held already: {step}"
    for grant in step.after.grants:
        got = Counter(cell.resource for cell, _ in grant.holdings)
        asked = {demand.resource: demand.cells for demand in _demands(grant)}
        assert got == asked, f"{grant} holds not what it asked for: {step}"
    for grant in _granted(step):
        bases = _bases(step.after, grant.shape.pool)
        for demand in _demands(grant):
            for cell, amount in grant.holdings:
                if cell.resource == demand.resource:
                    assert amount == demand.on(bases[cell]), f"{grant} holds {amount} on {cell}: {step}"
    gone = {change.ticket for change in step.changes if isinstance(change, (Dequeued, Refused))}
    gone |= {change.grant.id for change in step.changes if isinstance(change, SteppedAside)}
    known = {*waiting(step.before), *(change.ticket.id for change in step.changes if isinstance(change, Queued))}
    assert known - gone <= set(ids), f"tickets vanished: {known - gone - set(ids)}: {step}"


def no_straddling(step: Step) -> None:
    """Law 3: the amount per cell lies whole on single cells, all different."""
    for grant in _granted(step):
        bases = _bases(step.after, grant.shape.pool)
        for demand in _demands(grant):
            cells = [cell for cell, _ in grant.holdings if cell.resource == demand.resource]
            assert len(set(cells)) == len(cells) == demand.cells, f"{demand} lies on {cells}: {step}"
            for cell, amount in grant.holdings:
                if cell.resource == demand.resource:
                    assert amount >= demand.on(bases[cell]), f"{demand} is split over {grant.holdings}: {step}"


def _starts(
    now: float, book: Book, grants: Iterable[Grant], source: str | None, reservers: Iterable[Ticket]
) -> dict[str, float]:
    """Return when each reserver could have all its cells, if those before it start when they can and end at once.

    Whoever gave no word, or is late, may be gone at once too.
    """
    most = _most(book, source)
    words = [
        (grant.ends, dict(grant.holdings)) for grant in grants if grant.shape.pool == source and grant.ends is not None
    ]
    starts: dict[str, float] = {}
    for reserver in reservers:

        def has_all(moment: float, wanted: tuple[Holding, ...] = reserver.reserved) -> bool:
            staying = [held for until, held in words if until > moment]
            return all(
                most.get(cell, 0) - sum(held.get(cell, 0) for held in staying) >= amount for cell, amount in wanted
            )

        moments = (now, *(until for until, _ in words if until > now))
        starts[reserver.id] = min((moment for moment in moments if has_all(moment)), default=now)
        words.append((starts[reserver.id], dict(reserver.reserved)))
    return starts


def _reservations(book: Book, source: str | None, free: Mapping[CellId, int]) -> list[Ticket]:
    """Return those for whom something is set aside of `free`: none that would not fit when idle, or are left nothing.

    Whoever is nested may pass those before it, so that it may have what they leave.
    """
    most, left = _most(book, source), dict(free)
    found = [
        (ticket, line.shape)
        for line in book.lines
        if line.shape.pool == source and _fits(book, line.shape.requirement, most, source)
        for ticket in line.tickets
        if ticket.reserved
    ]
    reservers: list[Ticket] = []
    for ticket, shape in sorted(found, key=lambda entry: entry[0].slot):
        wanted = shape.requirement.resources
        if shape.nesting or any(units > 0 for cell, units in left.items() if cell.resource in wanted):
            _set_aside(left, ticket)
            reservers.append(ticket)
    return reservers


def _set_aside(amounts: dict[CellId, int], reserver: Ticket, only: Container[CellId] | None = None) -> None:
    for cell, amount in reserver.reserved:
        if only is not None and cell not in only:
            continue
        amounts[cell] = amounts.get(cell, 0) - max(0, min(amount, amounts.get(cell, 0)))


def work_conserving(step: Step, max_overtakes: int) -> None:
    """Law 6: nothing waits that fits and that no reservation ahead of it holds back; nobody reserves before it may.

    A nested request heeds all reservations until it reserves itself. Nobody is held back on a cell of which all that is
    set aside is for those who cannot start before it will have ended.
    """
    book = step.after
    for source in {line.shape.pool for line in book.lines}:
        free = _free(book, source)
        reservations = _reservations(book, source, free)
        starts = _starts(step.now, book, book.grants, source, reservations)
        places = [reserver.slot for reserver in reservations]
        for line in book.lines:
            if line.shape.pool == source:
                heeding = {
                    len(places) if line.shape.nesting and not ticket.reserved else bisect_left(places, ticket.slot)
                    for ticket in line.tickets
                }
                for ahead in heeding:
                    ends = None if line.shape.expected is None else step.now + line.shape.expected
                    left = dict(free)
                    late = [other for other in reservations[:ahead] if ends is None or ends > starts[other.id]]
                    shut = {cell for other in late for cell, _ in other.reserved}
                    for reserver in reservations[:ahead]:
                        _set_aside(left, reserver, only=shut)
                    held_up = not _fits(book, line.shape.requirement, left, source)
                    assert held_up, f"{line} waits, and {left} is free: {step}"
    written = {change.ticket for change in step.changes if isinstance(change, Reserved) and change.cells}
    for line in book.lines:
        may = [ticket.slot for ticket in line.tickets if line.overtakes - ticket.base >= max_overtakes]
        for ticket in line.tickets:
            early = ticket.id in written and not any(place >= ticket.slot for place in may)
            assert not early, f"{ticket} reserves after {line.overtakes - ticket.base} overtakes: {step}"


class Overtakes:
    """Law 5: counts, for every waiting ticket, those from behind it that were granted what it competes for.

    Behind it is who has a later place. One from behind competes when its grant touches a resource that the ticket asks
    for and leaves the ticket without room there; once the ticket reserves, when it takes what the ticket lacks on the
    very cells it waits for. A ticket that would not fit an idle machine is not being overtaken: nothing could be
    granted to it. Nor is one by whoever, at its word, ends before the ticket could start, or runs only on what is set
    aside for those ahead of the ticket and ends before these could start.

    Attributes:
        seen: All overtakes of each waiting ticket.
        unnested: Those by requests that hold nothing of the same pool's yet.
        allowance: Overtakes beyond the usual number: one series for each older ticket of its own shape that was sent
            back by the server and stood in front of it again.
    """

    def __init__(self, max_overtakes: int) -> None:
        """Count for a scheduler that allows that many overtakes."""
        self._max_overtakes = max_overtakes
        self.seen: Counter[str] = Counter()
        self.unnested: Counter[str] = Counter()
        self.allowance: defaultdict[str, int] = defaultdict(int)
        self._resumed: set[str] = set()

    def watch(self, step: Step) -> None:
        """Count what a step did."""
        was = waiting(step.before)
        if isinstance(step.event, Resumed):
            resumed = step.event.ticket
            stands = self._stands(step, resumed)
            for ticket, (shape, place) in was.items():
                if shape.key == step.event.shape.key and place.slot > stands:
                    self.allowance[ticket] += self._max_overtakes
                elif shape.key == step.event.shape.key and ticket in self._resumed:
                    self.allowance[resumed.id] += self._max_overtakes
            self._resumed.add(resumed.id)
        free = {source: _free(step.after, source) for source in {g.shape.pool for g in _granted(step)}}
        grants = _granted(step)
        new = {grant.id for grant in grants}
        standing = [grant for grant in step.after.grants if grant.id not in new]
        for grant in grants:
            for cell, amount in grant.holdings:
                free[grant.shape.pool][cell] = free[grant.shape.pool].get(cell, 0) + amount
        for grant, then in _as_decided(step):
            amounts = free[grant.shape.pool]
            excused = self._excused(step.now, then, standing, grant, amounts)
            standing.append(grant)
            for cell, amount in grant.holdings:
                amounts[cell] -= amount
            for ticket, (shape, place) in waiting(step.after).items():
                if shape.pool == grant.shape.pool and place.slot < grant.slot and ticket not in excused:
                    reserving = bool(ticket in was and was[ticket][1].reserved)
                    reserving = reserving or (self.seen[ticket] >= self._max_overtakes and bool(place.reserved))
                    if self._is_hurt(step.after, shape, place, grant, amounts, reserving=reserving):
                        self.seen[ticket] += 1
                        nesting = grant.shape.nesting
                        if nesting is None or nesting.parent == nesting.source:
                            self.unnested[ticket] += 1

    @staticmethod
    def _excused(
        now: float, then: Book, standing: Sequence[Grant], grant: Grant, free: Mapping[CellId, int]
    ) -> set[str]:
        """Return who waited then and lost nothing to a grant that ends in time."""
        if grant.ends is None:
            return set()
        source = grant.shape.pool
        reservations = _reservations(then, source, free)
        starts = _starts(now, then, standing, source, reservations)
        in_time = {reserver for reserver, start in starts.items() if grant.ends <= start}
        excused = set(in_time)
        for ticket, (shape, place) in waiting(then).items():
            left = dict(free)
            for reserver in reservations:
                if reserver.slot < place.slot and reserver.id in in_time:
                    _set_aside(left, reserver)
            wanted = set(shape.requirement.resources)
            if all(left.get(cell, 0) <= 0 for cell, _ in grant.holdings if cell.resource in wanted):
                excused.add(ticket)
        return excused

    @staticmethod
    def _stands(step: Step, resumed: Ticket) -> Slot:
        queued = (change.ticket for change in step.changes if isinstance(change, Queued))
        return next((ticket.slot for ticket in queued if ticket.id == resumed.id), resumed.slot)

    def check(self, book: Book) -> None:
        """Raise if somebody who waits was overtaken too often by requests that hold nothing yet."""
        for ticket in waiting(book):
            bound = self._max_overtakes + self.allowance[ticket]
            assert self.unnested[ticket] <= bound, f"{ticket} was overtaken {self.unnested[ticket]} times, not {bound}"

    def _is_hurt(
        self, book: Book, shape: Shape, place: Ticket, grant: Grant, amounts: Mapping[CellId, int], *, reserving: bool
    ) -> bool:
        if not fits_idle(book, shape):
            return False
        if reserving:
            lacking = {cell for cell, amount in place.reserved if amounts.get(cell, 0) < amount}
            return any(cell in lacking for cell, _ in grant.holdings)
        touched = {holding.cell.resource for holding in grant.holdings}
        return any(
            demand.resource in touched and not _has_room(book, demand, amounts, shape.pool)
            for demand in shape.requirement.all_demands
        )
