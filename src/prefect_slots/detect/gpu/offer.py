"""The offer of `gpu_mem` under construction: cells, cells that cannot be read now, findings and explanations."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from prefect_slots.detect.detector import Answer, Sight
from prefect_slots.model import GPU_MEM, MIB, Cell, Exclusive, Finding, GpuRules, Resource, Severity, format_amount
from prefect_slots.model.finding import printable


@dataclass(kw_only=True)
class GpuOffer:
    """The GPUs of one detector, under the rules `[gpus]`."""

    rules: GpuRules
    cells: list[Cell] = field(default_factory=list[Cell])
    findings: list[Finding] = field(default_factory=list[Finding])
    sights: list[Sight] = field(default_factory=list[Sight])
    unknown_cells: set[str] = field(default_factory=set[str])
    of_host_memory: bool = False

    def say(self, subject: str, problem: str, remedy: str = "", *, severity: Severity = "warning") -> None:
        """Add a finding."""
        self.findings.append(Finding(subject=subject, problem=problem, remedy=remedy, severity=severity))

    def show(
        self, key: str, label: str, why: str = "", *, found: int | None = None, offered: int | None = None
    ) -> None:
        """Add an explanation of a GPU; amounts are MiB."""
        self.sights.append(
            Sight(resource=GPU_MEM, key=key, unit=MIB, label=printable(label), found=found, offered=offered, why=why)
        )

    def shares_host_memory(self, key: str) -> None:
        """Add the finding on a GPU without memory of its own; a headroom shows that a person knows of it."""
        self.of_host_memory = True
        self.say(
            key,
            "it shares the host's memory: gpu_mem and mem count the same bytes",
            "a request for gpu_mem takes as much of mem; keep some for the system with [gpus] headroom",
            severity="info" if self.rules.headroom_mib else "warning",
        )

    def leave_out_integrated(self, key: str, label: str) -> None:
        """Add the explanation of a processor's graphics that are not offered."""
        self.show(key, label, "a processor's graphics; `[gpus] integrated = true` offers them")

    def add_sharing(self, key: str, label: str, host_mib: Callable[[], int], index: int) -> None:
        """Add a cell of the host's memory; `host_mib` gives its MiB and may raise `OSError` or `ValueError`."""
        try:
            mib = host_mib()
        except (OSError, ValueError) as error:
            self.fail(key, label, f"the host's memory cannot be read: {error}", "see mem in `detect`")
            return
        self.shares_host_memory(key)
        self.add(key, label, mib, index)

    def less_headroom(self, mib: int) -> int | None:
        """Return the MiB that are left for tasks; `None` if the headroom takes all."""
        # A cell without capacity would be registered, and could never be granted.
        return mib - self.rules.headroom_mib if mib > self.rules.headroom_mib else None

    def add(
        self, key: str, label: str, mib: int, index: int, *, exclusive: bool = False, compute_capability: str = ""
    ) -> None:
        """Add a cell of the memory `mib` less the headroom, or a finding if nothing is left."""
        offered = self.less_headroom(mib)
        if offered is None:
            kept = format_amount(self.rules.headroom_mib, MIB)
            self.say(key, f"headroom {kept} leaves nothing of {format_amount(mib, MIB)}", "lower it")
        else:
            capacity = Exclusive(offered) if exclusive else offered
            name = printable(label)
            self.cells.append(
                Cell(key=key, capacity=capacity, label=name, compute_capability=compute_capability, index=index)
            )

    def fail(self, key: str, label: str, problem: str, remedy: str, *, severity: Severity = "error") -> None:
        """Add a GPU that exists and cannot be read, so that its registration stays as it is."""
        self.say(key, problem, remedy, severity=severity)
        self.unknown_cells.add(key)
        self.show(key, label, problem)

    def answer(self, origin: str) -> Answer:
        """Return the answer of all GPUs that were added."""
        self._fail_doubles()
        # A resource without cells would say that this detector has the last word on `gpu_mem`.
        cells = tuple(cell for cell in self.cells if cell.key not in self.unknown_cells)
        resource = Resource(name=GPU_MEM, unit=MIB, cells=cells, origin=origin, of_host_memory=self.of_host_memory)
        return Answer(
            resources=(resource,) if cells else (),
            findings=tuple(self.findings),
            unknown_cells=frozenset(self.unknown_cells),
            sights=tuple(self.sights),
        )

    def _fail_doubles(self) -> None:
        """Fail the GPUs that share a key: no variable pins a process to one of them."""
        for key, count in Counter(cell.key for cell in self.cells).items():
            if count > 1:
                why = f"{count} cards have this identity, so no task can be pinned to one of them"
                self.say(key, why, "see `nvidia-smi -L` and the kernel log, or update the driver", severity="error")
                self.unknown_cells.add(key)
                self.sights = [replace(s, offered=None, why=why) if s.key == key else s for s in self.sights]
