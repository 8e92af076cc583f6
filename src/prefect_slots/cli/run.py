"""`run`: a command under a grant, pinned to its GPUs, with its exit code and signals.

The command inherits the lock that proves this process alive. If this process is killed, the command still uses its
GPU, and the grant stays until the command ends, not until all ends that it leaves behind.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from cyclopts import Parameter

from prefect_slots.cli.app import Config, Json, say_error
from prefect_slots.errors import ConfigError, InvalidRequirement, SlotsError, WaitTimeout

# The codes of `timeout(1)`, which batch scripts know already.
TIMED_OUT = 124
OWN_FAILURE = 125
CANNOT_RUN = 126
NOT_FOUND = 127
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
# Python ignores these, and a child would inherit that: `yes | head` must end by SIGPIPE.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
# `si_code` of a signal that the terminal's driver sends; `signal` has no name for it.
_SI_KERNEL = 0x80
# Words that `--resource` must not take: `requires` would read them as something else.
_OPTIONS = frozenset({
    "gpu_mem", "gpus", "gpu", "gpu_capability", "mem", "cpus", "license", "licence",
    "timeout", "priority", "expected_seconds",
})  # fmt: skip


def run(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True, help="The command and its arguments, after `--`.")],
    gpu_mem: Annotated[str | None, Parameter(help="Memory per GPU: GiB, or with a unit (`512MiB`).")] = None,
    gpus: Annotated[str | None, Parameter(help="Number of GPUs; a part of one GPU below 1.")] = None,
    gpu: Annotated[str | None, Parameter(help="Words of GPU names that will do: `H100|A100 80GB`.")] = None,
    gpu_capability: Annotated[str | None, Parameter(help="CUDA's compute capability: `>=8.0`.")] = None,
    mem: Annotated[str | None, Parameter(help="System memory: GiB, or with a unit.")] = None,
    cpus: Annotated[int | None, Parameter(help="Cores.")] = None,
    license: Annotated[
        list[str],
        Parameter(
            name=("--license", "--licence"), help="A license, `matlab` or `matlab=2`; may be repeated.", negative=""
        ),
    ] = [],  # noqa: B006
    resource: Annotated[
        list[str], Parameter(help="A declared resource, `scanner=1`; may be repeated.", negative="")
    ] = [],  # noqa: B006
    timeout: Annotated[float | None, Parameter(help="Seconds to wait for the grant.")] = None,
    priority: Annotated[int, Parameter(help="Higher is served first.")] = 0,
    expected_seconds: Annotated[
        float | None, Parameter(help="How long COMMAND will take: short work may run in gaps before long work.")
    ] = None,
    config: Config = None,
    json: Json = False,
) -> int:
    """Run COMMAND once this machine can give it what it needs; give it back however COMMAND ends.

    `CUDA_VISIBLE_DEVICES` (AMD: `ROCR_VISIBLE_DEVICES`) is set to the granted GPUs' UUIDs. Ends with COMMAND's exit
    code, 124 when waiting timed out, 125 when prefect-slots itself failed, 126 or 127 when COMMAND cannot be run or
    found.

    Examples:
        prefect-slots run --gpu-mem 8 -- python train.py

        prefect-slots run --gpus 1 --gpu 'H100|A100' -- python train.py

        prefect-slots run --license matlab=1 --timeout 600 -- matlab -batch analyse
    """
    try:
        if not command:
            raise InvalidRequirement(key="", value="", reason="no command; write it after `--`")
        if command[0].startswith("-"):
            raise InvalidRequirement(key="", value=command[0], reason="no such option; a command is written after `--`")
        asked = {
            "gpu_mem": _number(gpu_mem),
            "gpus": _number(gpus),
            "gpu": gpu,
            "gpu_capability": gpu_capability,
            "mem": _number(mem),
            "cpus": cpus,
            "license": _counts("license", license) or None,
            "timeout": timeout,
            "priority": priority,
            "expected_seconds": expected_seconds,
            **_declared(resource),
        }
        return _run(list(command), asked, config)
    except WaitTimeout as error:
        say_error(error, as_json=json)
        return TIMED_OUT
    except SlotsError as error:
        say_error(error, as_json=json)
        return OWN_FAILURE


def _number(text: str | None) -> int | float | str | None:
    """Read `8` and `0.5` as numbers; anything else stays text for the parser of amounts to judge."""
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        try:
            return float(text)
        except ValueError:
            return text


def _counts(option: str, entries: list[str]) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for entry in entries:
        name, equals, count = entry.partition("=")
        if name in counts:
            raise InvalidRequirement(key=option, value=entry, reason=f"'{name}' stands twice")
        try:
            counts[name] = int(count) if equals else 1
        except ValueError:
            raise InvalidRequirement(key=option, value=entry, reason="write NAME or NAME=COUNT") from None
    return counts


def _declared(entries: list[str]) -> dict[str, Any]:
    counts = _counts("resource", entries)
    for name in _OPTIONS & counts.keys():
        option = f"--{name.replace('_', '-')}"
        raise InvalidRequirement(key="resource", value=name, reason=f"'{name}' has an option of its own, {option}")
    return counts


def _run(command: list[str], asked: dict[str, Any], config: Any) -> int:
    from prefect_slots.acquire import client, engine
    from prefect_slots.acquire.coordination import coordinate
    from prefect_slots.requiring import Grant, requires
    from prefect_slots.requiring.target import target_of
    from prefect_slots.settings import load_settings

    settings = load_settings(config)
    coordination = coordinate(settings.coordination, os.environ)
    if coordination.mode == "off":
        raise ConfigError(source="settings", key="coordination", reason='"off" grants nothing; use "auto" or "local"')
    target = target_of(settings, coordination)
    label = " ".join(command)[:80]
    request = requires(**asked).request(label, {})
    # Until the command runs, being asked to end means to leave the queue.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        grant = Grant(client.acquire(target, request, _Say(label)), target, label, None, request.amounts)
        return _watched(
            _spawn(command, grant.env, client.owner_descriptor(target), partial(client.note_command, target)),
            partial(client.was_ended, target, grant.id),
            label,
        )
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    finally:
        engine.close_engine()


class _Say:
    """Hooks that report the wait on standard error; standard output stays the command's own."""

    def __init__(self, label: str) -> None:
        self._label = label

    def waiting(self, reason: str) -> None:
        """Print the reason of the wait."""
        print(f"prefect-slots: {self._label}: {reason}", file=sys.stderr, flush=True)

    def resumed(self) -> None:
        """Print that the command starts."""
        print(f"prefect-slots: {self._label}: granted", file=sys.stderr, flush=True)


