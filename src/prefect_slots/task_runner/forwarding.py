"""Events and logs of task processes, on their way to the server through the flow's process.

So one connection serves all of them, the last messages of a killed process are not lost, and no task process pays for
the server's handshake.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from prefect.context import SettingsContext
from prefect.logging import get_logger

from prefect_slots.task_runner import prefect_private

EVENT = "event"
LOG = "log"


class News:
    """The receiving end, in the flow's process.

    Attributes:
        address: Path of the socket for task processes.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="prefect-slots-")
        self.address = str(Path(self._folder) / "news")
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.address)
        # More connections than that at once wait in `connect`: a start of a process takes far longer.
        self._server.listen(128)
        self._stop, self._stopped = os.pipe()
        self._settings = SettingsContext.get()
        self._thread = threading.Thread(target=self._serve, name="prefect-slots-news", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Pass on the messages that are still under way, and end. All task processes must have ended."""
        os.close(self._stopped)
        self._thread.join()
        self._server.close()
        os.close(self._stop)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _serve(self) -> None:
        if self._settings is None:
            self._receive()
            return
        # Events and logs go to the server of the flow, which a test or a profile may have set in its context only.
        with self._settings.model_copy():
            self._receive()

    def _receive(self) -> None:
        speakers: list[Connection[Any, Any]] = []
        while True:
            ready = wait([self._server, self._stop, *speakers])
            for one in ready:
                if one is self._server:
                    speakers.append(Connection(self._server.accept()[0].detach()))
                elif isinstance(one, Connection) and not _pass_on(one):
                    one.close()
                    speakers.remove(one)
            # Only once no speaker has anything left.
            if ready == [self._stop]:
                return


def _pass_on(speaker: Connection[Any, Any]) -> bool:
    """Pass one message on; return whether more may follow."""
    try:
        kind, said = speaker.recv()
    except (EOFError, OSError):
        return False
    # One message that cannot be unpickled must not end the connection, nor the thread that serves all of them.
    except Exception as error:
        get_logger("task_runner.slot").warning("A task process said what cannot be read: %r", error)
        return True
    try:
        if kind == EVENT:
            prefect_private.EventsWorker.instance().send(said)
        elif kind == LOG:
            prefect_private.emit_api_log(said)
    except Exception as error:
        get_logger("task_runner.slot").debug("What a task process said could not be passed on: %r", error)
    return True


class Speaker:
    """The sending end, in a task process."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(address)
        self._connection: Connection[Any, Any] = Connection(self._socket.detach())
        self._lock = threading.Lock()

    def put(self, item: tuple[str, Any]) -> None:
        """Send an event or a log; it is dropped if the flow's process has closed its end."""
        with self._lock, suppress(OSError):
            self._connection.send(item)

    def log(self, payload: dict[str, Any]) -> None:
        """Send a log."""
        self.put((LOG, payload))


def speak_through(address: str) -> None:
    """Send this process's events and logs through the flow's process from now on."""
    speaker = Speaker(address)
    prefect_private.EventsWorker.set_client_override(
        prefect_private.ProcessPoolForwardingEventsClient, event_queue=speaker, item_type=EVENT
    )
    prefect_private.set_api_log_sink(speaker.log)


def flush() -> None:
    """Wait until all events and logs of this process are sent."""
    prefect_private.EventsWorker.instance().wait_until_empty()
