"""Datagrams that wake exactly the tickets that were granted.

A datagram is a hint: the woken process reads the ledger, so a lost, late or forged one does no harm. Sockets are bound
before a ticket is enqueued, in the state folder; loopback UDP serves where paths are too long for AF_UNIX or the
platform has none.
"""

import contextlib
import socket
from collections.abc import Iterable
from pathlib import Path

from prefect_slots.ledger.folder import share

# sun_path holds 108 bytes on Linux and 104 on macOS; the rest is a margin for the terminating zero.
_LONGEST_PATH = 100
# A ticket's id has 32 characters, a UUID in hexadecimal; a longer datagram is not ours and is cut off.
_TICKET_BYTES = 64


class WakeSocket:
    """The socket on which this process is woken."""

    def __init__(self, folder: Path, owner: str) -> None:
        """Bind a socket for `owner`; its `address` is stored in the ledger."""
        path = folder / "wake" / owner
        self._path: Path | None = None
        if hasattr(socket, "AF_UNIX") and len(str(path).encode()) <= _LONGEST_PATH:
            self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.socket.bind(str(path))
            share(path)
            self._path = path
            self.address = f"unix:{path}"
        else:
            self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self.socket.bind(("127.0.0.1", 0))
            self.address = f"udp:{self.socket.getsockname()[1]}"
        self.socket.setblocking(False)

    def receive(self) -> list[str]:
        """Return the tickets that were woken since the last call."""
        woken: list[str] = []
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while True:
                woken.append(self.socket.recv(_TICKET_BYTES).decode(errors="replace"))
        return woken

    def close(self) -> None:
        """Stop listening and remove the socket's file."""
        self.socket.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def wake(tickets: Iterable[tuple[str, str]]) -> list[str]:
    """Send a datagram for each `(address, ticket)`.

    Returns:
        The tickets whose owner may be dead: the address refuses, or is of a kind that reports nothing.
    """
    doubtful: list[str] = []
    for address, ticket in tickets:
        kind, _, place = address.partition(":")
        target = place if kind == "unix" else ("127.0.0.1", int(place))
        family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
        listens = kind == "unix"
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                sender.setblocking(False)
                sender.sendto(ticket.encode(), target)
        except (ConnectionRefusedError, FileNotFoundError):
            listens = False
        except OSError:
            # The waiter polls behind this, so that a full mailbox costs half a second, not the grant.
            pass
        if not listens:
            doubtful.append(ticket)
    return doubtful
