"""Others who touch the server's counts: somebody who edits them, and a stock user who takes slots by the plain API.

What they do they take back: what a foreign user has taken is nobody else's to give back, and a count that is too high
looks the same as his.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.chaos.plan import Act, Decision
from tests.chaos.scene import FLOATING, SEATS, Machine
from tests.chaos.server import BreakableServer
from tests.chaos.witness import FLEET, Log, Witness
from tests.support.stress import clock

from prefect_slots.limits.naming import split_mirror

FLEET_LIMIT = f"license:{FLOATING}"


class Meddler:
    """Touches counts while the server runs, one decision at a time.

    Args:
        folder: Of the records: fleet seats that the foreign user takes are seats that nobody else may have.
        log: Told of everything.
    """

    def __init__(self, server: BreakableServer, machines: list[Machine], folder: Path, log: Log) -> None:
        self._log = log
        self._server = server
        self._machines = machines
        self._witness = Witness(folder / "foreign.jsonl")
        self._due: list[tuple[float, Callable[[], None]]] = []
        self._foreign: dict[str, int] = {}
        self._edited: set[str] = set()

    def do(self, decision: Decision) -> bool:
        """Do what was decided; return whether there was something to do it to."""
        counts = self._server.counts()
        name = self._machines[decision.machine].box.name
        if decision.act is Act.RAISE_FLEET:
            return self._edit(FLEET_LIMIT, SEATS + int(decision.size * 2), decision)
        if decision.act is Act.FOREIGN and decision.size < 0.25:
            return self._use_a_seat(decision)
        mirrors = decision.act is Act.EDIT_MIRROR
        # Neither the fleet's limit nor its mirrors have a machine's name: a raised mirror makes its machine take as
        # much off the limit, which then counts too little for the fleet.
        limits = sorted(limit for limit in counts if name in limit and _is_mirror(limit) == mirrors)
        limit = limits[int(decision.which * len(limits))]
        if decision.act is Act.FOREIGN:
            return self._use(limit, max(1, int(decision.size * _usual(limit))), decision)
        now = counts[limit]
        wrong = int(decision.size * _usual(limit) * 1.5)
        return wrong != now and self._edit(limit, wrong, decision)

    def take_back_what_is_due(self, *, everything: bool = False) -> None:
        """Give back and correct what has lasted long enough."""
        now = clock()
        for entry in [entry for entry in self._due if everything or entry[0] <= now]:
            entry[1]()
            self._due.remove(entry)

    def _edit(self, name: str, slots: int, decision: Decision) -> bool:
        self._log.note(f"edit {name} to {slots}")
        self._server.edit(name, slots)
        parts = split_mirror(name)
        limit = parts[0] if parts else name
        if limit not in self._edited:
            self._edited.add(limit)
            self._due.append((clock() + decision.lasting, lambda: self._correct(limit)))
        return True

    def _correct(self, limit: str) -> None:
        """Take off a count by hand what none of the machines and no foreign user stands for."""
        counts = self._server.counts()
        ours = sum(slots for name, slots in counts.items() if name.startswith(f"tag:{limit}@"))
        too_much = counts[limit] - ours - self._foreign.get(limit, 0)
        self._log.note(f"correct {limit} by {too_much}: {counts[limit]} counted, {ours} of them by machines")
        if too_much > 0:
            self._server.give_back(limit, too_much)
        self._edited.discard(limit)

    def _use(self, limit: str, slots: int, decision: Decision) -> bool:
        if not self._server.take(limit, slots):
            return False
        self._log.note(f"foreign use of {limit} begins: {slots}")
        self._foreign[limit] = self._foreign.get(limit, 0) + slots

        def give_back() -> None:
            self._log.note(f"foreign use of {limit} ends: {slots}")
            self._server.give_back(limit, slots)
            self._foreign[limit] -= slots

        self._due.append((clock() + decision.lasting, give_back))
        return True

    def _use_a_seat(self, decision: Decision) -> bool:
        if not self._use(FLEET_LIMIT, 1, decision):
            return False
        holding = ExitStack()
        holding.enter_context(self._witness.holding([(f"{FLEET}/license.{FLOATING}", 1)]))
        moment, give_back = self._due.pop()

        def end() -> None:
            holding.close()
            give_back()

        self._due.append((moment, end))
        return True


def _is_mirror(limit: str) -> bool:
    return limit.startswith("tag:")


def _usual(limit: str) -> int:
    """Return about how much a limit has."""
    name = limit.removeprefix("tag:")
    if name.startswith(("gpu-mem:", "mem:")):
        return 24576
    return 4 if name.startswith("cpus:") else 3 if name.startswith("license:") else 1
