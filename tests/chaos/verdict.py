"""The verdict: what was survived, and whether anything was over-committed, leaked, stuck or lost on the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

LEAST_GRANTS_A_MINUTE = 20


@dataclass(kw_only=True)
class Verdict:
    """What a chaos came to.

    Attributes:
        done: What was broken, by kind.
        counts: What the processes wrote down besides grants, by kind.
        violations: Moments at which more was held than there is.
        leaked: What ledgers and server still count in the end, by machine or limit.
        stuck: Processes that did not end when told to.
        crashed: Processes that ended by themselves.
        failures: Errors that a request ended with and that nothing explains.
        broken: Why the chaos itself could not go on; it then says nothing.
        settled_after: Seconds from the last request until everything was empty.
    """

    seed: int
    minutes: float
    grants: int = 0
    longest_wait: float = 0.0
    settled_after: float | None = None
    done: dict[str, int] = field(default_factory=dict[str, int])
    counts: dict[str, int] = field(default_factory=dict[str, int])
    violations: list[str] = field(default_factory=list[str])
    leaked: dict[str, Any] = field(default_factory=dict[str, Any])
    stuck: list[str] = field(default_factory=list[str])
    crashed: list[str] = field(default_factory=list[str])
    failures: list[str] = field(default_factory=list[str])
    broken: list[str] = field(default_factory=list[str])

    @property
    def least_grants(self) -> int:
        """How much must be granted for the rest to mean something."""
        return max(1, int(self.minutes * LEAST_GRANTS_A_MINUTE))

    @property
    def reasons(self) -> list[str]:
        """Why it failed; nothing if it did not."""
        few = [f"only {self.grants} grants, fewer than {self.least_grants}"] if self.grants < self.least_grants else []
        return [
            *(f"more held than there is: {each}" for each in self.violations),
            *(f"leaked: {name}: {what}" for name, what in self.leaked.items()),
            *(f"stuck: {each}" for each in self.stuck),
            *(f"crashed: {each}" for each in self.crashed),
            *(f"failed: {each}" for each in self.failures),
            *(f"the chaos itself broke: {each}" for each in self.broken),
            *few,
        ]

    def as_data(self) -> dict[str, Any]:
        """Return it for programs."""
        return {**asdict(self), "passed": not self.reasons}

    def show(self, console: Console) -> None:
        """Print it for people."""
        table = Table(title=f"chaos of {self.minutes:g} minutes, seed {self.seed}", title_justify="left")
        table.add_column("what")
        table.add_column("how often", justify="right")
        table.add_row("grants", str(self.grants))
        table.add_row("longest wait", f"{self.longest_wait:.1f} s")
        after = "never" if self.settled_after is None else f"after {self.settled_after:.1f} s"
        table.add_row("empty at the end", after)
        table.add_section()
        for survived in (self.done, self.counts):
            for name, number in sorted(survived.items()):
                table.add_row(name, str(number))
        table.add_section()
        for name, found in (
            ("violations", self.violations),
            ("leaked", self.leaked),
            ("stuck", self.stuck),
            ("crashed", self.crashed),
            ("unexplained errors", self.failures),
        ):
            table.add_row(name, str(len(found)), style="red" if found else "green")
        console.print(table)
        for reason in self.reasons:
            console.print(reason, style="red", markup=False, highlight=False)


def unexplained(failures: Iterable[str]) -> list[str]:
    """Return the failures other than what a process that was stopped within a transaction does to its neighbours."""
    return [failure for failure in failures if ": LedgerUnreadable: " not in failure or " locked" not in failure]
