"""The book: cells, grants and waiting tickets of one machine, as the view that scheduling decides on.

Tickets of one shape (same requirement, priority and duration) are interchangeable, so that a view holds the cells, the
grants and only the front of each line: its size grows with the number of shapes, not of waiting tickets. A nested
ticket is a line of its own. An `Event` happens to a book, and a decision answers it with a sequence of `Change`s.
"""

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from prefect_slots.model.requirement import Requirement

# Environment variable of a child process: the grant that it was started under, as `LEDGER:GRANT`.
TOKEN = "PREFECT_SLOTS_GRANT"
# Tickets without a reservation that a view shows of each line. Most events grant one or two tickets of a line, so that
# four are seldom used up.
FRONT = 4


# Tuples, not dataclasses: decisions compare and sort them by the thousand.
class CellId(NamedTuple):
    """A cell as the ledger numbers it: `("gpu_mem", 1)`."""

    resource: str
    number: int


class Slot(NamedTuple):
    """A slot in the queue; the lower one is ahead."""

    turn: int
    seq: int


class Holding(NamedTuple):
    """`amount` units on one cell."""

    cell: CellId
    amount: int


@dataclass(frozen=True)
class CellState:
    """A cell with its nominal capacity and its foreign use, in the resource's unit.

    Attributes:
        lone: A process can use no other cell of the resource beside it.
        display: The part of `foreign` that does not stand in the way of a whole GPU, and is no part of shares.
        label: Product name of a GPU.
        compute_capability: CUDA's, of an NVIDIA GPU; empty if unknown.
    """

    id: CellId
    capacity: int
    foreign: int = 0
    lone: bool = False
    display: int = 0
    label: str = ""
    compute_capability: str = ""

    @property
    def effective(self) -> int:
        """Capacity less foreign use."""
        return max(0, self.capacity - self.foreign)


@dataclass(frozen=True, kw_only=True)
class Nesting:
    """Position of a nested ticket or grant among the grants that enclose it.

    Attributes:
        ticket: Its own id: a nested ticket is never interchangeable with another.
        parent: The innermost grant that encloses it.
        root: The outermost grant of its chain.
        source: The grant that it draws on, or `None` if it takes cells of the machine.
    """

    ticket: str
    parent: str
    root: str
    source: str | None


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The properties that make tickets interchangeable; `nesting` is `None` for requests outside any grant.

    Attributes:
        expected: Expected duration of the grant in seconds, by the asker's word; `None` if unknown.
    """

    requirement: Requirement
    priority: int = 0
    expected: float | None = None
    nesting: Nesting | None = None

    @property
    def pool(self) -> str | None:
        """The grant that serves this shape, or `None` for the machine."""
        return self.nesting.source if self.nesting else None

    # Cached: it is read for every line of every decision, and JSON is slow.
    @cached_property
    def key(self) -> str:
        """Text that is equal for equal shapes only, the same in every process."""
        # A nested ticket is a line of its own: its place in the chain of grants decides when it may wait.
        own = self.nesting.ticket if self.nesting else None
        return json.dumps([self.requirement.to_data(), self.priority, self.expected, own], separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A requirement in the queue.

    Attributes:
        seq: Arrival number; unique.
        turn: Turn of its run; the queue is ordered by turn, then arrival.
        run: The flow run that it asks for; empty for none.
        base: The line's count of overtakes when the ticket was queued.
        reserved: Its reserved cells, each with the amount that it will take there; empty until it reserves.
    """

    id: str
    seq: int
    turn: int = 0
    run: str = ""
    base: int = 0
    reserved: tuple[Holding, ...] = ()

    @property
    def slot(self) -> Slot:
        """Its slot in the queue."""
        return Slot(self.turn, self.seq)


@dataclass(frozen=True, kw_only=True)
class Line:
    """The waiting tickets of one shape, by slot.

    Attributes:
        overtakes: Grants to later tickets that competed with this shape; a ticket's count is this minus its base.
        tickets: Every ticket with a reservation, and at least the first of the others.
        truncated: More tickets without a reservation wait behind the listed ones.
        last: The last slot of a truncated line.
    """

    shape: Shape
    overtakes: int = 0
    tickets: tuple[Ticket, ...] = ()
    truncated: bool = False
    last: Slot | None = None

    @property
    def end(self) -> Slot:
        """The slot of the last ticket."""
        return self.last or self.tickets[-1].slot