def _watched(code: int, was_ended: Callable[[], bool], label: str) -> int:
    """Return the command's exit code, and report that it was ended for overuse if it was."""
    with contextlib.suppress(SlotsError):
        if code > 128 and was_ended():
            print(f"prefect-slots: {label}: ended, as it used more than it declared", file=sys.stderr)
    return code


def _spawn(command: list[str], env: dict[str, str], lock: int, note: Callable[[int], None]) -> int:
    """Run the command, forward signals, and return its exit code as a shell would; `note` is given its process id."""
    # Blocked and then waited for, no signal is lost between the start of the command and its end.
    watched = {*_FORWARDED, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    os.set_inheritable(lock, True)
    try:
        child = os.posix_spawnp(command[0], command, env, setsigmask=(), setsigdef=(*watched, *_IGNORED_BY_PYTHON))
    except FileNotFoundError:
        print(f"prefect-slots: {command[0]}: command not found", file=sys.stderr)
        return NOT_FOUND
    except OSError as error:
        print(f"prefect-slots: {command[0]}: {error.strerror}", file=sys.stderr)
        return CANNOT_RUN
    # The note serves the watch over memory; the command must run even if the ledger cannot be written.
    with contextlib.suppress(SlotsError):
        note(child)
    while True:
        received = signal.sigwaitinfo(watched)
        if received.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return 128 - code if code < 0 else code
        elif received.si_code != _SI_KERNEL:
            # A key on the terminal reaches the command by itself; passing it on would deliver it twice.
            os.kill(child, received.si_signo)
