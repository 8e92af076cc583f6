"""A grant as its holder sees it: devices, amounts, waiting time, and an environment that pins a child process.

`requires` never edits `os.environ`: threads share it. Pinning by environment is for processes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from prefect_slots.model import GPU_MEM, TOKEN, gpu

if TYPE_CHECKING:
    from prefect_slots.acquire.client import Target
    from prefect_slots.acquire.tickets import Held

_log = logging.getLogger("prefect_slots")


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU of a grant.

    Attributes:
        index: Position that `nvidia-smi` showed at registration, or the number of a declared GPU; for people, since the
            UUID is the identity.
        memory_mib: MiB of its memory that are granted.
    """

    uuid: str
    name: str
    index: int
    memory_mib: int


class Grant:
    """A requirement that was granted; what `with requires(...) as grant` and `current_grant()` return.

    Attributes:
        id: The ticket's id in the ledger; empty with `coordination=off`.
        waited: Seconds from the request to the grant.
        label: Holder for people: the function and its line, or the command.
        parent: The grant around it in this thread or task, if any.
        chosen: The granted amounts in the caller's own words; of alternatives, the chosen one.
    """

    def __init__(
        self,
        held: Held | None,
        target: Target | None,
        label: str,
        parent: Grant | None,
        amounts: Sequence[Mapping[str, Any]] = ({},),
    ) -> None:
        self.id = held.id if held else ""
        self.waited = held.waited if held else 0.0
        self.label = label
        self.parent = parent
        self.ended = False
        # A forked child's copy must not release the grant of its parent.
        self.pid = os.getpid()
        self.target = target
        self.chosen = dict(amounts[held.chosen if held else 0])
        self._held = held

    def __repr__(self) -> str:
        return f"<Grant {self.id[:8] or 'off'} {self.describe()}{' ended' if self.ended else ''}>"

    def describe(self) -> str:
        """Return the held cells as text: `"gpu_mem:0=16384, license.matlab:0=1"`."""
        if self._held is None:
            return "nothing is admitted or counted (coordination=off)"
        return ", ".join(f"{cell.resource}:{cell.number}={amount}" for cell, amount in self._held.holdings)

    @property
    def amounts(self) -> dict[str, int]:
        """Held amount of each resource in its unit, summed over its cells."""
        total: dict[str, int] = {}
        for cell, amount in self._held.holdings if self._held else ():
            total[cell.resource] = total.get(cell.resource, 0) + amount
        return total

    @property
    def devices(self) -> tuple[Device, ...]:
        """The GPUs by number; empty for a request without any."""
        found: list[Device] = []
        for cell_id, amount in self._held.holdings if self._held else ():
            cell = self._held.registered.cell(cell_id) if self._held and cell_id.resource == GPU_MEM else None
            if cell is not None:
                index = cell_id.number if cell.position is None else cell.position
                found.append(Device(uuid=cell.key, name=cell.label, index=index, memory_mib=amount))
        return tuple(found)

    @property
    def device(self) -> str:
        """PyTorch's name of the first GPU within this process; `"cpu"` without one.

        It is `"cuda:1"` for NVIDIA's and AMD's GPUs, `"xpu:0"` for Intel's, `"mps"` for Apple's.

        Raises:
            ConfigError: if this process does not see the GPU, or its number cannot be known; with the way out.
        """
        gpus = self.gpus
        if not gpus:
            return "cpu"
        from prefect_slots.requiring.device_name import device_name

        return device_name(gpus[0], self.gpus_here)

    @property
    def gpus(self) -> tuple[gpu.Gpu, ...]:
        """The GPUs as a runtime is told of them."""
        held = [cell for cell, _ in self._held.holdings if cell.resource == GPU_MEM] if self._held else []
        cells = [cell for cell_id in held if self._held and (cell := self._held.registered.cell(cell_id))]
        return tuple(gpu.Gpu(cell.key, cell.position) for cell in cells)

    @property
    def gpus_here(self) -> tuple[gpu.Gpu, ...]:
        """All GPUs of this machine."""
        cells = self._held.registered.cells(GPU_MEM) if self._held else ()
        return tuple(gpu.Gpu(cell.key, cell.position) for cell in cells)

    @property
    def env(self) -> dict[str, str]:
        """A full environment for `subprocess.run(env=...)`: the GPUs by UUID, and this grant to draw on.

        NVIDIA's GPUs are pinned by `CUDA_VISIBLE_DEVICES`, AMD's by `ROCR_VISIBLE_DEVICES`, Intel's by
        `ZE_AFFINITY_MASK`. A process cannot be pinned to another GPU if there are several; this is logged.
        """
        env = dict(os.environ)
        gpu.pin(env, pinned(self))
        if self._held is not None:
            env[TOKEN] = self.token
            # The child may run under another HOME, and would look for the ledger elsewhere.
            env["PREFECT_SLOTS_STATE_DIR"] = str(self._held.folder)
        return env

    @property
    def token(self) -> str:
        """Value of `PREFECT_SLOTS_GRANT` by which a child process draws on this grant; empty without coordination."""
        return f"{self._held.ledger_id}:{self.id}" if self._held else ""


def pinned(grant: Grant) -> tuple[gpu.Gpu, ...]:
    """Return the GPUs that a process under `grant` is pinned to; a GPU without a way to do so is logged."""
    gpus = grant.gpus
    for key in gpu.unpinned(gpus, [each.key for each in grant.gpus_here]) if gpus else ():
        _log_unpinned(key)
    return gpus


@cache
def _log_unpinned(key: str) -> None:
    # Once per process and GPU: a pool would repeat it for every task.
    vendor = gpu.vendor_of(key).name
    _log.warning("%s (vendor %s): no variable pins a process to this GPU; a task must choose it itself", key, vendor)
