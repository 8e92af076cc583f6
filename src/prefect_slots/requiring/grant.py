"""What the holder of a grant sees: its devices, an environment that pins them, and how long it waited.

`requires` never edits `os.environ`: threads share it. Pinning by environment is for processes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from prefect_slots.model.book import TOKEN
from prefect_slots.model.resource import GPU_MEM

if TYPE_CHECKING:
    from prefect_slots.acquire.client import Target
    from prefect_slots.acquire.request import Held

# How ROCm names a card: NVIDIA's UUIDs hold dashes.
_AMD: Final = re.compile(r"GPU-[0-9a-f]{16}", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Device:
    """A card of a grant.

    Attributes:
        index: Position that `nvidia-smi` showed at registration, or the declared card's number; for people, the UUID is
            the identity.
        memory_mib: What the grant may use of it.
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
        label: Who holds it, for people.
        parent: The grant around it in this thread or task, if any.
        chosen: The amounts that were granted, as they were asked for: of alternatives, the one chosen.
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
        self.pid = os.getpid()
        self.target = target
        self.chosen = dict(amounts[held.chosen if held else 0])
        self._held = held

    def __repr__(self) -> str:
        return f"<Grant {self.id[:8] or 'off'} {self.describe()}{' ended' if self.ended else ''}>"

    def describe(self) -> str:
        """Say what is held and where: `"gpu_mem:0=16384, license.matlab:0=1"`."""
        if self._held is None:
            return "nothing is admitted or counted (coordination=off)"
        return ", ".join(f"{cell.resource}:{cell.number}={amount}" for cell, amount in self._held.holdings)

    @property
    def amounts(self) -> dict[str, int]:
        """What is held of each resource, summed over its cells, in the resource's unit."""
        total: dict[str, int] = {}
        for cell, amount in self._held.holdings if self._held else ():
            total[cell.resource] = total.get(cell.resource, 0) + amount
        return total

    @property
    def devices(self) -> tuple[Device, ...]:
        """The cards, by number; empty if no GPU was asked for."""
        found: list[Device] = []
        for cell_id, amount in self._held.holdings if self._held else ():
            cell = self._held.registered.cell(cell_id) if self._held and cell_id.resource == GPU_MEM else None
            if cell is not None:
                index = cell_id.number if cell.position is None else cell.position
                found.append(Device(uuid=cell.key, name=cell.label, index=index, memory_mib=amount))
        return tuple(found)

    @property
    def device(self) -> str:
        """The first card as PyTorch and others name it within this process, `"cuda:1"`; `"cpu"` without one."""
        devices = self.devices
        return f"cuda:{visible_index(devices[0], os.environ)}" if devices else "cpu"

    @property
    def env(self) -> dict[str, str]:
        """A full environment for `subprocess.run(env=...)`: the cards by UUID, and this grant to draw on."""
        env = dict(os.environ)
        pin(env, [device.uuid for device in self.devices])
        if self._held is not None:
            env[TOKEN] = self.token
            env["PREFECT_SLOTS_STATE_DIR"] = str(self._held.folder)
        return env

    @property
    def token(self) -> str:
        """What a child process draws on this grant by, in the variable `PREFECT_SLOTS_GRANT`."""
        return f"{self._held.ledger_id}:{self.id}" if self._held else ""


def pin(env: dict[str, str], uuids: list[str]) -> None:
    """Let a process with this environment see only these cards; without any it sees what it saw before."""
    if uuids and all(_AMD.fullmatch(uuid) for uuid in uuids):
        # HIP takes only numbers, within what the runtime below it shows: an inherited list would hide the cards.
        for variable in ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
            env.pop(variable, None)
        env["ROCR_VISIBLE_DEVICES"] = ",".join(uuids)
    elif uuids:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(uuids)
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"


def visible_index(device: Device, env: Mapping[str, str]) -> int:
    """Return a card's position among those that CUDA shows to this process.

    With UUIDs in `CUDA_VISIBLE_DEVICES` (AMD: `ROCR_VISIBLE_DEVICES`) it is the place in that list; else the place that
    `nvidia-smi` shows, which is CUDA's with `CUDA_DEVICE_ORDER=PCI_BUS_ID` (the worker sets it).
    """
    variable = "ROCR_VISIBLE_DEVICES" if _AMD.fullmatch(device.uuid) else "CUDA_VISIBLE_DEVICES"
    listed = [entry.strip() for entry in env.get(variable, "").split(",") if entry.strip()]
    for place, entry in enumerate(listed):
        if device.uuid.startswith(entry) or entry == str(device.index):
            return place
    return device.index
