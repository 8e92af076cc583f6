"""`SlotPool` beside Ray, Dask and a bare `ProcessPoolExecutor`: starting, small tasks, hand-off, memory, large arrays.

Each round, each peer is started anew in a process of its own, with two workers, on a machine that has been used before.
A bare `ProcessPoolExecutor` admits everybody: it is the limit. Peers that are not installed are said to be missing.

start        from before the first import to the first result in hand
two needs    tasks that do nothing and need two resources, a second, when all is warm
memory       of everything that was started, the client too, with two workers (PSS)
hand-off     from the end of a task to the start of the next, where only one may run: of one kind, and of two
array        64 MB to a task and back, every page of it read on both sides
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from benchmarks.case import BOUND, OURS, RAY_QUIET, Bar, Measured, Run, pick
from benchmarks.numbers import median, summary
from benchmarks.pool_peers import PEERS, WORKERS
from benchmarks.pool_session import Session, session

START: Final = "start to first result"
MANY: Final = "tasks with two needs"
MEMORY: Final = f"memory, {WORKERS} workers"
ALIKE: Final = "hand-off, one kind"
UNLIKE: Final = "hand-off, two kinds"
ARRAY: Final = "64 MB there and back"
RAY: Final = "ray"
DASK: Final = "dask"
_NEEDS: Final = {RAY: "ray", DASK: "distributed"}
_MEGABYTES: Final = 64
_CASES: Final = (START, MANY, MEMORY, ALIKE, UNLIKE, ARRAY)
_UNITS: Final = {MANY: "/s", MEMORY: "MiB"}
_CONFIG: Final = f"""
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
_ASKED: Final[tuple[tuple[str, tuple[str, ...], float | None, float | None], ...]] = (
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
    """Let every peer that is installed have its turn in each round."""
    rounds = 1 if run.quick else 7
    missing = [peer for peer in PEERS if peer in _NEEDS and find_spec(_NEEDS[peer]) is None]
    peers = [peer for peer in PEERS if peer not in missing]
    found: _Found = {}
    processes: dict[str, int] = {}
    run.expect((1 + rounds) * len(peers) + len(missing))
    with tempfile.TemporaryDirectory(prefix="bench-") as place:
        env = _environment(Path(place))
        log = Path(place) / "log"
        for peer in peers:  # writes the bytecode, registers the machine
            run.step(f"{peer}: a first time")
            with session(peer, env, log):
                pass
        for number in range(rounds):
            for peer in peers:
                run.step(f"round {number + 1} of {rounds}: {peer}")
                with session(peer, env, log) as started:
                    processes[peer] = _play(started, peer, found, quick=run.quick)
    for peer in missing:
        run.step(f"{peer} is missing: pip install {_NEEDS[peer]}")
    return [
        *(each for (case, peer), values in sorted(found.items(), key=_order) for each in _told(case, peer, values)),
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


def _play(started: Session, peer: str, found: _Found, *, quick: bool) -> int:
    """Measure one session; return how many processes it had."""
    batches, tasks, relayed, arrays = (2, 1000, 60, 3) if quick else (5, 2000, 150, 5)

    def note(case: str, *values: float) -> None:
        found.setdefault((case, peer), []).extend(values)

    note(START, started.startup)
    while started.ask("pids", 2 * WORKERS) < WORKERS:
        pass  # a worker still starts
    started.ask("many", tasks // 2)
    note(MANY, *(started.ask("many", tasks) for _ in range(batches)))
    note(MEMORY, started.memory() / 2**20)
    processes = len(started.processes())
    for case, what in ((ALIKE, "alike"), (UNLIKE, "unlike")):
        started.ask(what, 10)
        note(case, *started.ask(what, relayed))
    started.ask("array", _MEGABYTES)
    note(ARRAY, *(started.ask("array", _MEGABYTES) for _ in range(arrays)))
    return processes


def _order(item: tuple[tuple[str, str], list[float]]) -> int:
    (case, peer), _ = item
    return _CASES.index(case) * len(PEERS) + list(PEERS).index(peer)


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
