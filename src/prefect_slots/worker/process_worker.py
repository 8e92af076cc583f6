"""The worker type `slots-process`: Prefect's process worker on a machine that is registered first and refreshed.

Prefect finds it by the entry point group `prefect.collections`, so that `prefect worker start --pool gpu --type
slots-process` needs no wrapper.
"""

import asyncio
import os
from typing import Any, ClassVar

from prefect.logging.loggers import get_worker_logger
from prefect.workers.process import ProcessWorker

from prefect_slots.settings import load_settings
from prefect_slots.worker.refresh import Refresher


class SlotsProcessWorker(ProcessWorker):
    """Executes flow runs as subprocesses, which share the machine by the requirements of their tasks.

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
        self._refresher: Refresher | None = None
        self._outside: dict[str, str | None] = {}

    async def setup(self) -> None:
        """Register this machine, then get ready for its flow runs.

        Raises:
            SlotsError: if the machine cannot be registered; the worker does not start then.
        """
        refresher = Refresher(
            load_settings(), self._given_name, lambda level, text: self._logger.log(level, "%s", text)
        )
        machine = await asyncio.wrap_future(refresher.begin())
        # Kept only now: a worker that could not register has nothing to end in `teardown`.
        self._refresher = refresher
        if self._given_name is None:
            # The server shows the worker by this name, and its logger was made with the old one.
            self.name = machine
            self._logger = get_worker_logger(self)
        # Each flow run is given this process's environment.
        told = refresher.env(machine)
        self._outside = {variable: os.environ.get(variable) for variable in told}
        os.environ.update(told)
        await super().setup()

    async def teardown(self, *exc_info: Any) -> None:
        """End the refreshing once the machine's flow runs have ended."""
        try:
            await super().teardown(*exc_info)
        finally:
            if self._refresher is not None:
                self._refresher.end()
            # A process may run one worker after another; the next must not inherit this one's name.
            for variable, value in self._outside.items():
                if value is None:
                    os.environ.pop(variable, None)
                else:
                    os.environ[variable] = value
