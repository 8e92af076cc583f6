"""Whose turn it is to ask a server: one real process at a time, killed and stopped ones too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.support.license_tools import Tool
from tests.support.polling import until
from tests.support.processes import ROOT
from tests.unit.detect.licenses.conftest import MakeTool

from prefect_slots.detect.licenses.client import Desk, Question, in_turn

ANSWER = "Users of aa:  (Total of 9 licenses issued;  Total of 4 licenses in use)\n"
# Asks a server of that name once, by a command.
ASKS = """
import json, os, sys
from pathlib import Path
from prefect_slots.detect.licenses.client import Desk, Question
server, folder, command = sys.argv[1:]
question = Question(vendor="flexnet", server=server, command=tuple(json.loads(command)), features=("aa",), timeout=30)
print("asks", flush=True)
print(Desk(folder=Path(folder)).ask(question, os.environ).failure)
"""


@contextmanager
def asking(server: str, folder: Path, tool: Tool) -> Generator[subprocess.Popen[str]]:
    argv = [sys.executable, "-c", ASKS, server, str(folder), json.dumps(tool.command)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asks\n"
        yield process
        process.kill()


def question(tool: Tool, timeout: float) -> Question:
    return Question(vendor="flexnet", server="1@A", command=tool.command, features=("aa",), timeout=timeout)


def test_two_processes_ask_a_server_one_after_the_other_and_others_meanwhile(tool: MakeTool, tmp_path: Path):
    fake, locks = tool(do="wait", text=ANSWER), tmp_path / "locks"
    elsewhere = tool(text=ANSWER)
    with asking("1@a", locks, fake) as one, asking("1@A", locks, fake) as two:
        until(lambda: len(fake.noted("begins")) == 1, what="the first query")
        with asking("1@b", locks, elsewhere) as third:
            assert third.communicate(timeout=30)[0] == "None\n"
        assert len(fake.noted("begins")) == 1
        fake.gate.touch()
        assert [each.communicate(timeout=30)[0] for each in (one, two)] == ["None\n", "None\n"]
    events = [json.loads(line)["event"] for line in fake.log.read_text().splitlines()]
    assert events == ["begins", "ends", "begins", "ends"]


def test_who_waits_in_vain_for_its_turn_does_not_ask_and_who_is_killed_is_not_waited_for(
    tool: MakeTool, tmp_path: Path
):
    fake, locks = tool(do="wait", text=ANSWER), tmp_path / "locks"
    with asking("1@a", locks, fake) as holder:
        until(lambda: len(fake.noted("begins")) == 1, what="the query")
        told = Desk(folder=locks).ask(question(fake, 0.2), os.environ)
        assert told.failure is not None
        assert told.failure.startswith("other processes of this user have been asking it for 0.2 s")
        assert len(fake.noted("begins")) == 1
        holder.kill()
        holder.wait(30)
        fake.gate.touch()
        assert Desk(folder=locks).ask(question(fake, 30), os.environ).failure is None


def test_where_no_lock_can_be_had_a_server_is_asked_all_the_same(tool: MakeTool, tmp_path: Path):
    file, link, fake = tmp_path / "file", tmp_path / "link", tool(text=ANSWER)
    file.touch()
    link.symlink_to(tmp_path)
    for number, folder in enumerate((None, file / "locks", link / "locks", Path("/proc/locks/none"))):
        asked = replace(question(fake, 30), server=f"1@{number}")
        assert Desk(folder=folder).ask(asked, os.environ).failure is None
    assert len(fake.noted("begins")) == 4


def test_a_turn_ends_with_its_query(tmp_path: Path):
    locks = tmp_path / "locks"
    with in_turn(locks, "flexnet 1@a", 1) as first, in_turn(locks, "flexnet 1@a", 0.1) as second:
        assert (first, second) == (True, False)
    with in_turn(locks, "flexnet 1@a", 0.1) as third:
        assert third
