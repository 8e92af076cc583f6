"""Findings: problems of a machine and their remedies, in words that are safe to print."""

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

Severity: TypeAlias = Literal["info", "warning", "error", "ok"]
"""Importance of a finding; `ok` is only the doctor's, for a check that passed."""

# Control characters move a terminal's cursor; surrogates (bytes of a variable that are no UTF-8) cannot be encoded.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    """Return `text`, quoted from a driver, a server or a variable, with unprintable characters as escapes."""
    return UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A remark of a probe or a check for people; its texts are made printable.

    Attributes:
        subject: The thing concerned: a resource, a GPU's UUID, a limit's name, a file.
        problem: The observation, without a full stop.
        remedy: An instruction without a full stop; empty if nothing needs doing.
    """

    subject: str
    problem: str
    remedy: str = ""
    severity: Severity = "warning"

    def __post_init__(self) -> None:
        # Findings quote drivers, servers and variables, and go to terminals and logs as they are.
        for name in ("subject", "problem", "remedy"):
            object.__setattr__(self, name, printable(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class Stale:
    """A measurement of foreign use that is out of date; the last known amount still counts.

    Attributes:
        machine: The machine's name.
        resource: `"license.ansys"`, or `"gpu_mem"` with the GPU's `label`.
        seen_at: Time of the last successful measurement, a Unix time; `None` if there was none.
        misses: Number of failed measurements in a row.
        why: Reason of the last failure, in the words of the server or driver.
    """

    machine: str
    resource: str
    label: str = ""
    seen_at: float | None
    misses: int
    why: str
