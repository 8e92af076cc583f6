"""Reads for people and for looks at the machine: holdings, waiting tickets, owners, history.

Each returns plain records of one consistent state. Nothing here writes, and no decision is made from them.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

from prefect_slots.ledger import book
from prefect_slots.ledger.owner import PROOF
from prefect_slots.ledger.sql import Tables
from prefect_slots.model import CellId, Shape
from prefect_slots.system.processes import pid_namespace


@dataclass(frozen=True)
class Part:
    """One holding of one cell by a grant.

    Attributes:
        source: The grant that it draws on, if any: it is then part of that grant's holding.
        declared: Amount held, in the resource's unit.
        since: Time of the grant, a Unix time in seconds.
        pid: Process id of the owner; `None` if it has died and draws by others go on, or if it is `elsewhere`.
        shown_pid: The same for people, as its own pid namespace has it; 0 if it has died.
        elsewhere: Its owner's pid namespace is another one: no process id of it means anything here.
        started: Start time of that process.
        command: The one process that the owner runs under its grants, with its start time.
        for_children: Task processes of the owner use it, and the owner itself does not.
        processes: Those task processes, with their start times: the grant's own first, then those of tasks that it has
            submitted.
    """

    cell: CellId
    grant: str
    source: str | None
    label: str
    declared: int
    pid: int | None
    started: float
    since: float = 0.0
    shown_pid: int = 0
    elsewhere: bool = False
    command: tuple[int, float] | None = None
    for_children: bool = False
    processes: tuple[tuple[int, float], ...] = ()

    @property
    def user(self) -> int | None:
        """The process that uses it, itself or by its descendants; `None` if there is none."""
        if self.processes:
            return self.processes[0][0]
        return None if self.for_children else self.pid


def holdings(tables: Tables, resource: str | None = None) -> tuple[Part, ...]:
    """Return all holdings, or those of one resource, the oldest grant first."""
    # In the order of writing: the first process of a grant is its own.
    serving: dict[str, list[tuple[int, float]]] = {}
    for grant, pid, started in tables.all("SELECT held, pid, started FROM serving ORDER BY rowid"):
        serving.setdefault(grant, []).append((pid, started))
    rows = tables.all(
        "SELECT c.resource, c.number, o.namespace, o.command, o.command_started, h.for_children, "
        "h.id, h.source, h.label, c.amount, o.pid, COALESCE(o.started, 0.0), h.granted_at "
        "FROM holding c JOIN held h ON h.id=c.held LEFT JOIN owner o ON o.id=h.owner "
        "WHERE c.resource=COALESCE(?, c.resource) ORDER BY h.granted_at",
        resource,
    )
    here = pid_namespace()
    parts: list[Part] = []
    for name, number, namespace, command, command_started, for_children, grant, *columns in rows:
        part = Part(CellId(name, number), grant, *columns, for_children=bool(for_children))
        if namespace in (here, None):
            running = None if command is None else (command, command_started)
            own = tuple(serving.get(grant, ()))
            part = replace(part, shown_pid=part.pid or 0, command=running, processes=own)
        else:
            part = replace(part, shown_pid=part.pid or 0, pid=None, elsewhere=True)
        parts.append(part)
    return tuple(parts)


class Waiting(NamedTuple):
    """One ticket in the queue, or aside until the server has room (`blocked_on`, a limit's name)."""

    shape: Shape
    id: str
    label: str
    pid: int
    asked_at: float
    blocked_on: str | None
    overtaken: int


def waiting(tables: Tables) -> list[Waiting]:
    """Return all tickets by arrival."""
    # Aside from the queue the line's count does not apply: the ticket has taken its own along.
    rows = tables.all(
        f"SELECT {book.SHAPE}, t.id, t.label, COALESCE(o.pid, 0), "
        "t.asked_at, t.blocked_on, CASE WHEN t.blocked_on IS NULL THEN s.overtakes - t.base ELSE t.overtaken END "
        "FROM ticket t JOIN shape s ON s.key=t.shape LEFT JOIN owner o ON o.id=t.owner ORDER BY t.seq"
    )
    return [Waiting(book.shape_of(row[6], *row[:6]), *row[6:]) for row in rows]


class Enrolled(NamedTuple):
    """One owner, with the columns that prove its death and the number of its grants, tickets and leases."""

    lock_file: str
    pid: int
    started: float
    boot: str
    namespace: str
    command: int | None
    command_started: float | None
    program: str
    grants: int
    tickets: int
    leases: int


def owners(tables: Tables) -> list[Enrolled]:
    """Return all owners, the oldest first."""
    rows = tables.all(
        f"SELECT {PROOF}, program, "
        "(SELECT COUNT(*) FROM held WHERE owner=o.id AND NOT closed), "
        "(SELECT COUNT(*) FROM ticket WHERE owner=o.id), (SELECT COUNT(*) FROM lease WHERE owner=o.id) "
        "FROM owner o ORDER BY started"
    )
    return [Enrolled(*row) for row in rows]


def owner_pids(tables: Tables) -> set[int]:
    """Return the process ids of all owners whose pid namespace is this process's."""
    return set(tables.column("SELECT pid FROM owner WHERE namespace=?", pid_namespace()))


def grants_beside(tables: Tables, grant: str) -> int:
    """Return the number of grants that the owner of `grant` holds by their own right, itself included."""
    # A draw belongs to a grant that is counted already.
    sql = "SELECT COUNT(*) FROM held WHERE source IS NULL AND owner=(SELECT owner FROM held WHERE id=?)"
    return tables.value(sql, grant) or 0


def is_waited_for(tables: Tables, resource: str) -> bool:
    """Return whether any ticket of the queue asks the machine, and not a grant, for a resource."""
    # A shape is kept as long as it has tickets; its requirement is JSON.
    sql = "SELECT 1 FROM shape WHERE source IS NULL AND INSTR(requirement, ?) LIMIT 1"
    return tables.one(sql, f'"{resource}"') is not None


def held_around(tables: Tables, grant: str) -> set[str]:
    """Return the resources that a grant and those around it hold: a request inside it draws on them."""
    return set(
        tables.column(
            "WITH RECURSIVE around (id) AS (VALUES (?) UNION SELECT h.parent FROM held h JOIN around a ON h.id=a.id) "
            "SELECT DISTINCT resource FROM holding JOIN around ON held=id",
            grant,
        )
    )


def label(tables: Tables, grant: str) -> str:
    """Return the label of a grant, or its id if it is gone."""
    return tables.value("SELECT label FROM held WHERE id=?", grant) or grant


@dataclass(frozen=True)
class Span:
    """One holding that has ended; the time from `asked_at` to `granted_at` is its wait. Unix times in seconds.

    Attributes:
        pid: Process id of its owner; 0 if it had died, or if its pid namespace is another one.
    """

    grant: str
    label: str
    pid: int
    resource: str
    number: int
    amount: int
    asked_at: float
    granted_at: float
    ended_at: float


def history(tables: Tables, resource: str | None = None, since: float = 0.0) -> tuple[Span, ...]:
    """Return the holdings (of one resource) that ended after `since`, the oldest first; draws are not among them."""
    rows = tables.all(
        "SELECT held, label, CASE namespace WHEN ? THEN pid ELSE 0 END, resource, number, amount, "
        "asked_at, granted_at, ended_at FROM history WHERE resource=COALESCE(?, resource) AND ended_at>? ORDER BY id",
        *(pid_namespace(), resource, since),
    )
    return tuple(Span(*row) for row in rows)
