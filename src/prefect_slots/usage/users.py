"""Whose process holds a seat: looked up and compared, and never logged or written."""

from __future__ import annotations

import getpass
import pwd
from contextlib import suppress
from pathlib import Path
from typing import Final

_LONGEST_MEMORY: Final = 1000


class Users:
    """Whose processes hold seats. The names of those that have ended are remembered for a while."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def name(self, grant: str, pid: int) -> str:
        """Return the user of a grant's process; this process's own where that cannot be told any more."""
        with suppress(OSError, KeyError):
            self._names[grant] = pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name
        while len(self._names) > _LONGEST_MEMORY:
            del self._names[next(iter(self._names))]
        return self._names.get(grant) or getpass.getuser()
