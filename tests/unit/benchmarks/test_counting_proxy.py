"""Requests and websocket messages counted in a stream of bytes, however it is cut into pieces."""

from __future__ import annotations

from collections import Counter

import pytest
from benchmarks.counting_proxy import EVENTS, RENEWALS, REQUESTS, Counted

BODY = b'{"names": ["GET /api/health HTTP/1.1\\r\\n\\r\\n"]}'
INCREMENT = (
    b"POST /api/v2/concurrency_limits/increment-with-lease HTTP/1.1\r\nHost: here\r\nContent-Length: "
    + str(len(BODY)).encode()
    + b"\r\n\r\n"
    + BODY
)
VERSION = b"GET /api/admin/version HTTP/1.1\r\nHost: here\r\n\r\n"
RENEW = b"POST /api/v2/concurrency_limits/leases/1/renew HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}"
UPGRADE = b"GET /api/events/in HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"
SHORT = bytes([0x81, 0x80 | 5]) + b"mask" + b"hello"
LONG = bytes([0x82, 0x80 | 126]) + (300).to_bytes(2, "big") + b"mask" + b"x" * 300
LONGER = bytes([0x82, 0x80 | 127]) + (70_000).to_bytes(8, "big") + b"mask" + b"x" * 70_000


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_requests_and_messages_are_counted(size: int) -> None:
    plain, websocket = INCREMENT + VERSION + RENEW + INCREMENT, UPGRADE + SHORT + LONG + LONGER + SHORT
    counts: Counter[str] = Counter()
    for stream in (plain, websocket):
        counted = Counted(counts)
        for start in range(0, len(stream), size):
            counted.feed(stream[start : start + size])
    assert counts == {REQUESTS: 3, RENEWALS: 1, EVENTS: 5}
