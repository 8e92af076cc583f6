"""What the tests have done in task processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.polling import until

from prefect_slots import current_grant, requires


def double(number: int) -> int:
    return 2 * number


def process() -> int:
    return os.getpid()


def variable(name: str) -> str | None:
    return os.environ.get(name)


def fail(text: str) -> None:
    raise ValueError(text)


def leave_with(code: int) -> None:
    os._exit(code)


def die_by(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


def hold(folder: Path, name: str) -> str:
    """Say that this has begun, and wait until `release` says that it may end."""
    (folder / f"{name}.begun").write_text(str(os.getpid()))
    until((folder / f"{name}.go").exists)
    return name


def hold_with_a_child(folder: Path, name: str) -> str:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / f"{name}.child").write_text(str(child.pid))
    return hold(folder, name)


def begun(folder: Path, name: str) -> int:
    """Wait until a held call has begun; return its process."""
    file = folder / f"{name}.begun"
    until(lambda: file.exists() and file.read_text() != "", what=f"{name}")
    return int(file.read_text())


def names_that_break_off(folder: Path) -> Iterator[str]:
    """Yield the name of a call to hold, and fail once that runs."""
    yield "held"
    begun(folder, "held")
    raise ValueError("no more names")


def release(folder: Path, *names: str) -> None:
    for name in names:
        (folder / f"{name}.go").touch()


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return True


@requires(gpu_mem=8, license="matlab")
def infer(text: str) -> tuple[str, str, list[str], dict[str, int]]:
    grant = current_grant()
    assert grant is not None
    return text, grant.device, [device.uuid for device in grant.devices], grant.amounts


@requires(gpu_mem=lambda size: size)
def sized(size: int) -> dict[str, int]:
    grant = current_grant()
    return grant.amounts if grant is not None else {}


@requires(gpu_mem=4)
def draws() -> str | None:
    grant = current_grant()
    return grant.parent.id if grant is not None and grant.parent is not None else None


async def later(number: int) -> int:
    return number + 1


def inner_sum(pool: Any, depth: int, needs: dict[str, Any]) -> int:
    """Submit two of the same, one level deeper, and add up what they return."""
    if depth == 0:
        return 1
    futures = [pool.submit(inner_sum, pool, depth - 1, needs, requires=needs or None) for _ in range(2)]
    return sum(future.result(60) for future in futures)


def submit_and_leave(pool: Any, folder: Path) -> int:
    pool.submit(hold, folder, "inner")
    return begun(folder, "inner")


def map_and_break_off(pool: Any, folder: Path) -> int:
    """Fail in the middle of a map; return the process of its first call, once that has ended."""
    try:
        pool.map(hold, [folder] * 2, names_that_break_off(folder))
    except ValueError:
        pid = begun(folder, "held")
        until(lambda: is_gone(pid), what="the end of the map's first call")
        return pid
    raise AssertionError("the map did not fail")


def submit_and_hold(pool: Any, folder: Path) -> str:
    return pool.submit(hold, folder, "inner").result(60)


prepared: list[str] = []


def prepare(text: str) -> None:
    prepared.append(text)


def what_is_prepared() -> list[str]:
    return prepared


def chosen() -> object:
    grant = current_grant()
    return grant and grant.chosen
