"""One run of a vendor's program: what it is given, what is kept of it, and that nothing of it is left."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.support.polling import until

from prefect_slots.system.commands import Output, run_command

if TYPE_CHECKING:
    from tests.support.license_tools import Tool
    from tests.unit.detect.licenses.conftest import MakeTool


def run(tool: Tool, *arguments: str, timeout: float = 30, stdin: str = "", limit: int = 2**26) -> Output:
    return run_command((*tool.command, *arguments), env=os.environ, timeout=timeout, stdin=stdin, limit=limit)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_arguments_reach_the_program_as_they_are_and_its_input_ends_at_once(tool: MakeTool):
    fake = tool(text="hello\n", code=3)
    assert run(fake, "-f", "$HOME `x` *") == Output(text="hello\n", code=3)
    (begun,) = fake.noted("begins")
    assert begun["arguments"] == ["-f", "$HOME `x` *"]
    assert (begun["stdin"], begun["language"]) == ("", "C")


def test_what_the_program_is_to_read_is_given(tool: MakeTool):
    fake = tool()
    words = "connect host 4085\ngetLicenseUsage -csv\n" * 5000
    assert run(fake, stdin=words).code == 0
    assert fake.noted("begins")[0]["stdin"] == words


def test_a_program_that_reads_nothing_is_no_failure():
    said = run_command((sys.executable, "-c", "print(7)"), env=os.environ, timeout=30, stdin="x" * 10**6)
    assert said == Output(text="7\n", code=0)


def test_errors_are_kept_behind_what_is_printed():
    code = "import sys; print('late', file=sys.stderr); print('out')"
    assert run_command((sys.executable, "-c", code), env=os.environ, timeout=30).text == "out\n\nlate\n"


def test_ten_megabytes_are_read_to_the_end(tool: MakeTool):
    line = "    user host :0 (v1) (s/27000 1), start Mon 11/2 8:01\n"
    assert run(tool(text=line, repeat=10**7 // len(line) + 1)).text.count("\n") == 10**7 // len(line) + 1


def test_an_output_without_end_is_stopped(tool: MakeTool):
    fake = tool(do="flood")
    said = run(fake, limit=10**6)
    assert said.failure == "printed more than it could have to tell"
    assert not alive(fake.noted("begins")[0]["pid"])


def test_who_hangs_and_ignores_being_asked_to_end_is_killed_with_all_its_children(tool: MakeTool):
    fake = tool(do="hang")
    said = run(fake, timeout=2)
    assert (said.failure, said.code) == ("did not answer within 2 s", None)
    assert said.text.startswith("Users of aa")
    pids = {line["pid"] for line in fake.noted("hangs")}
    assert len(pids) == 2
    until(lambda: not any(alive(pid) for pid in pids), what="the end of the whole group")


def test_who_closes_its_output_and_lives_on_is_killed_too(tool: MakeTool):
    fake = tool(do="close", text="all\n")
    said = run(fake, timeout=2)
    assert (said.failure, said.text) == ("did not end within 2 s", "all\n")
    assert not alive(fake.noted("begins")[0]["pid"])


def test_a_child_that_keeps_the_output_open_does_not_hold_up_the_answer():
    code = "import os, signal; print(os.fork() or signal.pause(), flush=True)"
    said = run_command((sys.executable, "-c", code), env=os.environ, timeout=60)
    assert said.failure is None
    until(lambda: not alive(int(said.text)), what="the end of the child")


def test_a_program_that_runs_when_this_process_ends_is_killed(tmp_path: Path):
    said = tmp_path / "pid"
    code = (
        "import os, sys, time\nfrom pathlib import Path\n"
        "from prefect_slots.system.commands import run_command\n"
        "from prefect_slots.system.threads import call_in_thread\n"
        "call_in_thread(lambda: run_command(('/bin/sh', '-c', 'echo $$ > ' + sys.argv[1] + '; exec sleep 60'), "
        "env=os.environ, timeout=60), 'licence server')\n"
        "while not Path(sys.argv[1]).exists() or not Path(sys.argv[1]).read_text(): time.sleep(0.01)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(said)], timeout=30, check=True)
    until(lambda: not alive(int(said.read_text())), what="the end of the program")


def test_a_program_killed_by_the_end_of_this_process_is_no_failure_that_anybody_is_told(tmp_path: Path):
    code = (
        "import atexit, os, sys, time\nfrom pathlib import Path\n"
        # Registered first, so run last: the thread has all its time to tell.
        "atexit.register(lambda: Path(sys.argv[2]).write_text(repr(looked.exception(60))))\n"
        "from prefect_slots.system.commands import run_command\n"
        "from prefect_slots.system.threads import call_in_thread\n"
        "looked = call_in_thread(lambda: run_command(('/bin/sh', '-c', 'echo $$ > ' + sys.argv[1] + '; exec sleep 60'),"
        " env=os.environ, timeout=60), 'licence server')\n"
        "while not Path(sys.argv[1]).exists(): time.sleep(0.01)\n"
    )
    told = tmp_path / "told"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "pid"), str(told)], timeout=90, check=True)
    assert told.read_text() == "SystemExit()"


def test_a_program_that_is_not_there_is_told():
    said = run_command(("no-such-lmutil",), env=os.environ, timeout=5)
    assert said.failure == "there is no program 'no-such-lmutil': install it, or name its path with command"
    assert run_command(("/no/such/lmutil",), env={}, timeout=5).failure is not None


@pytest.mark.parametrize("by_path", [True, False])
def test_a_program_whose_loader_is_missing_gets_the_hint(tmp_path: Path, by_path: bool):
    program = tmp_path / "lmutil"
    program.write_text("#!/lib64/ld-lsb-x86-64.so.3\n")
    program.chmod(0o755)
    argv = str(program) if by_path else "lmutil"
    said = run_command((argv,), env={"PATH": str(tmp_path)}, timeout=5)
    assert said.failure is not None
    assert said.failure.startswith(f"'{argv}' exists but what runs it does not")
    assert "lsb-core" in said.failure


def test_a_program_that_may_not_be_run_is_told(tmp_path: Path):
    program = tmp_path / "lmutil"
    program.write_text("")
    assert (
        run_command((str(program),), env={}, timeout=5).failure == f"'{program}' cannot be started: Permission denied"
    )
    assert "cannot be started" in (run_command(("a\0b",), env={}, timeout=5).failure or "")
