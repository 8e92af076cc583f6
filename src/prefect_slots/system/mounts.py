"""Mounted file systems as `/proc/self/mountinfo` lists them, and the types known to be local."""

import re
from collections.abc import Mapping
from pathlib import Path

from prefect_slots.system.sysfs import ROOT, text_of

# Files on these types take the host's memory.
IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})
# These types keep files, locks and shared memory in this kernel alone. There is no list of the others:
# new ones appear each year, and SQLite's log is corrupted on them without an error.
LOCAL = IN_MEMORY | {
    "aufs", "bcachefs", "btrfs", "ext2", "ext3", "ext4", "f2fs", "fuse.fuse-overlayfs", "jfs", "nilfs2", "overlay",
    "reiserfs", "xfs", "zfs",
}  # fmt: skip
_OCTAL = re.compile(r"\\([0-7]{3})")


def parse_mounts(text: str) -> dict[str, str]:
    """Return the file system type of each mount point in the text of `/proc/self/mountinfo`; later mounts win."""
    types: dict[str, str] = {}
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split()
        if dash and len(fields) > 4 and after.split():
            # The kernel escapes white space and backslashes only; other characters stand as they are.
            types[_OCTAL.sub(lambda code: chr(int(code[1], 8)), fields[4])] = after.split()[0]
    return types


def file_system(path: Path, mounts: Mapping[str, str]) -> str | None:
    """Return the type of the file system below `path` (absolute, resolved); `None` if no mount tells."""
    return next((mounts[str(parent)] for parent in (path, *path.parents) if str(parent) in mounts), None)


def query_mounts(root: Path = ROOT) -> dict[str, str]:
    """Return this process's mounts; empty where the system does not tell."""
    return parse_mounts(text_of(root / "proc/self/mountinfo"))
