"""Outcomes: the meanings of the server's answers about slots.

Standard library only: the lease engine names these without importing Prefect.
"""

from dataclasses import dataclass, field
from uuid import UUID

from prefect_slots.errors import SlotsError


class Busy(SlotsError):
    """The slots are held by others; nothing was taken.

    Attributes:
        names: The limits asked for; the server does not name the full one among them.
        retry_after: Seconds the server suggests to wait, or `None`. A release may come sooner.
    """

    names: tuple[str, ...]
    retry_after: float | None

    def __str__(self) -> str:
        return f"no free slots on {', '.join(self.names)}"


class TooLarge(SlotsError):
    """More slots were asked for than one of the limits has; nothing was taken.

    Not always for ever: the limit may have been lowered for a while.
    """

    names: tuple[str, ...]
    slots: int

    def __str__(self) -> str:
        return f"{self.slots} slots are more than one of these limits has: {', '.join(self.names)}"


class UnknownOutcome(SlotsError):
    """A change without a definite answer: the server may or may not have applied it.

    Repeating it could apply it twice. Look it up by its holder, then decide.
    """

    request: str
    cause: str

    def __str__(self) -> str:
        return f"'{self.request}' may or may not have been applied: {self.cause}"


@dataclass(frozen=True, kw_only=True)
class TakenLimit:
    """A limit on which slots were taken, as the server named it then."""

    id: UUID
    name: str
    limit: int


@dataclass(frozen=True, kw_only=True)
class OccupiedLease:
    """Slots that are occupied until the lease runs out.

    Attributes:
        seconds: Life left when the answer came, counted from before the request was sent: our deadline is never
            later than the server's.
        limits: The occupied limits, without mirrors.
        mirrors: Their mirrors.
    """

    id: UUID
    seconds: float
    limits: tuple[TakenLimit, ...]
    mirrors: tuple[TakenLimit, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExistingLimit:
    """A limit as the server has it.

    Attributes:
        active: A limit that is not active grants everything and counts nothing.
        decay: Slots given back per second by themselves; above zero the limit is a rate limit.
        changed_at: Time of the last change of number or slots, by the server's clock (Unix seconds).
        id: The server's id of it: another one after it was deleted and made again.
    """

    limit: int
    active: bool
    active_slots: int
    decay: float = 0.0
    changed_at: float = field(default=0.0, compare=False)
    id: UUID | None = None

    @property
    def room(self) -> int:
        """Slots that may be occupied at once; none while it is switched off."""
        return self.limit if self.active else 0
