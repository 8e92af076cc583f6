"""A process that asks for nothing and stays: it does on its machine what `prefect-slots worker start` does there.

Run as `python -m tests.chaos.bystander`; it ends when its input does.
"""

from __future__ import annotations

import faulthandler
import signal
import sys

from prefect_slots.acquire.client import Target, session_at
from prefect_slots.acquire.engine import close_engine, engine
from prefect_slots.requiring.target import current_target


async def _look_after(target: Target) -> None:
    machine = session_at(engine(), target)
    assert target.coordination.url is not None
    await machine.use_server(target.coordination.url)
    await machine.upkeep.run()


def main() -> None:
    """Look after the machine until told to end."""
    faulthandler.register(signal.SIGUSR1)
    target = current_target()
    assert target is not None
    watching = engine().submit(_look_after(target))
    sys.stdin.read()
    watching.cancel()
    close_engine()


if __name__ == "__main__":
    main()
