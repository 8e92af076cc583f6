"""The configuration file of a running worker: read again when it changes, and kept as it was while it is wrong."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

from prefect_slots.errors import ConfigError
from prefect_slots.settings import Settings, load_settings
from prefect_slots.settings.edits import edits
from prefect_slots.settings.file import choose_file
from prefect_slots.settings.schema import SettingsTable

# Settings that the refreshing itself reads; the others were given to parts that run, and to flow runs, at the start.
_LIVE = frozenset({"refresh_seconds", "detect_seconds"})


class Configuration:
    """A worker's settings, and the file that they come from.

    Attributes:
        settings: The settings in force.
        wrong: The mistake for which the file as it is now is not followed; `None` if it is.

    Args:
        settings: The settings at the start.
        env: The environment at the start; the worker changes its own later.
    """

    def __init__(self, settings: Settings, env: Mapping[str, str]) -> None:
        self.settings = settings
        self.wrong: ConfigError | None = None
        self._env = dict(env)
        self._cwd = Path.cwd()
        self._raw = self._content()

    def _path(self) -> Path | None:
        if self.settings.source != "defaults":
            return Path(self.settings.source)
        with suppress(ConfigError):
            return choose_file(None, self._env, self._cwd)
        return None

    def _content(self) -> bytes | None:
        path = self._path()
        try:
            return b"" if path is None else path.read_bytes()
        except OSError:
            return None

    def reread(self) -> list[str]:
        """Follow the file if it has changed, and return each difference in one line.

        A file that is wrong, or cannot be read, leaves all as it was; see `wrong`.
        """
        raw = self._content()
        path = self._path()
        if path is None or (raw == self._raw and self.wrong is None):
            return []
        try:
            fresh = load_settings(path, env=self._env)
        except ConfigError as mistake:
            self.wrong = mistake
            return []
        self.wrong = None
        told = [
            words + ("" if _is_live(key) else "; it counts from the next start of this worker on")
            for key, words in edits(str(path), self._raw or b"", raw or b"")
        ]
        self._raw = raw
        kept = {
            each.name: getattr(self.settings, each.name) for each in fields(SettingsTable) if each.name not in _LIVE
        }
        self.settings = replace(fresh, **kept, named=False)
        return told


def _is_live(key: str) -> bool:
    table, _, name = key.partition(".")
    return table != "settings" or name in _LIVE
