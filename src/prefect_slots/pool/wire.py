"""Messages between the pool and a task process: pickles, with their large parts in shared memory beside them.

A large part is written once, into a file without a name that the receiver maps: a killed process leaves nothing of it
behind. Little of the standard library is imported here (no `dataclasses`, which import `inspect`), because every task
process pays for it.
"""

import mmap
import os
import pickle
import socket
import struct
import sys
import threading
from array import array
from collections import deque
from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple
from weakref import WeakSet

# Below, a copy through the socket costs less than a file, its descriptor and a mapping.
LARGE_BYTES = 64 * 1024
# Kind, number of large parts, size of the pickle in bytes.
_HEADER = struct.Struct("<BIQ")
# One read takes most messages whole.
_READ_BYTES = 64 * 1024
# A cache line, and the alignment that vector instructions ask of arrays.
_ALIGNED = 64
# Before Python 3.13 every mapping keeps a file open, and the usual limit is 1,024 open files.
_MAPPED_AT_MOST = 128
_FD = array("i", [0]).itemsize


class Kind(IntEnum):
    """The kind of a message."""

    CALL = 1
    GRANT = 2
    DONE = 3
    FAILED = 4
    SUBMIT = 5
    CANCEL = 6
    CANCELLED = 7


class Packed(NamedTuple):
    """A pickled value; `buffers` are its large parts, neither copied nor pickled."""

    body: bytes | bytearray
    buffers: Sequence[memoryview] = ()


def pack(value: object) -> Packed:
    """Pickle a value by reference where the other side can look it up, else by value.

    Raises:
        Exception: any error of the value's own way of being pickled.
    """
    parts: list[memoryview] = []

    def is_small(part: pickle.PickleBuffer) -> bool:
        try:
            raw = part.raw()
        except BufferError:
            return True
        if raw.nbytes >= LARGE_BYTES:
            parts.append(raw)
        return raw.nbytes < LARGE_BYTES

    # The other process has a `__main__` of its own: a name of this one's would mean something else or nothing there.
    try:
        body = pickle.dumps(value, 5, buffer_callback=is_small)
        if b"__main__" not in body and not _has_modules_by_value():
            return Packed(body, parts)
    except Exception:
        pass
    from prefect_slots.pool import by_value

    parts.clear()
    return Packed(by_value.dumps(value, is_small), parts)


def _has_modules_by_value() -> bool:
    loaded = sys.modules.get("cloudpickle")
    return loaded is not None and bool(loaded.list_registry_pickle_by_value())


def unpack(packed: Packed) -> Any:
    """Return the value; its large parts stay in the memory in which they came."""
    return pickle.loads(packed.body, buffers=packed.buffers)


class Wire:
    """One end of a connection; any thread may send, one receives."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._data = b""
        self._at = 0
        self._files: deque[int] = deque()
        self._sending = threading.Lock()

    def fileno(self) -> int:
        """Return the descriptor, for polling."""
        return self._socket.fileno()

    @property
    def has_more(self) -> bool:
        """True if a part of a further message was received already: polling does not see it."""
        return self._at < len(self._data)

    def close(self) -> None:
        """Close this end; the other one sees the end of the stream."""
        self._socket.close()
        while self._files:
            os.close(self._files.popleft())

    def send(self, kind: Kind, packed: Packed) -> None:
        """Send a message.

        Raises:
            OSError: if the other end is closed.
        """
        sizes = struct.pack(f"<{len(packed.buffers)}Q", *(part.nbytes for part in packed.buffers))
        head = _HEADER.pack(kind, len(packed.buffers), len(packed.body)) + sizes
        if packed.buffers:
            # The descriptor travels with the first byte, so that the receiver has it before it needs it.
            with _laid_out(packed.buffers) as file, self._sending:
                socket.send_fds(self._socket, [head[:1]], [file.fileno()])
                self._send(head[1:], packed.body)
        else:
            with self._sending:
                self._send(head, packed.body)

    def _send(self, head: bytes, body: bytes | bytearray) -> None:
        # One system call where the copy of the body is cheaper than a second one.
        if len(body) <= _READ_BYTES:
            self._socket.sendall(head + body)
        else:
            self._socket.sendall(head)
            self._socket.sendall(body)

    def receive(self) -> tuple[Kind, Packed]:
        """Return the next message.

        Raises:
            EOFError: if the other end is closed.
        """
        kind, count, length = _HEADER.unpack(self._take(_HEADER.size))
        sizes: tuple[int, ...] = struct.unpack(f"<{count}Q", self._take(8 * count)) if count else ()
        body = self._take(length)
        return Kind(kind), Packed(body, _mapped(self._files.popleft(), sizes) if count else ())

    def _take(self, size: int) -> bytes | bytearray:
        here = len(self._data) - self._at
        if size - here > _READ_BYTES:
            return self._take_large(size)
        while here < size:
            data = self._read()
            self._data, self._at = self._data[self._at :] + data, 0
            here = len(self._data)
        taken = self._data[self._at : self._at + size]
        self._at += size
        return taken

    def _take_large(self, size: int) -> bytearray:
        # Each small piece added to the rest would copy the whole again.
        taken = bytearray(size)
        view = memoryview(taken)
        at = len(self._data) - self._at
        view[:at] = self._data[self._at :]
        self._data, self._at = b"", 0
        while at < size:
            read = self._socket.recv_into(view[at:])
            if not read:
                raise EOFError
            at += read
        return taken

    def _read(self) -> bytes:
        try:
            data, beside, _, _ = self._socket.recvmsg(_READ_BYTES, socket.CMSG_SPACE(4 * _FD))
        except ConnectionError:
            raise EOFError from None
        for level, kind, content in beside:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                files = array("i")
                files.frombytes(content[: len(content) - len(content) % _FD])
                self._files.extend(files)
        if not data:
            raise EOFError
        return data


def _offsets(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Return the offset of each part, and the end of the last one."""
    offsets: list[int] = []
    end = 0
    for size in sizes:
        offsets.append(-(-end // _ALIGNED) * _ALIGNED)
        end = offsets[-1] + size
    return offsets, end


def _laid_out(parts: Sequence[memoryview]) -> Any:
    """Return a file without a name that holds the parts."""
    if hasattr(os, "memfd_create"):
        file = os.fdopen(os.memfd_create("prefect-slots", os.MFD_CLOEXEC), "w+b", buffering=0)
    else:
        import tempfile

        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - the caller closes it
    offsets, _ = _offsets([part.nbytes for part in parts])
    for offset, part in zip(offsets, parts, strict=True):
        done = 0
        while done < part.nbytes:
            done += os.pwrite(file.fileno(), part[done:], offset + done)
    return file


# Mappings in use: each lives as long as an array of a user's on it.
_mappings: WeakSet[mmap.mmap] = WeakSet()


def _mapped(file: int, sizes: Sequence[int]) -> list[memoryview]:
    offsets, end = _offsets(sizes)
    try:
        if len(_mappings) < _MAPPED_AT_MOST:
            mapping = mmap.mmap(file, end)
            _mappings.add(mapping)
            memory = memoryview(mapping)
        else:
            memory = memoryview(bytearray(end))
            done = 0
            while done < end:
                done += os.preadv(file, [memory[done:]], done)
    finally:
        os.close(file)
    return [memory[offset : offset + size] for offset, size in zip(offsets, sizes, strict=True)]
