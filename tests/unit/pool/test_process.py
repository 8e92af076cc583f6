"""Pins of task processes, set from birth; traces that a task leaves in its process, on made-up file trees and here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.support.processes import SharedMachine
from tests.unit.pool import calls

from prefect_slots import SlotPool
from prefect_slots.pool.process import Cores, holds_device, holds_memory

ALL = os.sched_getaffinity(0)


def seen() -> tuple[str | None, str | None, set[int]]:
    return os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS"), os.sched_getaffinity(0)


def test_cards_threads_and_cores_are_set(pool: SlotPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    both = pool.submit(seen, requires={"gpus": 2, "cpus": 1}).result(30)
    assert both == ("GPU-test-0,GPU-test-1", "1", {min(ALL)})
    # More cores than this host has, as only a declaration can say: the kernel finds room.
    assert pool.submit(seen, requires={"cpus": 8}).result(30)[1:] == ("8", ALL if len(ALL) < 8 else both[2])
    assert pool.submit(seen).result(30) == ("", "64", ALL)


@pytest.mark.skipif(len(ALL) < 2, reason="needs two cores")
def test_cores_are_shared_out_among_pools(machine: SharedMachine, tmp_path: Path) -> None:
    with SlotPool() as one, SlotPool() as other:
        held = one.submit(calls.hold, tmp_path, "held", requires={"cpus": 1})
        pid = calls.begun(tmp_path, "held")
        (core,) = os.sched_getaffinity(pid)
        assert other.submit(seen, requires={"cpus": 1}).result(30)[2].isdisjoint({core})
        calls.release(tmp_path, "held")
        assert held.result(30) == "held"
    cores = Cores(machine.state, len(ALL))
    assert cores.numbers == ALL
    assert Cores(machine.state, 1).numbers == set()
    cores.give_back()
    assert cores.numbers == set()


@pytest.mark.parametrize("device", ["/dev/nvidia0", "/dev/nvidia-uvm", "/dev/kfd", "/dev/dri/renderD128"])
def test_an_open_device_is_seen(tmp_path: Path, device: str) -> None:
    files = tmp_path / "proc/7/fd"
    files.mkdir(parents=True)
    (files / "0").symlink_to("/dev/null")
    assert not holds_device(7, tmp_path)
    (files / "3").symlink_to(device)
    assert holds_device(7, tmp_path)
    assert not holds_device(8, tmp_path)


def test_memory_of_its_own_is_seen(tmp_path: Path) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    pages = 300 * 2**20 // os.sysconf("SC_PAGE_SIZE")
    statm = tmp_path / "proc/7/statm"
    statm.write_text(f"{9 * pages} {pages} 0 1 0 0 0")
    assert holds_memory(7, tmp_path)
    statm.write_text(f"{9 * pages} {pages} {pages // 2} 1 0 0 0")
    assert not holds_memory(7, tmp_path)
    assert not holds_memory(8, tmp_path)
