"""Neighbours: other ledgers of this host that offer the same GPUs, found by notes in a folder that all users share.

Each ledger leaves a note of its GPUs in `/run/lock`, or where that is not writable for all, in `/var/tmp`. Anybody may
write there, so a note is a hint: nothing is opened, locked or obeyed but the folder that it names is looked at.
"""

import contextlib
import fcntl
import json
import os
import pwd
import stat
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from prefect_slots.model.finding import printable

# `/run/lock` is emptied at each boot and is not private to a service with PrivateTmp.
PLACES = (Path("/run/lock"), Path("/var/tmp"))
_NAME = "prefect-slots-note-"
# Room for some hundred UUIDs; a longer file is no note of ours.
_MAX_BYTES = 65536
# Strangers could fill the folder.
_MAX_NOTES = 1000
# A process locks its file right after it has made it.
_NEW_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Neighbor:
    """Another ledger of this host with some of the same GPUs.

    Attributes:
        gpus: The GPUs that both offer.
        user: The owner of its note.
    """

    ledger: str
    folder: str
    user: str
    gpus: tuple[str, ...]


def meeting_place(places: Iterable[Path] = PLACES) -> Path | None:
    """Return the first folder in which every user may write and nobody may remove the files of another."""
    for place in places:
        with contextlib.suppress(OSError):
            status = place.lstat()
            if stat.S_ISDIR(status.st_mode) and status.st_uid == 0 and status.st_mode & 0o1002 == 0o1002:
                return place
    return None


def announce(place: Path, ledger: str, folder: Path, gpus: Collection[str]) -> None:
    """Leave a note of this ledger, or renew it; a folder without room or rights is passed over."""
    note = place / f"{_NAME}{ledger}-{os.getuid()}"
    text = json.dumps({"ledger": ledger, "folder": str(folder), "gpus": sorted(gpus)})
    found = _read(note)
    if found is not None and found[0] == text:
        return
    fresh = note.with_name(f".{note.name}.{os.getpid()}")
    with contextlib.suppress(OSError):
        # A new file, so that no link of a stranger is followed.
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            fresh.rename(note)
        except OSError:
            fresh.unlink()


def neighbors(place: Path, ledger: str, gpus: Collection[str]) -> tuple[Neighbor, ...]:
    """Return the other ledgers in use that have some of `gpus`."""
    found: dict[str, Neighbor] = {}
    for uid, note in _notes(place):
        shared = tuple(sorted({*gpus} & {*note["gpus"]}))
        if shared and note["ledger"] != ledger and _is_in_use(Path(note["folder"])):
            found[note["ledger"]] = Neighbor(
                ledger=printable(note["ledger"]), folder=printable(note["folder"]), user=_user(uid), gpus=shared
            )
    return tuple(found.values())


def _notes(place: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with contextlib.suppress(OSError):
        for path in sorted(place.glob(f"{_NAME}*"))[:_MAX_NOTES]:
            found = _read(path)
            if found is None:
                continue
            text, uid = found
            with contextlib.suppress(ValueError, RecursionError):
                note = json.loads(text)
                if isinstance(note, dict) and _is_note(cast("dict[str, Any]", note)):
                    yield uid, note


def _is_note(note: dict[str, Any]) -> bool:
    texts = (note.get("ledger"), note.get("folder"))
    gpus = note.get("gpus")
    words = cast("list[object]", gpus) if isinstance(gpus, list) else [None]
    return all(isinstance(text, str) and "\0" not in text for text in texts) and all(isinstance(w, str) for w in words)


def _read(path: Path) -> tuple[str, int] | None:
    """Return a note's text and its owner; `None` for a link, a pipe, a long file or none."""
    try:
        # A pipe would keep its reader waiting.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            return None
        return os.read(descriptor, _MAX_BYTES).decode(errors="replace"), status.st_uid
    finally:
        os.close(descriptor)


def _is_in_use(folder: Path) -> bool:
    """Return whether a process uses the ledger in `folder`: one of its lock files is locked, or cannot be seen."""
    try:
        locks = list((folder / "owners").iterdir())
    except PermissionError:
        # Another user's own folder: its note is all that is known.
        return True
    except OSError:
        return False
    return any(map(_is_locked, locks))


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except PermissionError:
        return True
    except OSError:
        return False
    try:
        # Its owner may be about to lock a new file, and would fail if it were locked here.
        if time.time() - os.fstat(descriptor).st_mtime < _NEW_SECONDS:
            return True
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
