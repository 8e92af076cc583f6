"""The boot of this machine and the time since, equal in all its processes."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.support.processes import ROOT

from prefect_slots.system import clock


def test_boot_id_is_the_same_in_every_process() -> None:
    code = "from prefect_slots.system.clock import boot_id; print(boot_id())"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).strip() == clock.boot_id()


def test_the_boot_clock_is_the_same_in_every_process() -> None:
    code = "from prefect_slots.system.clock import boot_clock; print(boot_clock())"
    before = clock.boot_clock()
    theirs = float(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True))
    assert before < theirs < clock.boot_clock()
    awake = time.monotonic()
    assert clock.boot_clock() >= awake, "it counts the time asleep as well"
