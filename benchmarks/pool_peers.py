"""The pools that `pool` measures, each in a process of its own: `python -m benchmarks.pool_peers PEER`.

Each is started as its own documentation shows, without a dashboard, for two workers that share two scanners, two seats
and one single thing. The first line of output tells how long the first result took, from before the first import;
then each line of input, `WHAT NUMBER`, is answered by one of output.
"""

from __future__ import annotations

import json
import sys
import time
from importlib import import_module
from itertools import pairwise
from typing import Any, Protocol, cast

from benchmarks.pool_tasks import Held, hold, nothing, read, send_back

WORKERS = 2
BOTH = {"scanner": 1, "seat": 1}
SINGLE = {"single": 1}
UNLIKE = {"single": 1, "seat": 1}
HOLD_SECONDS = 0.01


class Peer(Protocol):
    """A started pool."""

    def many(self, items: int) -> list[int]:
        """Return the results of so many tasks that do nothing and need a scanner and a seat."""
        ...

    def relay(self, tasks: int, needs: tuple[dict[str, int], ...]) -> list[Held]:
        """Return how so many tasks that take a moment were run; their needs are these, in turn."""
        ...

    def there_and_back(self, array: Any) -> Any:
        """Return what a task returns that is given an array."""
        ...

    def end(self) -> None:
        """End all that was started."""


class Ours:
    """`SlotPool`."""

    def __init__(self) -> None:
        from prefect_slots import SlotPool

        self._pool = SlotPool(WORKERS)

    def many(self, items: int) -> list[int]:
        """Map over them."""
        return list(self._pool.map(nothing, range(items), requires=BOTH))

    def relay(self, tasks: int, needs: tuple[dict[str, int], ...]) -> list[Held]:
        """Submit them all."""
        asked = (needs[number % len(needs)] for number in range(tasks))
        return [future.result() for future in [self._pool.submit(hold, HOLD_SECONDS, requires=each) for each in asked]]

    def there_and_back(self, array: Any) -> Any:
        """Submit it."""
        return self._pool.submit(send_back, array, requires=BOTH).result()

    def end(self) -> None:
        """Shut it down."""
        self._pool.shutdown()


class Bare:
    """`ProcessPoolExecutor`: no admission, so that one worker alone serves what only one may do at a time."""

    def __init__(self) -> None:
        from concurrent.futures import ProcessPoolExecutor

        self._pool = ProcessPoolExecutor(WORKERS)
        self._single = ProcessPoolExecutor(1)

    def many(self, items: int) -> list[int]:
        """Map over them."""
        return list(self._pool.map(nothing, range(items)))

    def relay(self, tasks: int, needs: tuple[dict[str, int], ...]) -> list[Held]:
        """Submit them all."""
        pool = self._pool if needs == (BOTH,) else self._single
        return [future.result() for future in [pool.submit(hold, HOLD_SECONDS) for _ in range(tasks)]]

    def there_and_back(self, array: Any) -> Any:
        """Submit it."""
        return self._pool.submit(send_back, array).result()

    def end(self) -> None:
        """Shut both down."""
        self._pool.shutdown()
        self._single.shutdown()


class Ray:
    """Ray on this machine alone. Each task needs a core beside what it is told: so it is by default, and faster."""

    def __init__(self) -> None:
        self._ray: Any = import_module("ray")
        here = {"scanner": WORKERS, "seat": WORKERS, "single": 1}
        self._ray.init(num_cpus=WORKERS, resources=here, include_dashboard=False, log_to_driver=False)
        self._nothing = self._ray.remote(resources=BOTH)(nothing)
        self._hold = self._ray.remote(hold)
        self._send_back = self._ray.remote(resources=BOTH)(send_back)

    def many(self, items: int) -> list[int]:
        """Get them all."""
        return self._ray.get([self._nothing.remote(item) for item in range(items)])

    def relay(self, tasks: int, needs: tuple[dict[str, int], ...]) -> list[Held]:
        """Get them all."""
        holds = [self._hold.options(resources=each) for each in needs]
        return self._ray.get([holds[number % len(holds)].remote(HOLD_SECONDS) for number in range(tasks)])

    def there_and_back(self, array: Any) -> Any:
        """Get it."""
        return self._ray.get(self._send_back.remote(array))

    def end(self) -> None:
        """Shut it down."""
        self._ray.shutdown()


