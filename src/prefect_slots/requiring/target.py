"""Settings and state folder for the calling process, read once per environment.

A test or a child that changes its environment gets what the environment then says.
"""

from __future__ import annotations

import os
from pathlib import Path

from prefect_slots.acquire.client import Target
from prefect_slots.acquire.coordination import Coordination, coordinate
from prefect_slots.ledger.folder import find_folder
from prefect_slots.settings import Settings, load_settings

_Seen = tuple[tuple[str, str], ...]
_settings: dict[_Seen, Settings] = {}
_folders: dict[tuple[int, Path | None, str, str], Path] = {}


def current_settings() -> Settings:
    """Return the settings that this process's environment means.

    Raises:
        ConfigError: if a variable or the file is wrong.
    """
    ours = sorted((key, value) for key, value in os.environ.items() if key.startswith("PREFECT_SLOTS_"))
    seen = (*ours, ("WORKER_ID", os.environ.get("WORKER_ID", "")), ("", str(Path.cwd())))
    if seen not in _settings:
        _settings.clear()
        _settings[seen] = load_settings()
    return _settings[seen]


def current_target() -> Target | None:
    """Return where requests of this process go, or `None` with `coordination=off`.

    Raises:
        ConfigError, StateFolderUnsuitable: each says what to do.
    """
    settings = current_settings()
    coordination = coordinate(settings.coordination, os.environ)
    return None if coordination.mode == "off" else target_of(settings, coordination)


def target_of(settings: Settings, coordination: Coordination) -> Target:
    """Return the target of these settings, looking for a fit folder once per process."""
    env = os.environ
    key = (os.getpid(), settings.state_dir, env.get("XDG_STATE_HOME", ""), env.get("HOME", ""))
    if key not in _folders:
        _folders[key] = find_folder(settings.state_dir, env)
    return Target(_folders[key], coordination, settings)
