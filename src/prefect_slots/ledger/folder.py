"""The state folder of a machine's ledger: its default places, its sharing, and the reasons to refuse one.

File locks and SQLite's WAL fail in silence on file systems that several kernels share, so only local ones are trusted.
"""

import contextlib
import os
import pwd
from collections.abc import Mapping
from pathlib import Path

from prefect_slots.errors import StateFolderUnsuitable
from prefect_slots.system.mounts import LOCAL, file_system, query_mounts


def default_folders(env: Mapping[str, str], uid: int, partition: str | None = None) -> tuple[Path, ...]:
    """Return the folders to try when none is configured: one in the user's home, then a local one.

    `XDG_STATE_HOME` is not heeded: it is set in some of a user's shells and services only, and would make two ledgers.
    """
    home = env.get("HOME", "")
    if not home:
        # Services of the system often have no HOME.
        with contextlib.suppress(KeyError):
            home = pwd.getpwuid(uid).pw_dir
    # A relative path would be another folder in each working directory, and so another ledger.
    name = f"prefect-slots-{partition}" if partition else "prefect-slots"
    own = (Path(home) / ".local/state" / name,) if home.startswith("/") else ()
    return (*own, Path(f"/var/tmp/{name}-{uid}"))


def is_shared(folder: Path) -> bool:
    """Return whether several users share `folder` on purpose: it is setgid."""
    return bool(folder.stat().st_mode & 0o2000)


def share(path: Path) -> None:
    """Open a new file or folder in a shared folder to the group, against the umask: the next user needs it."""
    if is_shared(path.parent):
        # Another user may have created it; then only that user can share it.
        with contextlib.suppress(PermissionError):
            path.chmod(0o2770 if path.is_dir() else 0o660)


def open_folder(folder: Path, mounts: Mapping[str, str] | None = None, *, trusted: str | None = None) -> Path:
    """Return `folder`, resolved and made if need be (mode 0700), once it is fit to hold a ledger.

    Args:
        folder: A path; `~` is the user's home.
        mounts: The type of file system by mount point; those of this process by default.
        trusted: A type of file system that counts as local.

    Raises:
        StateFolderUnsuitable: if its file system is not known to be local, it belongs to somebody else and is not
            shared on purpose (setgid), or it cannot be written.
    """
    folder = folder.expanduser().resolve()
    # Read after `resolve`, which makes the kernel mount what is mounted at its first use.
    kind = file_system(folder, query_mounts() if mounts is None else mounts) or "unknown"
    if kind not in LOCAL and kind != trusted:
        reason = f"its file system ({kind}) is not known to be local"
        raise StateFolderUnsuitable(path=str(folder), reason=reason, file_system=kind)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A stranger's folder could be a trap: this process would write, lock and obey files that another user controls.
        owner = folder.stat().st_uid
        if owner != os.getuid() and not is_shared(folder):
            raise StateFolderUnsuitable(
                path=str(folder), reason=f"it belongs to another user (uid {owner}) and is not a shared setgid folder"
            )
        for part in ("owners", "wake"):
            (folder / part).mkdir(mode=0o700, exist_ok=True)
            share(folder / part)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StateFolderUnsuitable(path=str(folder), reason="it is not writable")
    except OSError as error:
        reason = f"it cannot be written ({error.strerror or error})"
        raise StateFolderUnsuitable(path=str(folder), reason=reason) from error
    return folder


def folder_with(
    file: str, configured: Path | None, env: Mapping[str, str], partition: str | None = None
) -> Path | None:
    """Return the first state folder that `find_folder` would try and that has `file`; nothing is created."""
    folders = (configured,) if configured is not None else default_folders(env, os.getuid(), partition)
    with contextlib.suppress(OSError):
        return next((path for path in (f.expanduser().resolve() for f in folders) if (path / file).exists()), None)
    return None


def find_folder(
    configured: Path | None, env: Mapping[str, str], *, trusted: str | None = None, partition: str | None = None
) -> Path:
    """Return the state folder: the configured one, else the first default that is fit.

    Raises:
        StateFolderUnsuitable: if the configured one, or every default, is unfit.
    """
    if configured is not None:
        return open_folder(configured, trusted=trusted)
    problems: list[StateFolderUnsuitable] = []
    for folder in default_folders(env, os.getuid(), partition):
        try:
            return open_folder(folder, trusted=trusted)
        except StateFolderUnsuitable as problem:
            problems.append(problem)
    raise problems[0]
