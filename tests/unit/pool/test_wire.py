"""Messages: any value arrives as it left, large parts in memory of their own, and the end of the stream is seen."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefect_slots.pool import wire
from prefect_slots.pool.wire import LARGE_BYTES, Kind, Wire, pack, unpack


@pytest.fixture
def ends() -> Iterator[tuple[Wire, Wire]]:
    one, other = (Wire(end) for end in socket.socketpair())
    yield one, other
    one.close()
    other.close()


def sent(ends: tuple[Wire, Wire], *values: object) -> list[object]:
    """Send values in a row and return what arrives."""
    sender = threading.Thread(target=lambda: [ends[0].send(Kind.DONE, pack(value)) for value in values])
    sender.start()
    arrived = [ends[1].receive() for _ in values]
    sender.join()
    assert {kind for kind, _ in arrived} <= {Kind.DONE}
    return [unpack(packed) for _, packed in arrived]


SIZES = st.sampled_from([0, 1, LARGE_BYTES - 1, LARGE_BYTES, LARGE_BYTES + 1, 3 * LARGE_BYTES + 7])
VALUES = st.one_of(
    st.recursive(st.one_of(st.integers(), st.text(), st.none()), lambda inner: st.lists(inner, max_size=4)),
    SIZES.map(bytes),
    SIZES.map(bytearray),
)


@given(st.lists(st.one_of(VALUES, st.lists(VALUES, max_size=3)), max_size=5))
def test_messages_arrive_as_they_left_and_in_order(values: list[object]) -> None:
    one, other = (Wire(end) for end in socket.socketpair())
    assert sent((one, other), *values) == values
    assert not other.has_more
    one.close()
    with pytest.raises(EOFError):
        other.receive()
    other.close()


def test_large_arrays_are_neither_pickled_nor_copied_by_the_receiver(ends: tuple[Wire, Wire]) -> None:
    array = np.arange(300_000.0)
    table = np.ones((200, 300), order="F")
    frozen = np.zeros(100_000)
    frozen.flags.writeable = False
    packed = pack([array, table, frozen, array[::2]])
    assert len(packed.body) < 2 * array.nbytes
    assert np.shares_memory(np.frombuffer(packed.buffers[0]), array)
    ((got, got_table, got_frozen, strided),) = sent(ends, [array, table, frozen, array[::2]])  # pyright: ignore
    np.testing.assert_array_equal(got, array)
    np.testing.assert_array_equal(got_table, table)
    np.testing.assert_array_equal(strided, array[::2])
    assert got_table.flags.f_contiguous
    got[0] = 7.0
    assert array[0] == 0.0
    assert got.base is not None
    assert not got_frozen.flags.writeable


def test_more_arrays_than_files_may_be_open(ends: tuple[Wire, Wire], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_MAPPED_AT_MOST", 3)
    before = len(list(Path("/proc/self/fd").iterdir()))
    kept = sent(ends, *(bytearray([n] * LARGE_BYTES) for n in range(20)))
    assert kept == [bytearray([n] * LARGE_BYTES) for n in range(20)]
    arrays = sent(ends, *(np.full(LARGE_BYTES, n) for n in range(20)))
    assert [array[-1] for array in arrays] == list(range(20))  # pyright: ignore
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 3


def test_a_large_body_is_read_whole(ends: tuple[Wire, Wire]) -> None:
    assert sent(ends, b"x" * 5_000_000, "next") == [b"x" * 5_000_000, "next"]


def test_an_end_that_was_closed_is_told(ends: tuple[Wire, Wire]) -> None:
    one, other = ends
    other.close()
    with pytest.raises(BrokenPipeError):
        one.send(Kind.CALL, pack(1))
    with pytest.raises(EOFError):
        one.receive()


def test_what_the_other_side_cannot_look_up_goes_by_value() -> None:
    by_reference, by_value = pack(os.path.join), pack(lambda: 1)
    assert pickle.loads(by_reference.body) is os.path.join
    assert len(by_value.body) > len(by_reference.body)
    assert unpack(by_value)() == 1
