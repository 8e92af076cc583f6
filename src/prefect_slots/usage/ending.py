"""Ending a process that uses more than it declared: it, what it has started, and nothing else."""

from __future__ import annotations

import os
import signal

import psutil

_SAME_START_SECONDS = 0.5


def end(pid: int, started: float, *, by_force: bool) -> str:
    """Ask the process and its descendants to end, by SIGTERM or, if that was in vain, by SIGKILL.

    A process that has its number but was started at another time is somebody else's and is left alone, and so is any
    process above it: who started it, which gives the grant back, and this process itself.

    Returns:
        What was done, for people; empty if there is nothing to end any more.
    """
    try:
        root = psutil.Process(pid)
        if abs(root.create_time() - started) > _SAME_START_SECONDS or pid in (0, 1, os.getpid()):
            return ""
        family = [root, *root.children(recursive=True)]
    except psutil.Error:
        return ""
    number = signal.SIGKILL if by_force else signal.SIGTERM
    ended: list[str] = []
    for process in family:
        try:
            process.send_signal(number)
            ended.append(str(process.pid))
        except psutil.AccessDenied:
            return f"its process {process.pid} belongs to another user, who alone may end it"
        except psutil.Error:
            continue
    return f"sent {number.name} to its process {', '.join(ended)}" if ended else ""
