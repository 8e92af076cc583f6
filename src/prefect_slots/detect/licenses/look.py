"""The probe of licence servers: ask those that are configured, and judge what they tell."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from datetime import date

import psutil

from prefect_slots.detect.answer import Answer
from prefect_slots.detect.licenses.client import Desk, questions
from prefect_slots.detect.licenses.seats import Here, identities, interpret_seats
from prefect_slots.model.declaration import LicenseServer


def look_at_licences(servers: Sequence[LicenseServer], env: Mapping[str, str], desk: Desk) -> Answer:
    """Return the seats that the servers count. Takes as long as the slowest of them, its time limit at most."""
    asked = questions(servers)
    readings = desk.ask_all(tuple(asked), env)
    tables = [(table, reading) for tables, reading in zip(asked.values(), readings, strict=True) for table in tables]
    return interpret_seats(tables, query_here(), date.today())


def query_here() -> Here:
    """Return what means this machine to a licence server."""
    # Not the full name: asking for it waits for a name server that may be away.
    names = (socket.gethostname(),)
    cards = (
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family == psutil.AF_LINK
    )
    return identities(names, cards)
