"""Settings that were checked before: the same text, of the same variables, needs no second check.

The check imports pydantic, which costs a command more than all else that it does. What passed it is kept in the user's
cache folder, beside every word that it was made of, and serves whoever says the same again; a mistake is never kept.
"""

from __future__ import annotations

import os
import pickle
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from zlib import crc32

from prefect_slots import model
from prefect_slots.model.book import TOKEN
from prefect_slots.settings.values import ENV_PREFIX, WORKER_ID, Settings

# Many folders, machines and tests with settings of their own must not fill a disk: the newer replace the older.
FILES: Final = 16
_OTHERS_MAY_WRITE: Final = 0o022


def _code() -> list[tuple[str, int, int]]:
    code: list[tuple[str, int, int]] = []
    for folder in (*model.__path__, Path(__file__).parent):
        for file in Path(folder).glob("*.py"):
            # An editor's lock is a link to nowhere.
            with suppress(OSError):
                status = file.stat()
                code.append((str(file), status.st_mtime_ns, status.st_size))
    return sorted(code)


# Looked at once: after an upgrade, a process that still runs the old code must not speak for the new.
_CODE: Final = _code()


def said(path: Path | None, raw: bytes, env: Mapping[str, str]) -> bytes:
    """Return all that settings are made of: a file, variables, and the code that checks them."""
    variables = sorted(
        (name, value)
        for name, value in env.items()
        if (name.upper().startswith(ENV_PREFIX) and name != TOKEN) or name == WORKER_ID
    )
    # A folder's name may begin with `~`.
    home = os.environ.get("HOME")
    return repr((str(path), raw, variables, home, sys.version, _CODE)).encode("utf-8", "surrogateescape")


def find(said: bytes, env: Mapping[str, str]) -> Settings | None:
    """Return the settings that were made of this, if they are kept."""
    place = _place(said, env)
    if place is None:
        return None
    # Torn, of another version or gone: whatever is wrong with it, the settings are checked again.
    with suppress(Exception):
        if not _is_ours(place.parent.stat()):
            return None
        with place.open("rb") as file:
            if _is_ours(os.fstat(file.fileno())):
                made_of, settings = pickle.load(file)
                if made_of == said and isinstance(settings, Settings):
                    return settings
    return None


def keep(said: bytes, settings: Settings, env: Mapping[str, str]) -> None:
    """Keep what was made of this, if there is a place for it."""
    place = _place(said, env)
    if place is None:
        return
    # Another thread's or process's must not be mixed with ours, and whoever reads must not see half of it.
    begun = place.with_name(f"{place.name}.{threading.get_native_id()}")
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(place.parent.stat()):
            return
        with open(begun, "wb", opener=_private) as file:
            pickle.dump((said, settings), file)
        begun.replace(place)
    except OSError:
        with suppress(OSError):
            begun.unlink()


def _is_ours(status: os.stat_result) -> bool:
    """Tell whether nobody else can have written there: what is read runs as code, and a link there leads elsewhere."""
    return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_MAY_WRITE


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _place(said: bytes, env: Mapping[str, str]) -> Path | None:
    base, below = (env["XDG_CACHE_HOME"], "") if env.get("XDG_CACHE_HOME") else (env.get("HOME", ""), ".cache")
    if not _CODE:
        return None  # no source to be seen: an upgrade would go unnoticed
    with suppress(OSError):
        # With `sudo`, the home may be somebody else's, who could not write in what we make there.
        if base.startswith("/") and Path(base).stat().st_uid == os.geteuid():
            return Path(base, below, "prefect-slots", f"settings-{crc32(said) % FILES:x}")
    return None
