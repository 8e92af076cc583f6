"""Scratch space: what is free in a real folder, and what a resource makes of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prefect_slots.detect.detector import Scene
from prefect_slots.detect.disk import DiskDetector, DiskReading, interpret_disk
from prefect_slots.model.declaration import ScratchSpace

GIB = 2**30
SPACE = ScratchSpace(name="scratch", folder="/scratch")


def test_whole_gib_that_are_free_are_offered_less_the_headroom():
    answer = interpret_disk(SPACE, DiskReading(free=100 * GIB - 1, kind="ext4"))
    (resource,) = answer.resources
    assert (resource.name, resource.unit, resource.origin, answer.findings) == ("scratch", "GiB", "disk /scratch", ())
    assert [(cell.key, cell.capacity) for cell in resource.cells] == [("0", 99)]
    kept = ScratchSpace(name="scratch", folder="/scratch", headroom_gib=9)
    answer = interpret_disk(kept, DiskReading(free=100 * GIB))
    assert answer.resources[0].capacity == 91
    (sight,) = answer.sights
    assert (sight.found, sight.declared, sight.offered, sight.why) == (100, None, 91, "less 9 GiB headroom")


def test_a_full_disk_offers_nothing_and_says_so():
    kept = ScratchSpace(name="scratch", folder="/scratch", headroom_gib=9)
    answer = interpret_disk(kept, DiskReading(free=9 * GIB))
    assert (answer.resources, answer.unknown) == ((), set())
    assert [(f.severity, f.problem) for f in answer.findings] == [
        ("error", "/scratch has nothing free beyond the headroom of 9 GiB")
    ]


@pytest.mark.parametrize(("free", "told"), [(50, 0), (49, 1), (0, 1)])
def test_a_declared_number_stands_whatever_is_free(free: int, told: int):
    space = ScratchSpace(name="scratch", folder="/scratch", capacity_gib=50)
    answer = interpret_disk(space, DiskReading(free=free * GIB))
    assert answer.resources[0].capacity == 50
    assert [f.severity for f in answer.findings] == ["info"] * told
    (sight,) = answer.sights
    assert (sight.found, sight.declared, sight.offered) == (free, 50, 50)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("tmpfs", "takes the host's memory"),
        ("nfs4", "other machines"),
        ("fuse.sshfs", "other machines"),
        ("virtiofs", "other machines"),
        ("xfs", ""),
    ],
)
def test_a_disk_that_is_none_or_others_too_is_told(kind: str, words: str):
    problems = [finding.problem for finding in interpret_disk(SPACE, DiskReading(free=GIB, kind=kind)).findings]
    assert [words in problem for problem in problems] == ([True] if words else [])


def test_a_real_folder_is_measured(tmp_path: Path):
    (tmp_path / "scratch").mkdir()
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("1 1 0:1 / /scratch rw - tmpfs tmpfs rw\n")
    space = ScratchSpace(name="scratch", folder="/scratch", capacity_gib=2**20)
    answer = DiskDetector(space).detect(Scene(root=tmp_path))
    state = os.statvfs(tmp_path)
    assert answer.resources[0].cells[0].label == "/scratch"
    (memory, claim) = answer.findings
    assert "is a tmpfs" in memory.problem
    told = int(claim.problem.split("but ")[1].split()[0])
    assert abs(told - state.f_bavail * state.f_frsize // GIB) <= 2


def test_a_folder_that_is_not_there_is_unknown_and_not_empty(tmp_path: Path):
    answer = DiskDetector(SPACE).detect(Scene(root=tmp_path))
    assert (answer.resources, answer.unknown) == ((), {"scratch"})
    assert answer.findings[0].problem == "/scratch cannot be measured: No such file or directory"
    (tmp_path / "scratch").write_text("a file")
    assert "Not a directory" in DiskDetector(SPACE).detect(Scene(root=tmp_path)).findings[0].problem
