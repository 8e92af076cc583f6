"""This process as a bystander on a machine with a server: it lives there, reaps the dead, and can ask for all."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from tests.support.boxes import Box
from tests.support.polling import until

from prefect_slots import requires
from prefect_slots.acquire.client import session_at
from prefect_slots.acquire.engine import close_engine, engine
from prefect_slots.requiring.target import current_target


@contextmanager
def registered(box: Box) -> Generator[Box]:
    """Register a machine with a server and take part in it with this process; at the end it must have no owner."""
    assert box.url is not None
    box.register()
    with pytest.MonkeyPatch.context() as environment, temporary_settings({PREFECT_API_URL: box.url}):
        for name, value in box.env.items():
            environment.setenv(name, value)
        yield box
    close_engine()
    assert box.rows("owner") == 0


def watch(box: Box) -> None:
    """Let this process reap the dead from now on."""
    running, target, url = engine(), current_target(), box.url
    assert target is not None
    assert url is not None

    async def watching() -> None:
        machine = session_at(running, target)
        await machine.use_server(url)
        await machine.upkeep.run()

    running.submit(watching())
    until(lambda: box.rows("owner") > 0, what="the watcher")


def everything(box: Box) -> dict[str, Any]:
    """Return a requirement of all that a machine has."""
    return {
        "gpus": 2,
        "mem": 8,
        "cpus": 2,
        "scanner": 1,
        "license": {box.matlab: 2, f"ansys-{box.name}": 3},
    }


def take_everything(box: Box) -> None:
    """Get all there is, on the server too, and give it back."""
    with requires(**everything(box), timeout=30):
        assert box.limits() == {
            f"gpu-mem:{box.name}": 49152,
            f"gpu-mem:{box.name}:0": 24576,
            f"gpu-mem:{box.name}:1": 24576,
            f"mem:{box.name}": 8192,
            f"cpus:{box.name}": 2,
            f"scanner:{box.name}": 1,
            f"license:{box.matlab}": 2,
            f"license:{box.matlab}:{box.name}": 2,
            f"license:ansys-{box.name}:{box.name}": 3,
        }
