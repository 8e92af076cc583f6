"""Which local folder holds a machine's ledger, and why another folder cannot.

File locks and SQLite's WAL lie on network file systems, so a ledger there could over-commit a machine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from prefect_slots.errors import StateFolderUnsuitable

_NETWORK: Final = frozenset({
    "nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "ncpfs", "afs", "coda", "9p", "ceph", "fuse.ceph",
    "glusterfs", "fuse.glusterfs", "fuse.sshfs", "sshfs", "lustre", "gpfs", "beegfs", "pvfs2", "orangefs", "ocfs2",
    "gfs2", "panfs", "wekafs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "davfs", "fuse.davfs2",
})  # fmt: skip


def parse_mounts(text: str) -> dict[str, str]:
    """Return the file system type of each mount point in the text of `/proc/self/mountinfo`; later mounts win."""
    types: dict[str, str] = {}
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split()
        if dash and len(fields) > 4 and after.split():
            types[fields[4].encode().decode("unicode_escape")] = after.split()[0]
    return types


def file_system(path: Path, mounts: Mapping[str, str]) -> str | None:
    """Return the type of the file system that `path` (absolute, resolved) lies on, if the mounts tell."""
    for parent in (path, *path.parents):
        if str(parent) in mounts:
            return mounts[str(parent)]
    return None


def read_mounts() -> dict[str, str]:
    """Return this process's mounts, or nothing where the system does not tell."""
    try:
        return parse_mounts(Path("/proc/self/mountinfo").read_text(errors="replace"))
    except OSError:
        return {}


def default_folders(env: Mapping[str, str], uid: int) -> tuple[Path, ...]:
    """Return the folders to try when none is configured: the user's state folder, then a local one."""
    home = env.get("XDG_STATE_HOME") or (f"{env['HOME']}/.local/state" if env.get("HOME") else "")
    own = (Path(home) / "prefect-slots",) if home.startswith("/") else ()
    return (*own, Path(f"/var/tmp/prefect-slots-{uid}"))


def open_folder(folder: Path, mounts: Mapping[str, str]) -> Path:
    """Return `folder`, resolved and made if need be (mode 0700), once it is fit to hold a ledger.

    Raises:
        StateFolderUnsuitable: if it is on a network file system, belongs to somebody else and is not shared on
            purpose (setgid), or cannot be written.
    """
    folder = folder.expanduser().resolve()
    kind = file_system(folder, mounts)
    if kind in _NETWORK:
        raise StateFolderUnsuitable(
            path=str(folder), reason=f"it is on a network file system ({kind}), where file locks cannot be trusted"
        )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner, mode = folder.stat().st_uid, folder.stat().st_mode
        shared = bool(mode & 0o2000)
        if owner != os.getuid() and not shared:
            raise StateFolderUnsuitable(
                path=str(folder), reason=f"it belongs to another user (uid {owner}) and is not a shared setgid folder"
            )
        for part in ("owners", "wake"):
            (folder / part).mkdir(mode=0o2770 if shared else 0o700, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StateFolderUnsuitable(path=str(folder), reason="it is not writable")
    except OSError as error:
        reason = f"it cannot be written ({error.strerror or error})"
        raise StateFolderUnsuitable(path=str(folder), reason=reason) from error
    return folder


def find_folder(configured: Path | None, env: Mapping[str, str]) -> Path:
    """Return the state folder: the configured one, else the first default that is fit.

    Raises:
        StateFolderUnsuitable: if the configured one, or every default, is unfit.
    """
    mounts = read_mounts()
    if configured is not None:
        return open_folder(configured, mounts)
    problems: list[StateFolderUnsuitable] = []
    for folder in default_folders(env, os.getuid()):
        try:
            return open_folder(folder, mounts)
        except StateFolderUnsuitable as problem:
            problems.append(problem)
    raise problems[0]