class Dask:
    """A `LocalCluster`: it counts resources per worker, so that one of the two has the single thing."""

    def __init__(self) -> None:
        distributed: Any = import_module("distributed")
        self._cluster = distributed.LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, resources=BOTH, dashboard_address=None
        )
        self._client = distributed.Client(self._cluster)
        self._has_single = False

    def many(self, items: int) -> list[int]:
        """Map over them."""
        return self._client.gather(self._client.map(nothing, range(items), pure=False, resources=BOTH))

    def relay(self, tasks: int, needs: tuple[dict[str, int], ...]) -> list[Held]:
        """Submit them all."""
        if not self._has_single:
            one = min(self._client.scheduler_info()["workers"])
            self._client.run(_add_single, workers=[one])
            self._has_single = True
        asked = (needs[number % len(needs)] for number in range(tasks))
        return self._client.gather(
            [self._client.submit(hold, HOLD_SECONDS, pure=False, resources=each) for each in asked]
        )

    def there_and_back(self, array: Any) -> Any:
        """Submit it."""
        return self._client.submit(send_back, array, pure=False, resources=BOTH).result()

    def end(self) -> None:
        """Close client and cluster."""
        self._client.close()
        self._cluster.close()


async def _add_single(dask_worker: Any) -> None:
    await dask_worker.set_resources(single=1)


PEERS = {"ours": Ours, "ray": Ray, "dask": Dask, "bound": Bare}


def main() -> None:
    """Start one peer, and do with it what standard input says."""
    began = time.monotonic()
    peer = cast("Peer", PEERS[sys.argv[1]]())
    assert peer.many(1) == [0]
    print(time.monotonic() - began, flush=True)
    try:
        for line in sys.stdin:
            what, number = line.split()
            print(json.dumps(_DO[what](peer, int(number))), flush=True)
    finally:
        peer.end()


def _pids(peer: Peer, number: int) -> int:
    """Return how many different processes have run so many tasks."""
    return len({held.pid for held in map(_held, peer.relay(number, (BOTH,)))})


def _many(peer: Peer, number: int) -> float:
    """Return tasks per second."""
    began = time.monotonic()
    done = peer.many(number)
    seconds = time.monotonic() - began
    assert done == list(range(number))
    return number / seconds


def _alike(peer: Peer, number: int) -> list[float]:
    return _gaps(peer.relay(number, (SINGLE,)))


def _unlike(peer: Peer, number: int) -> list[float]:
    return _gaps(peer.relay(number, (SINGLE, UNLIKE)))


def _gaps(relayed: list[Held]) -> list[float]:
    """Return the seconds between the end of each task and the beginning of the next."""
    held = sorted(map(_held, relayed))
    gaps = [after.began - before.ended for before, after in pairwise(held)]
    assert min(gaps) >= 0, "two at once"
    return gaps


def _held(said: Any) -> Held:
    return Held(*said)


def _array(peer: Peer, megabytes: int) -> float:
    """Return the seconds that an array takes there and back."""
    array = import_module("numpy").arange(megabytes * 125_000, dtype="float64")
    expected = read(array)
    began = time.monotonic()
    seen = read(peer.there_and_back(array))
    seconds = time.monotonic() - began
    assert seen == expected
    return seconds


_DO = {"pids": _pids, "many": _many, "alike": _alike, "unlike": _unlike, "array": _array}

if __name__ == "__main__":
    main()
