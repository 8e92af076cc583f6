"""Wake-up datagrams: they reach the one they are for, and harm nobody when they cannot."""

from __future__ import annotations

import contextlib
import resource
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.polling import until

from prefect_slots.ledger.folder import open_folder
from prefect_slots.ledger.wakeup import WakeSocket, wake


@pytest.fixture(params=["short", "long"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder whose sockets fit into AF_UNIX, and one whose path is too long for it."""
    with tempfile.TemporaryDirectory() as short:
        yield open_folder(Path(short) if request.param == "short" else tmp_path / ("x" * 120))


def received(box: WakeSocket, expected: int) -> list[str]:
    tickets: list[str] = []
    until(lambda: bool(tickets.extend(box.receive())) or len(tickets) >= expected, what=f"{expected} datagrams")
    return tickets


def test_each_is_told_of_its_own_tickets_only(folder: Path) -> None:
    one, other = WakeSocket(folder, "one"), WakeSocket(folder, "other")
    wake([(one.address, "t1"), (other.address, "t2"), (one.address, "t3")])
    assert sorted(received(one, 2)) == ["t1", "t3"]
    assert received(other, 1) == ["t2"]
    assert one.receive() == []
    one.close()
    other.close()


def test_the_kind_of_address_follows_the_length_of_the_path(folder: Path) -> None:
    box = WakeSocket(folder, "a" * 32)
    kind = "udp:" if len(str(folder)) > 67 else "unix:"
    assert box.address.startswith(kind)
    assert (folder / "wake" / ("a" * 32)).exists() == (kind == "unix:")
    box.close()
    assert list((folder / "wake").iterdir()) == []


def test_udp_listens_on_this_machine_only(tmp_path: Path) -> None:
    box = WakeSocket(open_folder(tmp_path / ("x" * 120)), "one")
    assert box.socket.getsockname()[0] == "127.0.0.1"
    box.close()


def test_an_address_nobody_listens_on_is_passed_over(folder: Path) -> None:
    gone, here = WakeSocket(folder, "gone"), WakeSocket(folder, "here")
    gone.close()
    doubtful = wake([(gone.address, "t1"), ("unix:/nowhere/at/all", "t2"), (here.address, "t3")])
    assert doubtful == ["t1", "t2", *(["t3"] if here.address.startswith("udp:") else [])]
    assert received(here, 1) == ["t3"]
    here.close()


def test_a_full_mailbox_does_not_hold_up_the_sender(folder: Path) -> None:
    busy, here = WakeSocket(folder, "busy"), WakeSocket(folder, "here")
    busy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    doubtful = wake([(busy.address, f"t{number}") for number in range(3000)])
    assert len(doubtful) == (3000 if busy.address.startswith("udp:") else 0), "a full mailbox has an owner"
    wake([(here.address, "last")])
    assert received(here, 1) == ["last"]
    busy.close()
    here.close()


def test_a_sender_out_of_descriptors_does_not_fail(folder: Path) -> None:
    box = WakeSocket(folder, "box")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[socket.socket] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (box.socket.fileno() + 20, hard))
        with contextlib.suppress(OSError):
            while True:
                taken.append(socket.socket())
        wake([(box.address, "t1")])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in taken:
            each.close()
    assert taken
    assert box.receive() == []
    box.close()


def test_a_datagram_of_a_stranger_is_only_a_word(folder: Path) -> None:
    box = WakeSocket(folder, "box")
    wake([(box.address, "\udcff".encode(errors="surrogateescape").decode("latin-1") * 200)])
    words = received(box, 1)
    assert len(words) == 1
    assert len(words[0].encode()) <= 64 * 3
    box.close()
