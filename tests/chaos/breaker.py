"""The breaker: three threads that do to processes, server and counts what the plan says, and count what they did."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator

from tests.chaos.meddler import Meddler
from tests.chaos.plan import Act, Decision, on_counts, on_processes, on_the_server
from tests.chaos.scene import Machine, Place
from tests.chaos.server import BreakableServer
from tests.chaos.witness import Log

_SIGNALS = {Act.KILL: signal.SIGKILL, Act.TERM: signal.SIGTERM, Act.INT: signal.SIGINT, Act.STOP: signal.SIGSTOP}


class Breaker:
    """Breaks until told to stop.

    Attributes:
        done: How often what was done.
        failed: What the breaker itself could not do, which says nothing about what it breaks.
        crashed: Processes that ended though nobody ended them.
    """

    def __init__(self, server: BreakableServer, machines: list[Machine], meddler: Meddler, seed: int, log: Log) -> None:
        self._log = log
        self.done: Counter[str] = Counter()
        self.failed: list[BaseException] = []
        self.crashed: list[str] = []
        self._server = server
        self._machines = machines
        self._meddler = meddler
        self._over = threading.Event()
        self._stopped: list[tuple[threading.Timer, Place]] = []
        self._threads = [
            self._thread("processes", on_processes(seed, len(machines)), self._to_a_process),
            self._thread("server", on_the_server(seed), self._to_the_server),
            self._thread("counts", on_counts(seed, len(machines)), self._to_counts),
        ]

    def _thread(self, name: str, plan: Iterator[Decision], do: Callable[[Decision], None]) -> threading.Thread:
        def work() -> None:
            try:
                for decision in plan:
                    if self._over.wait(decision.after):
                        return
                    do(decision)
            except BaseException as error:
                self.failed.append(error)

        return threading.Thread(target=work, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        for machine in self._machines:
            for place in machine.places:
                place.start()
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, with the server running and nobody stopped."""
        self._over.set()
        for thread in self._threads:
            thread.join(200)
        for timer, place in self._stopped:
            timer.cancel()
            if place.runs:
                place.send(signal.SIGCONT)

    def _to_a_process(self, decision: Decision) -> None:
        machine = self._machines[decision.machine]
        self.replace_the_dead()
        place = machine.places[int(decision.which * len(machine.places))]
        if not place.runs:
            return
        self._log.note(f"{decision.act} to {place.record}")
        place.send(_SIGNALS[decision.act])
        self.done[decision.act] += 1
        if decision.act is Act.STOP:
            process = place.process

            def go_on() -> None:
                if process is not None and process.poll() is None:
                    process.send_signal(signal.SIGCONT)

            timer = threading.Timer(decision.lasting, go_on)
            timer.daemon = True
            timer.start()
            self._stopped = [(t, p) for t, p in self._stopped if t.is_alive()] + [(timer, place)]

    def replace_the_dead(self) -> None:
        """Start another process wherever one has ended."""
        for machine in self._machines:
            for place in machine.places:
                if not place.runs:
                    self.note_crash(place)
                    place.start()
                    self.done["processes started"] += 1

    def note_crash(self, place: Place) -> None:
        """Take note if the process that was here should still be running."""
        code = place.process.returncode if place.process else 0
        was_told_to = code in (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM, 0) or place.interrupted
        if not was_told_to:
            self.crashed.append(f"{place.record} ended with {code}:\n{place.words[-3000:]}")

    def _to_the_server(self, decision: Decision) -> None:
        server = self._server
        with server.steady:
            self._log.note(f"{decision.act} for {decision.lasting:.1f} s")
            if decision.act is Act.SERVER_STOP:
                server.send(signal.SIGSTOP)
                self._over.wait(decision.lasting)
                server.send(signal.SIGCONT)
            else:
                (server.kill if decision.act is Act.SERVER_KILL else server.stop)()
                self._over.wait(min(decision.lasting, 8.0))
                server.start()
                self.done["server started again"] += 1
            self._log.note("server runs again")
            self.done[decision.act] += 1

    def _to_counts(self, decision: Decision) -> None:
        with self._server.steady:
            self._meddler.take_back_what_is_due()
            if self._meddler.do(decision):
                self.done[decision.act] += 1