@dataclass(frozen=True)
class Grant:
    """A ticket that holds cells.

    Attributes:
        chosen: Index of the alternative that it holds.
        overtaken: Its count of overtakes when granted, for the case that the server refuses and it must wait again.
        ends: Expected end on the clock of the decisions, by its holder's word; `None` if unknown.
        closed: Its holder has ended and draws on it go on: it keeps its cells and takes no new draw.
    """

    id: str
    shape: Shape
    holdings: tuple[Holding, ...]
    seq: int = 0
    turn: int = 0
    run: str = ""
    chosen: int = 0
    overtaken: int = 0
    ends: float | None = None
    closed: bool = False

    @property
    def slot(self) -> Slot:
        """The slot of its ticket in the queue."""
        return Slot(self.turn, self.seq)

    @property
    def root(self) -> str:
        """The outermost grant of its chain: itself unless it is nested."""
        return self.shape.nesting.root if self.shape.nesting else self.id


@dataclass(frozen=True, kw_only=True)
class Book:
    """Cells, grants and lines of one machine at one moment."""

    cells: tuple[CellState, ...] = ()
    grants: tuple[Grant, ...] = ()
    lines: tuple[Line, ...] = field(default_factory=tuple)


# Events


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A ticket joins its line. `Ticket.turn` and `Ticket.base` are filled in by the decision.

    Attributes:
        tails: Last turn of its run in each line in which the run waits, by the line's key.
    """

    shape: Shape
    ticket: Ticket
    tails: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Left:
    """A ticket leaves ungranted: timed out, cancelled, or its owner died."""

    ticket: str


@dataclass(frozen=True, kw_only=True)
class Ended:
    """A grant ends: its holder is done, or dead."""

    grant: str


@dataclass(frozen=True, kw_only=True)
class Returned:
    """The server refused a grant of the ledger: its cells are freed, and the ticket steps aside until it is resumed."""

    grant: str
    blocked_on: str


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """A ticket that stepped aside is back in its line, at its old slot or the nearest one that is left."""

    shape: Shape
    ticket: Ticket
    overtaken: int = 0


@dataclass(frozen=True, kw_only=True)
class Changed:
    """Cells were registered, or their capacity or foreign use changed; the book given to `decide` has them already."""


Event = Asked | Left | Ended | Returned | Resumed | Changed


# Changes, in the order of writing


@dataclass(frozen=True, kw_only=True)
class Queued:
    """Write the ticket as waiting (new, or resumed)."""

    shape: Shape
    ticket: Ticket


@dataclass(frozen=True, kw_only=True)
class Dequeued:
    """Delete the waiting ticket."""

    ticket: str


@dataclass(frozen=True, kw_only=True)
class Granted:
    """Turn the waiting ticket into a grant on these cells, and wake its owner."""

    grant: Grant


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Delete the waiting draw and wake its owner: the grant that it asked to draw on has ended."""

    ticket: str


@dataclass(frozen=True, kw_only=True)
class Closed:
    """Close the grant: its holder has ended and draws on it go on, so that it keeps its cells and takes no new draw."""

    grant: str


@dataclass(frozen=True, kw_only=True)
class Freed:
    """Delete the grant; its cells are free."""

    grant: str


@dataclass(frozen=True, kw_only=True)
class SteppedAside:
    """Turn the grant back into a waiting ticket that scheduling passes over until it is resumed."""

    grant: Grant
    blocked_on: str


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Set the line's count of overtakes."""

    shape: Shape
    overtakes: int


@dataclass(frozen=True, kw_only=True)
class Reserved:
    """Set the cells that the ticket reserves; empty means none."""

    ticket: str
    cells: tuple[Holding, ...]


Change = Queued | Dequeued | Granted | Refused | Closed | Freed | SteppedAside | Counted | Reserved


@dataclass(frozen=True, kw_only=True)
class Decision:
    """The changes to write, and the book with them.

    Attributes:
        again: The front of a line was used up: write the changes, load the book anew and decide once more.
    """

    book: Book
    changes: tuple[Change, ...]
    again: bool = False
