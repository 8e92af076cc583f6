"""Reading of settings: the file is found, read, and converted together with the variables."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from prefect_slots.errors import ConfigError
from prefect_slots.settings.convert import convert, readable
from prefect_slots.settings.schema import CONFIG_VARIABLE, Settings

# A project's own file wins over the machine's.
LOCAL_FILE = "prefect-slots.toml"
SYSTEM_FILE = Path("/etc/prefect-slots.toml")


def load_settings(
    config: Path | None = None, *, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Settings:
    """Return the settings of this process.

    Args:
        config: The file named on the command line; it must exist.
        env: The environment to read; this process's own by default. An empty variable counts as not set.
        cwd: The folder that relative paths start from; the current one by default.

    Returns:
        The settings. `worker` is `PREFECT_SLOTS_WORKER`, else the file's, else `WORKER_ID`.

    Raises:
        ConfigError: for a file that cannot be read, and for the first wrong key or value in the file or a variable.
    """
    env = os.environ if env is None else env
    path = choose_file(config, env, cwd or Path())
    raw = _read(path) if path is not None else b""
    try:
        settings = convert(path, raw, env)
    except (ValueError, RecursionError):
        # Deferred: pydantic-settings takes longer to import than all the rest of a command's start.
        from prefect_slots.settings.mistakes import check

        settings = check(path, raw, env)
    named = config is not None or bool(env.get(CONFIG_VARIABLE))
    return replace(settings, digest=digest(raw) if path is not None else "", named=named)


def load_readable(
    config: Path | None = None, *, env: Mapping[str, str] | None = None
) -> tuple[Settings, ConfigError | None]:
    """Return the settings for a command that looks or gives back: one wrong line must not keep it from the ledger.

    Returns:
        The settings and `None`, or the keys of `[settings]` that can be read and the mistake.
    """
    env = os.environ if env is None else env
    try:
        return load_settings(config, env=env), None
    except ConfigError as mistake:
        raw = b""
        with suppress(ConfigError):
            path = choose_file(config, env, Path())
            raw = _read(path) if path is not None else b""
        return Settings(**vars(readable(raw, env, mistake.line))), mistake


def digest(raw: bytes) -> str:
    """Return a digest of a file's content."""
    return hashlib.sha256(raw).hexdigest()[:16]


def choose_file(config: Path | None, env: Mapping[str, str], cwd: Path, system: Path = SYSTEM_FILE) -> Path | None:
    """Return the file to read: the named one, else the first that exists; `None` if there is none.

    Raises:
        ConfigError: if a named file does not exist. Another file in its place would run the machine on rules that
            nobody chose.
    """
    named = config, "--config"
    if config is None and env.get(CONFIG_VARIABLE):
        named = Path(env[CONFIG_VARIABLE]), CONFIG_VARIABLE
    if named[0] is not None:
        path = cwd / named[0]
        if not _exists(path):
            raise ConfigError(source=named[1], key="", reason=f"there is no file {path}")
        return path.absolute()
    return next((path.absolute() for path in (cwd / LOCAL_FILE, system) if _exists(path)), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        # A file behind a folder that we may not enter must not pass for no file: reading it then says why.
        return True


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(source=str(path), key="", reason=f"cannot be read ({error.strerror})") from None
