"""Coordination: a request is decided by the ledger alone, by ledger and server, or not at all.

Prefect's temporary server of a plain script is nobody's shared truth, so only a configured API URL counts.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefect_slots.errors import ConfigError


@dataclass(frozen=True)
class Coordination:
    """The mode in force; `url` is the Prefect API's address in mode `both`."""

    mode: Literal["off", "local", "both"]
    url: str | None = None


def coordinate(setting: Literal["auto", "both", "local", "off"], env: Mapping[str, str]) -> Coordination:
    """Return the mode that `setting` means for the calling context.

    Raises:
        ConfigError: for `both` without a configured API URL.
    """
    if setting in ("off", "local"):
        return Coordination(setting)
    url = api_url(env)
    if url is not None:
        return Coordination("both", url)
    # A temporary server would count this process alone, and two of them would both grant the same slots.
    if setting == "both":
        reason = '"both" needs a Prefect server; set PREFECT_API_URL, or use "local" or "auto"'
        raise ConfigError(source="settings", key="coordination", reason=reason)
    return Coordination("local")


def api_url(env: Mapping[str, str]) -> str | None:
    """Return the Prefect API URL configured for the calling context, if any.

    Importing Prefect takes seconds; it is imported only if it is loaded already or one of its files could hold the URL.
    """
    if "prefect" not in sys.modules:
        if env.get("PREFECT_API_URL"):
            return env["PREFECT_API_URL"]
        # Not by `Path`, which raises for a user without a home: then there is no such file.
        home = Path(os.path.expanduser(env.get("PREFECT_HOME") or "~/.prefect"))  # noqa: PTH111
        profiles = Path(env.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
        # The files that Prefect reads settings from, each with a word that it must hold to set the URL.
        places = {
            profiles: "PREFECT_API_URL",
            Path("prefect.toml"): "url",
            Path(".env"): "PREFECT_",
            Path("pyproject.toml"): "tool.prefect",
        }
        # A named profile may be one of Prefect's own, which stand in no file here.
        if "PREFECT_PROFILE" not in env and not any(_says(place, word) for place, word in places.items()):
            return None
    from prefect.settings import PREFECT_API_URL

    return PREFECT_API_URL.value()


def _says(place: Path, word: str) -> bool:
    try:
        return word.lower() in place.read_text(errors="replace").lower()
    except OSError:
        return False
