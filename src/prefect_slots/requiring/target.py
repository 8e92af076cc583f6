"""The target of this process's requests: its settings and state folder, read once per environment.

A changed environment, as in a test or a child process, is read anew.
"""

import os
from pathlib import Path

from prefect_slots.acquire.client import Target
from prefect_slots.acquire.coordination import Coordination, coordinate
from prefect_slots.ledger.folder import find_folder
from prefect_slots.settings import Settings, load_settings

_Seen = tuple[tuple[str, str], ...]
_settings: dict[_Seen, Settings] = {}
_folders: dict[tuple[int, Path | None, str | None, str | None, str | None], Path] = {}


def current_settings() -> Settings:
    """Return the settings of this process's environment.

    Raises:
        ConfigError: if a variable or the file is wrong.
    """
    # The working folder may hold a `prefect-slots.toml`, so that it is part of the environment too.
    ours = sorted((key, value) for key, value in os.environ.items() if key.startswith("PREFECT_SLOTS_"))
    seen = (*ours, ("WORKER_ID", os.environ.get("WORKER_ID", "")), ("", str(Path.cwd())))
    if seen not in _settings:
        # Only the last environment is kept: a process that changes it in a loop must not grow.
        _settings.clear()
        _settings[seen] = load_settings()
    return _settings[seen]


def current_target() -> Target | None:
    """Return the target of this process's requests, or `None` with `coordination=off`.

    Raises:
        ConfigError, StateFolderUnsuitable: the settings or the folder cannot be used; each names the remedy.
    """
    settings = current_settings()
    coordination = coordinate(settings.coordination, os.environ)
    return None if coordination.mode == "off" else target_of(settings, coordination)


def target_of(settings: Settings, coordination: Coordination) -> Target:
    """Return the target of these settings, looking for a fit folder once per process."""
    env = os.environ
    # A forked child looks again: its user and rights may have changed since.
    key = (os.getpid(), settings.state_dir, settings.trust_file_system, settings.partition, env.get("HOME"))
    if key not in _folders:
        _folders[key] = find_folder(
            settings.state_dir, env, trusted=settings.trust_file_system, partition=settings.partition
        )
    return Target(_folders[key], coordination, settings)
