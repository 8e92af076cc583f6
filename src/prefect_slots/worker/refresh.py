"""Registration of a worker's machine, refreshed at intervals; shared by both ways of starting a worker.

All of it runs in the engine's thread, and the survey beside it. Each piece of news is reported once: a GPU that is
broken or gone and its holder, a number that changed, a source that cannot be read any more.
"""

import asyncio
import concurrent.futures
import logging
import os
import re
from collections.abc import Callable
from dataclasses import replace

from prefect_slots.acquire.client import session_at
from prefect_slots.acquire.coordination import coordinate
from prefect_slots.acquire.differences import changes
from prefect_slots.acquire.engine import engine
from prefect_slots.acquire.registration import Registration, register_everywhere
from prefect_slots.acquire.session import Session
from prefect_slots.errors import ConfigError, SlotsError
from prefect_slots.ledger import registry
from prefect_slots.limits.client import Database
from prefect_slots.model import Finding, Registered, sanitise_machine_name
from prefect_slots.requiring.target import target_of
from prefect_slots.settings import Settings
from prefect_slots.worker.configuration import Configuration

# Reports a text to a person; the number is a level of `logging`.
Say = Callable[[int, str], None]

_NUMBERS = re.compile(r"\d+")


class Refresher:
    """Registers one machine and refreshes the registration for as long as a worker runs on it.

    Args:
        settings: This machine's settings.
        name: Its name if it has none yet.
        say: The receiver of news about it.

    Raises:
        ConfigError: if no Prefect server is configured.
    """

    def __init__(self, settings: Settings, name: str | None, say: Say) -> None:
        # A worker without a server is a mistake, though everything else here works without one.
        coordination = coordinate(settings.coordination, os.environ)
        if coordination.url is None:
            raise ConfigError(
                source="settings",
                key="coordination",
                reason="a worker needs a Prefect server; set PREFECT_API_URL and leave coordination at auto",
            )
        self._url = coordination.url
        self._target = target_of(settings, coordination)
        self._configuration = Configuration(settings, os.environ)
        self._name = name
        self._say = say
        self._running = engine()
        self._keeping: concurrent.futures.Future[None] | None = None
        self._known: Registered | None = None
        self._told: dict[tuple[str, str], str] = {}

    def begin(self) -> concurrent.futures.Future[str]:
        """Register the machine, report it, and refresh it from then on; the future's result is its name.

        Raises:
            SlotsError: in the future, if the machine cannot be registered.
        """
        return self._running.submit(self._begin())

    def end(self) -> None:
        """End the refreshing; the registration stays."""
        if self._keeping is not None:
            self._keeping.cancel()

    def env(self, machine: str) -> dict[str, str]:
        """Return the variables by which a worker and its flow runs all mean the same ledger."""
        source = self._target.settings.source
        # Without the order, CUDA numbers GPUs by speed, and a flow run's own choice of a number means another GPU.
        return {
            "WORKER_ID": machine,
            "PREFECT_SLOTS_STATE_DIR": str(self._target.folder),
            "PREFECT_SLOTS_ENFORCE": self._target.settings.enforce,
            "PREFECT_API_URL": self._url,
            "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
            **({"PREFECT_SLOTS_CONFIG": source} if source != "defaults" else {}),
        }

    async def _begin(self) -> str:
        session = session_at(self._running, self._target)
        settings = self._target.settings
        done = await register_everywhere(
            session.ledger, settings, url=self._url, name=self._new_name(), heartbeat=settings.refresh_seconds
        )
        # Only a registered machine may take leases: before, its limits do not exist.
        await session.use_server(self._url)
        name = done.registered.machine or ""
        limits = len(done.limits.entries) if done.limits else 0
        self._say(logging.INFO, f"{name} is registered with {limits} limits on {self._url}")
        self._tell(done)
        self._keeping = self._running.submit(self._keep(done.database))
        return name

    def _new_name(self) -> str | None:
        """Return the name that the worker was given, for a machine that has none; several workers may be on one."""
        named, known = session_at(self._running, self._target).ledger.read(
            lambda tx: (registry.is_named(tx), tx.meta("machine"))
        )
        if not named:
            return self._name
        if self._name is not None and sanitise_machine_name(self._name) != known:
            self._say(logging.WARNING, f"the worker is called '{self._name}'; this machine stays '{known}'")
        return None

    async def _keep(self, database: Database | None) -> None:
        session = session_at(self._running, self._target)
        # On a machine without waiters, no other process reaps the grants of dead flow runs.
        reaping = asyncio.get_running_loop().create_task(session.upkeep.run())
        try:
            while True:
                await asyncio.sleep(self._configuration.settings.refresh_seconds)
                try:
                    self._follow(session)
                    # Named or not: a registration from another file, made meanwhile by a person, is not undone.
                    settings = replace(self._configuration.settings, named=False)
                    self._tell(
                        await register_everywhere(
                            session.ledger,
                            settings,
                            url=self._url,
                            heartbeat=settings.refresh_seconds,
                            database=database,
                        )
                    )
                except Exception as error:
                    # A mistake of ours must end neither the refreshing of the limits nor the reaping beside it.
                    words = str(error) if isinstance(error, SlotsError) else f"{type(error).__name__}: {error}"
                    text = f"this machine could not be registered anew; what was registered stays: {words}"
                    self._tell_new({**self._told, ("", _NUMBERS.sub("#", words)): text})
        finally:
            reaping.cancel()

    def _follow(self, session: Session) -> None:
        for words in self._configuration.reread():
            self._say(logging.INFO, words)
        session.use(self._configuration.settings)

    def _tell(self, done: Registration) -> None:
        if self._known is not None:
            for news in changes(self._known, done.registered):
                self._say(logging.WARNING, news)
        self._known = done.registered
        told = {_key(finding): _words(finding) for finding in done.findings if finding.severity != "info"}
        if (wrong := self._configuration.wrong) is not None:
            told["configuration", str(wrong)] = f"the configuration stays as it was: {wrong}"
        self._tell_new(told)

    def _tell_new(self, told: dict[tuple[str, str], str]) -> None:
        for key, words in told.items():
            if key not in self._told:
                self._say(logging.WARNING, words)
        for key, words in self._told.items():
            if key not in told:
                self._say(logging.INFO, f"no longer so: {words}")
        self._told = told


def _words(finding: Finding) -> str:
    remedy = f"; {finding.remedy}" if finding.remedy else ""
    return f"{finding.severity}: {finding.subject}: {finding.problem}{remedy}"


def _key(finding: Finding) -> tuple[str, str]:
    # Seconds that pass and seats that are taken do not make a new finding; a limit's other number does.
    is_limit = finding.subject.startswith("limit ")
    return finding.subject, finding.problem if is_limit else _NUMBERS.sub("#", finding.problem)
