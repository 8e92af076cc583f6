"""Tasks for the tests of the task runner: a task process imports this module instead of a test's."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.context import TagsContext, TaskRunContext
from prefect.events import emit_event
from tests.support.polling import until

from prefect_slots import SlotTaskRunner, current_grant, requires


@dataclass
class Photo:
    """A value of a class of the user's."""

    number: int


@task
def pair(a: Any, b: Any) -> tuple[Any, Any]:
    return a, b


@task
async def pair_async(a: Any, b: Any) -> tuple[Any, Any]:
    return a, b


@task
def tags_of(_: Any = None) -> set[str]:
    return TagsContext.get().current_tags


@task
async def tags_of_async(_: Any = None) -> set[str]:
    return TagsContext.get().current_tags


@task
def process() -> int:
    return os.getpid()


@task
def fail(message: str) -> None:
    raise ValueError(message)


@task
async def fail_async(message: str) -> None:
    raise RuntimeError(message)


@task
def interrupted() -> None:
    raise KeyboardInterrupt


@task
def end_process(code: int) -> None:
    os._exit(code)


@task(timeout_seconds=0.2)
def too_long() -> None:
    time.sleep(60)


@task(timeout_seconds=0.2)
async def too_long_async() -> None:
    import asyncio

    await asyncio.sleep(60)


@task
def cannot_be_sent() -> Any:
    return threading.Lock()


@task
def generates(number: int) -> Generator[int]:
    yield from range(number)


@task
def tells(word: str) -> str:
    get_run_logger().info("the task says %s", word)
    emit_event(event="prefect-slots.tests.told", resource={"prefect.resource.id": f"prefect-slots.tests.{word}"})
    return word


@task(log_prints=True)
def prints(word: str) -> None:
    print("printed", word)


@task
def count_down(number: int) -> int:
    return 0 if number == 0 else count_down.submit(number - 1).result() + 1


@flow(task_runner=SlotTaskRunner())
def subflow(number: int) -> list[int]:
    return [a for a, _ in pair.map(range(number), b=0).result()]


@task
def runs_a_flow(number: int) -> list[int]:
    return subflow(number)


@task(retries=2)
def works_the_third_time(folder: Path) -> tuple[int, int]:
    """Return how often it was called and which run Prefect takes it for."""
    calls = sum(1 for _ in folder.iterdir()) + 1
    (folder / str(calls)).touch()
    if calls < 3:
        raise RuntimeError("not yet")
    context = TaskRunContext.get()
    assert context is not None
    return calls, context.task_run.run_count


@task
@requires(gpu_mem=16)
def on_a_card() -> tuple[str, str, str]:
    """Return the granted card, the one that the process sees, and where it is for CUDA."""
    grant = current_grant()
    assert grant is not None
    return grant.devices[0].uuid, os.environ["CUDA_VISIBLE_DEVICES"], grant.device


@task
def granted() -> dict[str, int]:
    grant = current_grant()
    return dict(grant.amounts) if grant is not None else {}


@task
@requires(gpu_mem=lambda gib: gib, scanner=1)
def granted_for(gib: int) -> dict[str, int]:
    grant = current_grant()
    assert grant is not None
    return dict(grant.amounts)


@task(retries=2)
@requires(gpu_mem=lambda attempt: 8 * attempt)
def grows(folder: Path) -> list[int]:
    grant = current_grant()
    assert grant is not None
    (folder / str(grant.amounts["gpu_mem"])).touch()
    if grant.amounts["gpu_mem"] < 24576:
        raise RuntimeError("out of memory")
    return sorted(int(path.name) for path in folder.iterdir())


@task
@requires(scanner=1)
def hold(folder: Path, name: str) -> str:
    """Say that this has begun, and wait until `let_go` says that it may end."""
    (folder / f"{name}.begun").write_text(str(os.getpid()))
    until((folder / f"{name}.go").exists, 60)
    return name


def begun(folder: Path, name: str) -> int:
    """Wait until `hold` has begun; return its process."""
    file = folder / f"{name}.begun"
    until(lambda: file.exists() and bool(file.read_text()), 30, what=f"the begin of {name}")
    return int(file.read_text())


def let_go(folder: Path, name: str) -> None:
    """Let `hold` end."""
    (folder / f"{name}.go").touch()
