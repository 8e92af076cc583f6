"""`prefect-slots run`: a command under a grant, with its exit code, its signals, and its card until it ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support.processes import ROOT, Puppet, SharedMachine

RUN = (sys.executable, "-m", "prefect_slots", "run")
PYTHON = sys.executable


@pytest.fixture
def machine(tmp_path: Path) -> SharedMachine:
    return SharedMachine(tmp_path)


def run(machine: SharedMachine, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run to the end."""
    return subprocess.run(
        [*RUN, *arguments],
        cwd=ROOT,
        env={**machine.env, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Running:
    """One `prefect-slots run` that goes on; its command prints its process id first."""

    def __init__(self, machine: SharedMachine, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*RUN, *arguments],
            cwd=ROOT,
            env=machine.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ended(self) -> tuple[int, str, str]:
        out, errors = self.process.communicate(timeout=40)
        return self.process.returncode, out, errors

    def kill_all(self) -> None:
        """Kill it with its command, which would keep the pipes open."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def start(machine: SharedMachine) -> Iterator[Any]:
    begun: list[Running] = []

    def begin(*arguments: str) -> Running:
        begun.append(Running(machine, *arguments))
        return begun[-1]

    yield begin
    for running in begun:
        running.kill_all()


# What the command is given, and how it ends


def test_the_command_runs_with_its_cards_and_gives_them_back(machine: SharedMachine) -> None:
    code = (
        "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ['CUDA_DEVICE_ORDER'],"
        " os.environ['PREFECT_SLOTS_STATE_DIR'])"
    )
    done = run(machine, "--gpu-mem", "8", "--gpus", "2", "--license", "matlab", "--", PYTHON, "-c", code)
    assert done.stdout.split() == ["GPU-test-0,GPU-test-1", "PCI_BUS_ID", str(machine.state.resolve())]
    assert (done.returncode, done.stderr) == (0, "")
    held = machine.all("SELECT resource, number, amount, label FROM history ORDER BY 1, 2")
    assert [row[:3] for row in held] == [("gpu_mem", 0, 8192), ("gpu_mem", 1, 8192), ("license.matlab", 0, 1)]
    assert held[0][3].startswith(PYTHON)
    assert machine.traces() == {}


def test_all_options_at_once(machine: SharedMachine) -> None:
    amounts = "--mem 2GiB --cpus 3 --license ansys=2 --licence matlab --resource scanner=1 --gpus 0.5 --priority 4"
    assert run(machine, *amounts.split(), "--expected-seconds", "0.5", "--", "true").returncode == 0
    held = machine.all("SELECT resource, amount FROM history ORDER BY 1")
    assert held == [
        ("cpus", 3),
        ("gpu_mem", 12288),
        ("license.ansys", 2),
        ("license.matlab", 1),
        ("mem", 2048),
        ("scanner", 1),
    ]


@pytest.mark.parametrize("code", [0, 1, 7, 124, 255])
def test_its_exit_code_is_the_command_s(machine: SharedMachine, code: int) -> None:
    assert run(machine, "--cpus", "1", "--", "sh", "-c", f"exit {code}").returncode == code
    assert machine.traces() == {}


def test_a_command_killed_by_a_signal_ends_as_in_a_shell(machine: SharedMachine) -> None:
    assert run(machine, "--cpus", "1", "--", "sh", "-c", "kill -9 $$").returncode == 137


def test_the_command_s_own_options_are_left_to_it(machine: SharedMachine) -> None:
    done = run(machine, "--cpus", "1", "--", "echo", "--cpus", "2", "--json", "-o", "json", "--", "--help")
    assert done.stdout == "--cpus 2 --json -o json -- --help\n"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [("no-such-program", 127, "not found"), ("script", 126, "denied"), ("/", 126, "denied")],
)
def test_a_command_that_cannot_be_run(machine: SharedMachine, command: str, code: int, words: str) -> None:
    script = machine.state.parent / "script"
    script.write_text("#!/bin/sh\n")
    done = run(machine, "--cpus", "1", "--", str(script) if command == "script" else command)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert machine.traces() == {}


def test_a_script_without_a_first_line_cannot_be_run(machine: SharedMachine) -> None:
    script = machine.state.parent / "script"
    script.write_bytes(b"\x7fELF nonsense")
    script.chmod(stat.S_IRWXU)
    assert run(machine, "--cpus", "1", "--", str(script)).returncode == 126
    assert machine.traces() == {}


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--gpu-mem|8 GB of ram", "8 GB of ram"),
        ("--license|matlab=0", "above zero"),
        ("--license|a/b", "letters, digits"),
        ("--license|matlab=x", "NAME=COUNT"),
        ("--license|matlab|--license|matlab", "stands twice"),
        ("--license|matlab|--licence|matlab", "stands twice"),
        ("--resource|licence=1", "an option of its own, --licence"),
        ("--resource|scaner=1", "did you mean scanner"),
        ("--resource|Scanner=1", "lower-case"),
        ("--resource|gpu_mem=1", "--gpu-mem"),
        ("--gpu-mem|25", "the largest is gpu 0 (Test card) with 24576 MiB"),
        ("--cpus|0", "above zero"),
        ("--cpus|1|--timeout|-5", "0 or more"),
        ("--cpus|1|--timeout|nan", "0 or more"),
        ("--cpus|1|--no-such-option", "no-such-option"),
        ("", "nothing is asked for"),
    ],
)
def test_a_mistake_is_our_own_failure_told_in_words(machine: SharedMachine, arguments: str, words: str) -> None:
    done = run(machine, *filter(None, arguments.split("|")), "--", "touch", str(machine.state.parent / "ran"))
    assert done.returncode == 125, done.stderr
    assert done.stdout == ""
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (machine.state.parent / "ran").exists()


def test_a_value_that_the_command_line_cannot_read_is_told(machine: SharedMachine) -> None:
    done = run(machine, "--cpus", "two", "--", "true")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--cpus" in done.stderr


def test_no_command_is_a_mistake(machine: SharedMachine) -> None:
    done = run(machine, "--cpus", "1")
    assert done.returncode == 125
    assert "no command" in done.stderr


def test_errors_as_json(machine: SharedMachine) -> None:
    done = run(machine, "--gpu-mem", "25", "--json", "--", "true")
    told = json.loads(done.stdout)
    assert (done.returncode, told["error"], told["machine"]) == (125, "Impossible", "shared")
    assert told["message"] in told["message"].strip()
    assert run(machine, "-o", "json", "--license", "a/b", "--", "true").stdout.startswith('{"error": "InvalidReq')


def test_a_state_folder_that_is_unfit_is_told(machine: SharedMachine) -> None:
    (machine.state.parent / "file").write_text("")
    folder = str(machine.state.parent / "file" / "state")
    done = run(machine, "--cpus", "1", "--", "true", PREFECT_SLOTS_STATE_DIR=folder)
    assert done.returncode == 125
    assert "Not a directory" in done.stderr


# Waiting


def test_waiting_too_long_is_124_and_says_why(machine: SharedMachine) -> None:
    with Puppet(machine) as other:
        other.enter(scanner=1)
        done = run(machine, "--resource", "scanner", "--timeout", "0.2", "--", "true")
        assert done.returncode == 124
        assert "prefect-slots: true: waits for 1 of scanner; 0 free" in done.stderr
        assert "not granted within 0.2 s" in done.stderr
        assert machine.count("ticket") == 0


def test_a_command_that_waits_says_so_and_then_runs(machine: SharedMachine, start: Any) -> None:
    with Puppet(machine) as other:
        other.enter(scanner=1)
        waiting = start("--resource", "scanner", "--", "echo", "ran")
        machine.waiting(1)
        other.leave()
        code, out, errors = waiting.ended()
    assert (code, out) == (0, "ran\n")
    assert errors.splitlines() == [
        "prefect-slots: echo ran: waits for 1 of scanner; 0 free",
        "prefect-slots: echo ran: granted",
    ]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_being_asked_to_end_while_waiting_leaves_the_queue(
    machine: SharedMachine, start: Any, sent: signal.Signals, code: int
) -> None:
    with Puppet(machine) as other:
        other.enter(scanner=1)
        waiting = start("--resource", "scanner", "--", "echo", "ran")
        machine.waiting(1)
        waiting.process.send_signal(sent)
        returned, out, errors = waiting.ended()
        assert (returned, out) == (code, "")
        assert "Traceback" not in errors
        assert machine.count("ticket") == 0
        assert machine.count("owner") == 1


# Signals

COUNTING = """
import os, signal, sys
counted = []
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
    signal.signal(number, lambda n, _: os.write(1, f"{signal.Signals(n).name}\\n".encode()))
os.write(1, f"{os.getpid()}\\n".encode())
while True:
    signal.pause()
"""


def test_signals_reach_the_command_once_each(machine: SharedMachine, start: Any) -> None:
    running = start("--cpus", "1", "--", PYTHON, "-c", COUNTING)
    command = int(running.line())
    for sent in (signal.SIGUSR1, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        running.process.send_signal(sent)
        assert running.line() == sent.name
    os.kill(command, signal.SIGKILL)
    code, out, errors = running.ended()
    assert (code, out, errors) == (137, "", "")
    assert machine.traces() == {}


def test_a_command_that_ends_by_a_forwarded_signal(machine: SharedMachine, start: Any) -> None:
    running = start("--cpus", "1", "--", "sh", "-c", "echo there; exec sleep 60")
    assert running.line() == "there"
    running.process.send_signal(signal.SIGTERM)
    assert running.ended()[0] == 143
    assert machine.traces() == {}


def test_the_command_starts_with_no_signal_blocked_or_ignored(machine: SharedMachine) -> None:
    done = run(machine, "--cpus", "1", "--", "grep", "-E", "SigBlk|SigIgn", "/proc/self/status")
    blocked, ignored = (int(line.split()[1], 16) for line in done.stdout.splitlines())
    of_the_c_library = 1 << 31 | 1 << 32
    assert (blocked, ignored & ~of_the_c_library) == (0, 0)


# The card stays held as long as the command lives


def test_when_only_the_wrapper_is_killed_the_card_is_the_command_s_until_it_ends(
    machine: SharedMachine, start: Any
) -> None:
    running = start("--gpus", "2", "--", PYTHON, "-c", COUNTING)
    command = int(running.line())
    running.process.kill()
    running.process.wait(30)
    with Puppet(machine) as other:
        assert other.enter(gpu_mem=1, timeout=1.2)["error"] == "WaitTimeout"
        other.ask(gpu_mem=1)
        machine.waiting(1)
        assert other.silent
        os.kill(command, signal.SIGKILL)
        assert other.reply(10)["granted"] == {"gpu_mem": 1024}
    machine.until_empty()


def test_when_wrapper_and_command_are_killed_the_card_is_free(machine: SharedMachine, start: Any) -> None:
    running = start("--gpus", "2", "--", PYTHON, "-c", COUNTING)
    command = int(running.line())
    with Puppet(machine) as other:
        other.ask(gpu_mem=1)
        machine.waiting(1)
        os.kill(command, signal.SIGKILL)
        running.process.kill()
        assert other.reply(10)["granted"] == {"gpu_mem": 1024}


def test_what_the_command_of_a_killed_wrapper_leaves_behind_keeps_nothing(machine: SharedMachine, start: Any) -> None:
    """C26."""
    leaves = "setsid sleep 600 & echo $$ $!; read line"
    running = start("--gpus", "2", "--", "sh", "-c", leaves)
    command, left = map(int, running.line().split())
    try:
        with Puppet(machine) as other:
            other.ask(gpu_mem=1)
            machine.waiting(1)
            running.process.kill()
            running.process.wait(30)
            assert other.silent
            os.kill(command, signal.SIGKILL)
            assert other.reply(10)["granted"] == {"gpu_mem": 1024}
            assert psutil.pid_exists(left)
    finally:
        os.kill(left, signal.SIGKILL)
    machine.until_empty()


def test_nothing_of_ours_but_the_lock_is_open_in_the_command(machine: SharedMachine) -> None:
    done = run(machine, "--cpus", "1", "--", "find", "/proc/self/fd", "-type", "l", "-printf", "%f %l\\n")
    files = [line.split() for line in done.stdout.splitlines()]
    state = machine.state.resolve()
    assert [Path(target).parent for _, target in files if Path(target).is_relative_to(state)] == [state / "owners"]
    assert not [target for _, target in files if target.startswith(("socket:", "anon_inode:"))]


# Requests inside

INSIDE = """
import sys
from prefect_slots import requires
from prefect_slots.errors import SlotsError
try:
    with requires(gpu_mem=float(sys.argv[1]), timeout=20) as grant:
        print(grant.amounts, grant.device)
except SlotsError as error:
    print(type(error).__name__, error)
"""


def test_what_the_command_requires_is_drawn_from_its_own_grant(machine: SharedMachine) -> None:
    with Puppet(machine) as other:
        other.enter(gpu_mem=24)
        done = run(machine, "--gpu-mem", "24", "--", PYTHON, "-c", INSIDE, "24")
        assert done.stdout == "{'gpu_mem': 24576} cuda:0\n"


def test_what_the_command_requires_beyond_its_grant_is_a_clear_error(machine: SharedMachine) -> None:
    done = run(machine, "--gpu-mem", "8", "--", PYTHON, "-c", INSIDE, "16")
    assert done.stdout.startswith("OutOfOrder with block (<string>:6) asks for 16GiB of gpu_mem on one card while ")
    assert "Ask for everything in the outer" in done.stdout


def test_one_run_inside_another_draws_on_it(machine: SharedMachine) -> None:
    inner = [*RUN, "--resource", "scanner", "--", "echo", "inner"]
    done = run(machine, "--resource", "scanner", "--gpu-mem", "1", "--", *inner)
    assert (done.returncode, done.stdout) == (0, "inner\n")
