"""`SlotPool` beside Ray, Dask and a bare `ProcessPoolExecutor`: starting, small tasks, hand-off, memory, large arrays.

Each peer is started again and again in a process of its own, with two workers, on a machine that has been used before;
then all run at once and take turns at the rest, so that whatever slows the machine down slows all of them. A bare
`ProcessPoolExecutor` admits everybody: it is the limit. Peers that are not installed are said to be missing.

start        from before the first import to the first result in hand
two needs    tasks that do nothing and need two resources, a second, when all is warm
memory       of everything that was started, the client too, with two workers (PSS)
hand-off     from the end of a task to the start of the next, where only one may run: of one kind, and of two
array        64 MB to a task and back, every page of it read on both sides
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

from benchmarks.case import BOUND, OURS, RAY_QUIET, Bar, Measured, Run, pick
from benchmarks.numbers import median, summary
from benchmarks.pool_peers import PEERS, WORKERS
from benchmarks.pool_session import Session, session

START = "start to first result"
MANY = "tasks with two needs"
MEMORY = f"memory, {WORKERS} workers"
ALIKE = "hand-off, one kind"
UNLIKE = "hand-off, two kinds"
ARRAY = "64 MB there and back"
RAY = "ray"
DASK = "dask"
_NEEDS = {RAY: "ray", DASK: "distributed"}
_MEGABYTES = 64
_TASKS = 1500
_RELAYED = 60
_CASES = (START, MANY, MEMORY, ALIKE, UNLIKE, ARRAY)
_UNITS = {MANY: "/s", MEMORY: "MiB"}
_CONFIG = f"""
[settings]
coordination = "local"
[gpus]
detect = false
[resources.scanner]
capacity = {WORKERS}
[resources.seat]
capacity = {WORKERS}
[resources.single]
capacity = 1
"""
# Case, whom ours is compared with (the lowest of them), the ratio at most, at least.
_ASKED: tuple[tuple[str, tuple[str, ...], float | None, float | None], ...] = (
    (START, (RAY,), 1 / 20, None),
    (MEMORY, (RAY,), 1 / 8, None),
    (MANY, (RAY,), None, 2.5),
    (MANY, (DASK,), None, 6),
    (MANY, (BOUND,), None, 0.4),
    (ALIKE, (RAY, DASK), 1 / 2, None),
    (UNLIKE, (RAY, DASK), 1 / 2, None),
)

_Found = dict[tuple[str, str], list[float]]


def measure(run: Run) -> list[Measured]:
    """Start every peer that is installed again and again, in turn; then let all that run at once take turns."""
    starts, turns = (1, 3) if run.quick else (7, 12)
    missing = [peer for peer in PEERS if peer in _NEEDS and find_spec(_NEEDS[peer]) is None]
    peers = [peer for peer in PEERS if peer not in missing]
    found: _Found = {}
    processes: dict[str, int] = {}
    run.expect((1 + starts + 1) * len(peers) + turns + len(missing))
    with tempfile.TemporaryDirectory(prefix="bench-") as place, ExitStack() as all_started:
        env = _environment(Path(place))
        for number in range(1 + starts):
            for peer in peers:
                run.step(f"start {number} of {starts}: {peer}")
                with session(peer, env, Path(place) / "log") as started:
                    if number == 0:
                        continue  # it has written the bytecode and registered the machine
                    found.setdefault((START, peer), []).append(started.startup)
                    _fill(started)
                    found.setdefault((MEMORY, peer), []).append(started.memory() / 2**20)
                    processes[peer] = len(started.processes())
        playing: dict[str, Session] = {}
        for peer in peers:
            run.step(f"{peer} makes ready")
            playing[peer] = all_started.enter_context(session(peer, env, Path(place) / f"{peer}.log"))
            _fill(playing[peer])
            _play(playing[peer])
        for number in range(turns):
            run.step(f"turn {number + 1} of {turns}")
            for peer, started in playing.items():
                for case, values in _play(started).items():
                    found.setdefault((case, peer), []).extend(values)
    for peer in missing:
        run.step(f"{peer} is missing: pip install {_NEEDS[peer]}")
    return [
        *(each for case in _CASES for peer in peers for each in _told(case, peer, found[case, peer])),
        *(
            Measured(case=MEMORY, peer=peer, metric="processes", value=number, unit="ratio")
            for peer, number in processes.items()
        ),
    ]


def _environment(place: Path) -> dict[str, str]:
    config = place / "prefect-slots.toml"
    config.write_text(_CONFIG)
    return {
        "PREFECT_SLOTS_CONFIG": str(config),
        "PREFECT_SLOTS_STATE_DIR": str(place / "state"),
        "RAY_TMPDIR": str(place / "ray"),
        **RAY_QUIET,
    }


def _fill(started: Session) -> None:
    """Wait until all workers are there."""
    while started.ask("pids", 2 * WORKERS) < WORKERS:
        pass  # one still starts


def _play(started: Session) -> dict[str, list[float]]:
    return {
        MANY: [started.ask("many", _TASKS)],
        ALIKE: started.ask("alike", _RELAYED),
        UNLIKE: started.ask("unlike", _RELAYED),
        ARRAY: [started.ask("array", _MEGABYTES)],
    }


def _told(case: str, peer: str, values: Sequence[float]) -> list[Measured]:
    if case not in _UNITS:
        return summary(case, peer, values)
    return [Measured(case=case, peer=peer, metric="median", value=median(values), unit=_UNITS[case])]


def bars(measured: Sequence[Measured]) -> list[Bar]:
    """Return the bars whose peers were measured."""
    found: list[Bar] = []
    for case, peers, at_most, at_least in _ASKED:
        ours = pick(measured, case, OURS, "median")
        theirs = [value for peer in peers if (value := pick(measured, case, peer, "median")) is not None]
        if ours is not None and theirs:
            text = f"{case}: ours / {' or '.join(peers)}"
            found.append(Bar(text=text, value=ours / min(theirs), unit="ratio", at_most=at_most, at_least=at_least))
    return found
