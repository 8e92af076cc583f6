"""Scratch space: the free space of a folder, for a resource that the configuration ties to it."""

import os
from dataclasses import dataclass
from pathlib import Path

from prefect_slots.detect.detector import Answer, Scene, Sight, single, unreadable
from prefect_slots.model import MAX_AMOUNT, Finding, ScratchSpace
from prefect_slots.system.mounts import IN_MEMORY, LOCAL, file_system, query_mounts

GIB = "GiB"
_BYTES_PER_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class DiskReading:
    """A file system: the bytes that are free for everybody, and its kind (`ext4`, `tmpfs`), empty if not told."""

    free: int
    kind: str = ""


@dataclass(frozen=True)
class DiskDetector:
    """Measures one declared folder."""

    space: ScratchSpace

    @property
    def resources(self) -> frozenset[str]:
        """The one resource that stands for the folder."""
        return frozenset({self.space.name})

    def detect(self, scene: Scene) -> Answer:
        """Measure the free space now."""
        try:
            reading = query_disk(scene.root, self.space.folder)
        except OSError as error:
            problem = f"{self.space.folder} cannot be measured: {error.strerror or error}"
            remedy = f"make the folder, or correct disk under [resources.{self.space.name}]"
            return unreadable(self.space.name, problem, remedy, self.resources)
        return interpret_disk(self.space, reading)


def query_disk(root: Path, folder: str) -> DiskReading:
    """Measure the file system that `folder` lies on.

    Raises:
        OSError: if the folder does not exist or may not be entered.
    """
    place = root / folder.lstrip("/")
    # A file, too, lies on a disk that has something free, but nobody can write into it.
    state = os.statvfs(f"{place}/.")
    kind = file_system(Path(folder), query_mounts(root)) or ""
    return DiskReading(free=state.f_bavail * state.f_frsize, kind=kind)


def interpret_disk(space: ScratchSpace, reading: DiskReading) -> Answer:
    """Return the folder's offer in whole GiB: the declared number, else the free space less the headroom."""
    findings: list[Finding] = []
    free = reading.free // _BYTES_PER_GIB - space.headroom_gib
    if reading.kind in IN_MEMORY:
        problem = f"{space.folder} is a {reading.kind}: what is written there takes the host's memory"
        remedy = "put scratch files on a disk, or set [host] mem_headroom so that both fit"
        findings.append(Finding(subject=space.name, problem=problem, remedy=remedy))
    elif reading.kind and reading.kind not in LOCAL:
        problem = f"{space.folder} is a {reading.kind}, of which other machines may take the same space"
        remedy = f'declare capacity and scope = "fleet" under [resources.{space.name}] instead of disk'
        findings.append(Finding(subject=space.name, problem=problem, remedy=remedy))
    if space.capacity_gib is not None and space.capacity_gib > free:
        problem = f"declared {space.capacity_gib} {GIB}, but {max(0, free)} {GIB} are free in {space.folder}"
        remedy = "fine if tasks hold the difference; else remove files, or lower the declaration"
        findings.append(Finding(subject=space.name, problem=problem, remedy=remedy, severity="info"))
    capacity = min(MAX_AMOUNT, free if space.capacity_gib is None else space.capacity_gib)
    if capacity <= 0:
        problem = f"{space.folder} has nothing free beyond the headroom of {space.headroom_gib} {GIB}"
        findings.append(Finding(subject=space.name, problem=problem, remedy="remove files there", severity="error"))
        return Answer(findings=tuple(findings))
    sight = Sight(
        resource=space.name,
        unit=GIB,
        label=space.folder,
        found=reading.free // _BYTES_PER_GIB,
        declared=space.capacity_gib,
        offered=capacity,
        why=f"less {space.headroom_gib} {GIB} headroom" if space.headroom_gib and space.capacity_gib is None else "",
    )
    return single(sight, f"disk {space.folder}", findings)
