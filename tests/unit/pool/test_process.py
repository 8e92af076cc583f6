"""Traces that a task leaves in its process, on made-up file trees and on this process."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prefect_slots.pool.process import holds_device, holds_memory


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
