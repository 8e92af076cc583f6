"""Who keeps the ledger from being written is named, as the kernel tells it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.unit.ledger.members import Pair

from prefect_slots.errors import LedgerUnreadable
from prefect_slots.ledger import schema


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the kernel has no /proc/locks")
def test_a_process_that_is_stopped_while_it_writes_is_named(
    members: Pair, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "BUSY_SECONDS", 0.2)
    one, _ = members
    one.ledger.close()
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('BEGIN IMMEDIATE'); print(flush=True)"
    command = [sys.executable, "-c", f"{code}; sys.stdin.read()", str(one.ledger.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        os.kill(writer.pid, signal.SIGSTOP)
        try:
            with pytest.raises(LedgerUnreadable, match=rf"process {writer.pid} .*stopped"):
                one.ask(matlab=1)
        finally:
            writer.kill()
    assert one.ask(matlab=1)
