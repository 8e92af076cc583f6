"""Owners: alive while their lock is held, dead once it is proven, and never because a file is missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.polling import until
from tests.support.processes import ROOT

from prefect_slots.ledger.folder import open_folder
from prefect_slots.ledger.owner import Owner, is_dead

Start = Callable[[str], tuple[subprocess.Popen[str], int, Owner]]


def dead(folder: Path, owner: Owner) -> bool:
    return is_dead(folder, owner.lock_file, owner.pid, owner.started, owner.boot, owner.namespace)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return open_folder(tmp_path / "state")


def test_this_process_is_alive_until_it_ends(folder: Path) -> None:
    owner = Owner.start(folder)
    assert not dead(folder, owner)
    assert (folder / "owners" / owner.lock_file).exists()
    owner.end(folder)
    assert not (folder / "owners" / owner.lock_file).exists()


def test_every_start_is_a_new_owner(folder: Path) -> None:
    one, other = Owner.start(folder), Owner.start(folder)
    assert one.id != other.id
    assert one.lock_file != other.lock_file
    one.end(folder)
    assert not dead(folder, other)
    other.end(folder)


def test_an_unlocked_file_proves_a_death(folder: Path) -> None:
    owner = Owner.start(folder)
    (folder / "owners" / "left.lock").write_text("")
    assert dead(folder, replace(owner, lock_file="left.lock"))
    owner.end(folder)


def test_a_missing_file_proves_nothing_while_the_process_runs(folder: Path) -> None:
    owner = Owner.start(folder)
    (folder / "owners" / owner.lock_file).unlink()
    assert not dead(folder, owner)
    assert not (folder / "owners" / owner.lock_file).exists(), "a probe makes no file"
    owner.end(folder)


def test_a_missing_file_of_a_process_that_is_gone_proves_a_death(folder: Path) -> None:
    owner = Owner.start(folder)
    gone = replace(owner, lock_file="gone.lock")
    assert not dead(folder, gone)
    assert dead(folder, replace(gone, started=owner.started - 100)), "another process has its number now"
    assert dead(folder, replace(gone, boot="before the reboot"))
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(30)
    assert dead(folder, replace(gone, pid=child.pid))
    owner.end(folder)


def test_a_file_that_cannot_be_opened_proves_nothing(folder: Path) -> None:
    owner = Owner.start(folder)
    (folder / "owners" / "a-folder.lock").mkdir()
    assert not dead(folder, replace(owner, lock_file="a-folder.lock", boot="another"))
    owner.end(folder)


def test_a_probe_does_not_keep_what_it_found_locked(folder: Path) -> None:
    owner = Owner.start(folder)
    (folder / "owners" / "left.lock").write_text("")
    left = replace(owner, lock_file="left.lock")
    assert all(dead(folder, left) for _ in range(20))
    owner.end(folder)


def test_a_forked_child_that_exits_leaves_its_parent_alive(folder: Path) -> None:
    owner = Owner.start(folder)
    for leave in (os._exit, sys.exit):
        child = os.fork()
        if child == 0:
            try:
                leave(0)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert not dead(folder, owner)
    owner.end(folder)


HOLD = """
import os, subprocess, sys
from pathlib import Path
def say(*words):
    os.write(1, (" ".join(map(str, words)) + chr(10)).encode())
from prefect_slots.ledger.owner import Owner
owner = Owner.start(Path(sys.argv[1]))
if sys.argv[2] == "fork" and os.fork() == 0:
    say(os.getpid())
    sys.stdin.read()
    os._exit(0)
if sys.argv[2] == "inherit":
    os.set_inheritable(owner.descriptor, True)
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], close_fds=False)
    say(child.pid)
if sys.argv[2] == "alone":
    say(os.getpid())
say(owner.lock_file, owner.started)
sys.stdin.read()
"""


@pytest.fixture
def start(folder: Path) -> Iterator[Start]:
    children: list[subprocess.Popen[str]] = []

    def begin(how: str) -> tuple[subprocess.Popen[str], int, Owner]:
        child = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), how],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        assert child.stdout is not None
        lines = [child.stdout.readline().split(), child.stdout.readline().split()]
        lines.sort(key=len)
        (pid,), (lock_file, started) = lines
        model = Owner.start(folder)
        model.end(folder)
        return child, int(pid), replace(model, pid=child.pid, lock_file=lock_file, started=float(started))

    yield begin
    for child in children:
        child.kill()
        child.communicate()


def test_a_killed_process_is_dead_at_once(folder: Path, start: Start) -> None:
    child, _, owner = start("alone")
    assert not dead(folder, owner)
    child.send_signal(signal.SIGSTOP)
    assert not dead(folder, owner), "a stopped process keeps what it holds"
    child.kill()
    child.wait(30)
    assert dead(folder, owner)


def test_a_child_that_inherits_the_descriptor_keeps_the_owner_alive(folder: Path, start: Start) -> None:
    child, inheritor, owner = start("inherit")
    child.kill()
    child.wait(30)
    assert not dead(folder, owner)
    os.kill(inheritor, signal.SIGKILL)
    until(lambda: dead(folder, owner), what="death, once the inheritor is gone")


def test_a_forked_child_does_not_keep_a_dead_parent_alive(folder: Path, start: Start) -> None:
    child, forked, owner = start("fork")
    child.kill()
    child.wait(30)
    assert Path(f"/proc/{forked}").exists()
    assert dead(folder, owner)
    os.kill(forked, signal.SIGKILL)
