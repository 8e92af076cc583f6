"""A process with a pool to which it submits random tasks; each writes down itself what it holds.

Run as `python -m tests.support.pooled SEED TASKS FOLDER MATLAB ANSYS`. A task process's record is a file of its own
in the folder, of the form of `tests.support.records`.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from pathlib import Path

from tests.support.records import clock, recorded

from prefect_slots import current_grant


def hold(folder: str, seconds: float) -> float:
    """Hold for a while what was granted, and say so in the record."""
    grant = current_grant()
    assert grant is not None
    record = os.open(Path(folder) / f"task-{os.getpid()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        with recorded(record, grant):
            time.sleep(seconds)
    finally:
        os.close(record)
    return seconds


def hold_as_told(path: str, holdings: str, seconds: str) -> None:
    """Do the same in a command that was started under a grant of these holdings."""
    with Path(path).open("a") as record:
        record.write(json.dumps(["+", clock(), json.loads(holdings)]) + "\n")
        record.flush()
        time.sleep(float(seconds))
        record.write(json.dumps(["-", clock(), json.loads(holdings)]) + "\n")


def main() -> None:
    """Submit, take every result, and print how many were right."""
    seed, tasks, folder, matlab, ansys = sys.argv[1:6]
    # Not for the task processes, which need none of it.
    from tests.support.stress import wants

    from prefect_slots import SlotPool

    chance = random.Random(int(seed))
    with SlotPool(4) as pool:
        sent = [(chance.expovariate(100), wants(chance, matlab, ansys)) for _ in range(int(tasks))]
        futures = [(seconds, pool.submit(hold, folder, seconds, requires=asked)) for seconds, asked in sent]
        print(sum(future.result(100) == seconds for seconds, future in futures))


if __name__ == "__main__":
    main() if len(sys.argv) == 6 else hold_as_told(*sys.argv[1:4])
