"""One request: all that a caller asks of a machine, on its way from `requires`, `run` or a pool to the ledger.

Pure and immutable: parts that are known at the call only (label, run, enclosing grant) are filled in by `replace`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from prefect_slots.model.requirement import Requirement
from prefect_slots.model.terms import Terms, check_seconds


@dataclass(frozen=True)
class Parent:
    """The grant that encloses a request, and its ledger."""

    # A job that was sent to another machine takes the token along; there it names no grant of that machine's ledger.

    ledger: str
    grant: str

    @classmethod
    def from_token(cls, token: str) -> Self | None:
        """Return the grant that a value of `PREFECT_SLOTS_GRANT` names, or `None` if it names none."""
        ledger, _, grant = token.partition(":")
        return cls(ledger, grant) if ledger and grant else None

    @property
    def token(self) -> str:
        """The value of `PREFECT_SLOTS_GRANT` for this grant."""
        return f"{self.ledger}:{self.grant}"


@dataclass(frozen=True, kw_only=True)
class Request(Terms):
    """All that a caller asks for: its terms, its demands, and the place of the call.

    Attributes:
        id: Id of the ticket, then of the grant; new for every request, empty until it is put to a ledger.
        requirement: Demands on the machine; `None` if they depend on the call, or for a pool's task without any.
        amounts: Amounts of each alternative in the caller's own words, for `Grant.chosen`.
        limit: Seconds of running after which a pool kills the task; `None` for no limit.
        label: Caller for people: the function and its line, or the command.
        parent: Enclosing grant, if any.
        run: Id of the flow run; runs are served in turn. Empty for the process itself.
        awaited_by: Ids of the flow runs in other processes that await this one's, nearest first; their grants enclose a
            request without a parent.
        for_children: The grant is used by child processes, not by the owner.

    Raises:
        InvalidRequirement: if `limit` or a term is out of its range.
    """

    # No id by default: this module is pure, and a random number is not.
    id: str = ""
    requirement: Requirement | None = None
    # Beside the requirement, which has lost the caller's units and spelling.
    amounts: tuple[Mapping[str, Any], ...] = ({},)
    limit: float | None = None
    label: str = ""
    parent: Parent | None = None
    run: str = ""
    awaited_by: tuple[str, ...] = ()
    for_children: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_seconds(self.limit)

    @property
    def wanted(self) -> Requirement:
        """The requirement of a request that is put to a ledger.

        Raises:
            ValueError: if there is none.
        """
        if self.requirement is None:
            raise ValueError(f"a request without a requirement is not put to a ledger: {self}")
        return self.requirement
