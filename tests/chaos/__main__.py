"""`python -m tests.chaos --minutes N --seed S [--json] [--machines 2] [--postgres]`: everything breaks at random.

A real Prefect server with its leases in memory, one or two machines that share a floating licence of three seats, and
on each several processes that ask, hold and give back. Meanwhile processes are killed, stopped and interrupted at any
moment, at fault points too; the server is stopped, killed and suspended; people edit its counts; and a stock user
takes slots. In the end all breaking stops, everybody finishes, and there is a verdict: nothing was ever held by more
than there is for, and nothing is left, in the ledgers or on the server.

The same seed makes the same decisions about what to break, when and how; how far the processes have come at that
moment differs from run to run. So a seed that failed is likely, not certain, to fail again.

What is not done, because more is promised to nobody (see the docstrings of `repairing` and `keeping`):

- The fleet's limit is never set lower by hand, and its mirrors are not edited: a server that was told to count less
  than is held admits another machine until the holder's machine has looked, and to tell a mirror that was raised from
  a release that was lost it would have to see all machines' ledgers.
- Whoever has edited a limit or a mirror corrects, some seconds later, what the limit counts and no mirror does: it
  looks like the use of others, and is left to them. So does a slot whose mirror was set to zero just before the server
  lost its lease: it is taken again for its holder, and what was counted before is nobody's.
- Slots of a machine's own limits that the foreign user has are not in the overlap record: while the server is away a
  machine goes on by its ledger alone. The fleet's seats that he has are in it.
- Nobody is stopped for longer than 20 s, and the server is never gone for the life of a lease (300 s): a seat whose
  lease has lapsed may be taken by others.
- The server's wall clock stands as it is: leases would lapse all at once.
- Limits are not deleted, renamed, lowered or switched off, and the state folders are left alone.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path

from rich.console import Console

for _name in [name for name in os.environ if name.startswith(("PREFECT", "WORKER_ID"))]:
    del os.environ[_name]


def main() -> int:
    """Play one chaos; return 1 if anything went wrong."""
    rest = (__doc__ or "").partition("\n\n")[2]
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--json", action="store_true", help="the verdict as JSON on standard output")
    parser.add_argument("--machines", type=int, choices=[1, 2], default=2)
    parser.add_argument("--postgres", action="store_true", help="the server's database is PostgreSQL")
    parser.add_argument("--keep", action="store_true", help="keep the folder of what happened though all went well")
    options = parser.parse_args()
    # Whoever ends it, everything that it started ends with it.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda signum, _: sys.exit(128 + signum))
    folder = Path(tempfile.mkdtemp(prefix="prefect-slots-chaos-"))
    os.environ["PREFECT_HOME"] = str(folder / "home")
    os.environ["XDG_CACHE_HOME"] = str(folder)

    from tests.chaos.chaos import Chaos

    passed = False
    try:
        verdict = Chaos(
            folder,
            minutes=options.minutes,
            seed=options.seed,
            machines=options.machines,
            postgres=options.postgres,
            say=partial(print, file=sys.stderr, flush=True),
        ).run()
        passed = not verdict.reasons
        if options.json:
            print(json.dumps(verdict.as_data(), indent=1))
        else:
            verdict.show(Console())
    finally:
        if passed and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"seed {options.seed}: what happened is in {folder}", file=sys.stderr)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
