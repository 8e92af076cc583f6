"""One chaos from beginning to end: everything is started, broken, left in peace, and judged."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.chaos.auditor import AUDIT
from tests.chaos.breaker import Breaker
from tests.chaos.judge import Records
from tests.chaos.meddler import Meddler
from tests.chaos.scene import CONFIG, Machine, end_at_once
from tests.chaos.server import BreakableServer
from tests.chaos.verdict import Verdict, unexplained
from tests.chaos.witness import Log
from tests.support.boxes import Box
from tests.support.polling import until
from tests.support.postgres import Postgres
from tests.support.stress import clock

PROCESSES = 3
SETTLING_SECONDS = 120.0
_PROGRESS_SECONDS = 5.0
_ROOT = Path(__file__).parents[2]


class Chaos:
    """One chaos.

    Args:
        folder: An empty folder; what it holds afterwards tells what happened.
        say: Told how it goes, every few seconds.
    """

    def __init__(
        self,
        folder: Path,
        *,
        minutes: float,
        seed: int,
        machines: int = 2,
        postgres: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self._folder = folder
        self._records = folder / "records"
        self._stop_file = folder / "stop"
        self._minutes = minutes
        self._seed = seed
        self._number_of_machines = machines
        self._postgres = postgres
        self._say = say
        self._ending = ExitStack()
        self._machines: list[Machine] = []
        self._verdict = Verdict(seed=seed, minutes=minutes)

    def run(self) -> Verdict:
        """Play it; nothing that it started runs afterwards."""
        with self._ending:
            self._records.mkdir(parents=True)
            server = self._start_server()
            self._machines = [self._machine(server, number) for number in range(self._number_of_machines)]
            auditor = self._start_auditor()
            log = Log(self._records / "broken.log")
            meddler = Meddler(server, self._machines, self._records, log)
            breaker = Breaker(server, self._machines, meddler, self._seed, log)
            breaker.start()
            self._watch(server, breaker)
            self._say("enough: nothing is broken any more")
            breaker.stop()
            self._verdict.broken += [repr(error) for error in breaker.failed]
            if not breaker.failed:
                with server.steady:
                    meddler.take_back_what_is_due(everything=True)
                self._settle(server, breaker)
            self._verdict.done = dict(breaker.done)
            self._verdict.crashed = breaker.crashed
            auditor.communicate(timeout=60)
            self._judge()
        return self._verdict

    # Starting

    def _start_server(self) -> BreakableServer:
        extra: dict[str, str] = {}
        if self._postgres:
            postgres = Postgres()
            self._ending.callback(postgres.stop)
            postgres.start()
            extra["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = postgres.url
        home = self._folder / "server"
        home.mkdir()
        server = BreakableServer(home, extra)
        self._ending.callback(server.stop)
        server.start()
        return server

    def _machine(self, server: BreakableServer, number: int) -> Machine:
        folder = self._folder / f"machine-{number}"
        folder.mkdir()
        box = Box(folder, server.url, CONFIG)
        box.register()
        machine = Machine(box, self._records, self._stop_file, self._seed, number, PROCESSES)
        self._ending.callback(self._end, machine)
        return machine

    def _end(self, machine: Machine) -> None:
        for process in (*(place.process for place in machine.places), machine.bystander):
            end_at_once(process)

    def _start_auditor(self) -> subprocess.Popen[Any]:
        command = [sys.executable, "-m", "tests.chaos.auditor", str(self._records), json.dumps(self._capacity)]
        process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, start_new_session=True)
        self._ending.callback(end_at_once, process)
        return process

    @property
    def _capacity(self) -> dict[str, int]:
        return {place: amount for machine in self._machines for place, amount in machine.capacity().items()}

    # Going on

    def _watch(self, server: BreakableServer, breaker: Breaker) -> None:
        ends = clock() + self._minutes * 60
        began, next_word = clock(), clock() + _PROGRESS_SECONDS

        def over() -> bool:
            nonlocal next_word
            if clock() >= next_word:
                next_word += _PROGRESS_SECONDS
                self._say(self._progress(clock() - began, server, breaker))
            return clock() >= ends or bool(breaker.failed) or bool(self._audit().get("violations"))

        until(over, self._minutes * 60 + 600, what="the end of the chaos")

    def _audit(self) -> dict[str, Any]:
        file = self._records / AUDIT
        return json.loads(file.read_text()) if file.exists() else {}

    def _progress(self, seconds: float, server: BreakableServer, breaker: Breaker) -> str:
        audit = self._audit()
        killed = sum(number for name, number in audit.get("counts", {}).items() if name.startswith("killed"))
        done = ", ".join(f"{name} {number}" for name, number in sorted(breaker.done.items()))
        return (
            f"{seconds:5.0f} s: {audit.get('grants', 0)} grants, {len(audit.get('violations', []))} violations, "
            f"longest wait {audit.get('longest_wait', 0.0):.1f} s; server {'runs' if server.runs else 'is down'}; "
            f"killed at a point {killed}, {done}"
        )

    # Ending

    def _settle(self, server: BreakableServer, breaker: Breaker) -> None:
        for machine in self._machines:
            machine.start_bystander()
        self._stop_file.touch()
        places = [place for machine in self._machines for place in machine.places]
        try:
            until(lambda: not any(place.runs for place in places), SETTLING_SECONDS, what="everybody's end")
        except AssertionError:
            for place in places:
                if place.runs:
                    place.send(signal.SIGUSR1)
                    self._verdict.stuck.append(place.record)
        for place in places:
            breaker.note_crash(place)
        began = clock()
        try:
            until(lambda: not self._left(server), SETTLING_SECONDS, what="empty ledgers and counts")
            self._verdict.settled_after = clock() - began
        except AssertionError:
            self._verdict.leaked = self._left(server)
        for machine in self._machines:
            machine.end_bystander()

    def _left(self, server: BreakableServer) -> dict[str, Any]:
        left: dict[str, Any] = {name: slots for name, slots in server.counts().items() if slots}
        for machine in self._machines:
            if machine.box.in_use():
                left[machine.box.name] = machine.box.dump()
        return left

    def _judge(self) -> None:
        records = Records(self._records)
        records.read()
        verdict = self._verdict
        verdict.grants = records.grants
        verdict.longest_wait = records.longest_wait
        verdict.counts = dict(records.counts)
        verdict.failures = unexplained(records.failures)
        verdict.violations = sorted({*records.overlaps(self._capacity), *self._audit().get("violations", ())})
