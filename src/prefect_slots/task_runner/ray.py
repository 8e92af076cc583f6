"""The names of prefect-ray, so that a flow written for it needs one line changed: the import."""

import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from prefect_slots.errors import InvalidRequirement
from prefect_slots.task_runner.needs import options
from prefect_slots.task_runner.runner import SlotTaskRunner


def RayTaskRunner(  # noqa: N802 - the name that flows have
    address: str | None = None, init_kwargs: Mapping[str, Any] | None = None
) -> SlotTaskRunner:
    """Return a `SlotTaskRunner`.

    Raises:
        ValueError: if it is given the address of a cluster, or the resources of this machine, which are detected.
    """
    if address is not None:
        raise ValueError(f"address={address!r}: tasks run on this machine; leave the address out")
    if init_kwargs:
        given = ", ".join(sorted(init_kwargs))
        raise ValueError(f"init_kwargs ({given}): what this machine has is detected, or written in prefect-slots.toml")
    return SlotTaskRunner()


@contextmanager
def remote_options(
    *,
    num_gpus: float | None = None,
    num_cpus: float | None = None,
    memory: float | None = None,
    resources: Mapping[str, int] | None = None,
    **others: Any,
) -> Generator[None]:
    """Give the tasks submitted in this block the needs that these options of Ray's mean on this machine.

    Args:
        num_gpus: Number of GPUs; `0.25` is a quarter of one GPU's memory.
        num_cpus: Number of cores; a part of a core counts as a whole one.
        memory: Bytes of system memory.
        resources: Units of declared resources, by name.
        **others: Refused.

    Raises:
        InvalidRequirement: for an option that has no equivalent.
    """
    if others:
        name, value = next(iter(others.items()))
        reason = "it has no equivalent; known are num_gpus, num_cpus, memory and resources"
        raise InvalidRequirement(key=name, value=repr(value), reason=reason)
    # Rounded up: the amounts of a grant are whole cores and MiB.
    asked: dict[str, Any] = {
        "gpus": num_gpus,
        "cpus": math.ceil(num_cpus) if num_cpus else None,
        "mem": f"{math.ceil(memory / 2**20)}MiB" if memory else None,
        **(resources or {}),
    }
    needs = {name: amount for name, amount in asked.items() if amount}
    # Ray takes an empty block, and zeros; `requires()` without any need is an error.
    with options(**needs) if needs else nullcontext():
        yield
