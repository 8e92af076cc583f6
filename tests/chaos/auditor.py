"""The auditor: a process of its own that reads the records all along and says when more was held than there is.

Run as `python -m tests.chaos.auditor FOLDER CAPACITY`, the second as JSON; it ends when its input does. It keeps
`FOLDER/audit.json` up to date.
"""

from __future__ import annotations

import json
import select
import sys
from pathlib import Path

from tests.chaos.judge import Records
from tests.support.stress import clock

AUDIT = "audit.json"
_EVERY_SECONDS = 2.0
# A process that was stopped writes late what it holds: longer than anybody is stopped.
_LATEST_SECONDS = 90.0


def main() -> None:
    """Read and judge until told to end."""
    folder, capacity = Path(sys.argv[1]), json.loads(sys.argv[2])
    records = Records(folder)
    violations: dict[str, None] = {}
    told_to_end = False
    while not told_to_end:
        told_to_end = bool(select.select([sys.stdin], [], [], _EVERY_SECONDS)[0])
        # What ended before this moment was written as ended before anybody else could be granted it. Of what is
        # written while the records are read, one record may tell and another not yet.
        now = clock()
        records.read()
        violations.update(dict.fromkeys(records.overlaps(capacity, until=now)))
        records.drop_before(now - _LATEST_SECONDS)
        audit = {
            "grants": records.grants,
            "longest_wait": records.longest_wait,
            "counts": records.counts,
            "violations": list(violations),
        }
        draft = folder / f"{AUDIT}.draft"
        draft.write_text(json.dumps(audit))
        draft.replace(folder / AUDIT)


if __name__ == "__main__":
    main()
