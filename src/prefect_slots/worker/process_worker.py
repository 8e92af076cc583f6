"""The worker type `slots-process`: Prefect's process worker on a machine that is registered first and kept so.

Prefect finds it by the entry point group `prefect.collections`, so that `prefect worker start --pool gpu --type
slots-process` needs no wrapper.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any, ClassVar

from prefect.logging.loggers import get_worker_logger
from prefect.workers.process import ProcessWorker

from prefect_slots.settings import load_settings
from prefect_slots.worker.refresh import Upkeep


class SlotsProcessWorker(ProcessWorker):
    """Executes flow runs as subprocesses, which share the machine by what their tasks require.

    The machine's name becomes the worker's, unless it is given one, and `WORKER_ID` of its flow runs.
    """

    type: ClassVar[str] = "slots-process"
    _display_name = "Process, with slots"
    _description = (
        "Execute flow runs as subprocesses on a machine whose GPUs, licences and memory are registered and kept true, "
        "so that tasks can require what they need of them."
    )

    def __init__(
        self, work_pool_name: str, work_queues: list[str] | None = None, name: str | None = None, **options: Any
    ) -> None:
        super().__init__(work_pool_name, work_queues, name, **options)
        self._given_name = name
        self._upkeep: Upkeep | None = None
        self._outside: dict[str, str | None] = {}

    async def setup(self) -> None:
        """Register this machine, then get ready for its flow runs.

        Raises:
            SlotsError: if the machine cannot be registered; the worker does not start then.
        """
        upkeep = Upkeep(load_settings(), self._given_name, lambda level, text: self._logger.log(level, "%s", text))
        machine = await asyncio.wrap_future(upkeep.begin())
        self._upkeep = upkeep
        if self._given_name is None:
            self.name = machine
            self._logger = get_worker_logger(self)
        # Each flow run is given this process's environment.
        told = upkeep.env(machine)
        self._outside = {variable: os.environ.get(variable) for variable in told}
        os.environ.update(told)
        await super().setup()

    async def teardown(self, *exc_info: Any) -> None:
        """Stop looking after the machine once its flow runs have ended."""
        try:
            await super().teardown(*exc_info)
        finally:
            if self._upkeep is not None:
                self._upkeep.end()
            for variable, value in self._outside.items():
                if value is None:
                    os.environ.pop(variable, None)
                else:
                    os.environ[variable] = value
