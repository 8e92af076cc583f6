"""How each vendor's program is called, through a real one that writes down what it was given."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, get_args

import pytest

from prefect_slots.detect.licenses.client import Question, query_server
from prefect_slots.detect.licenses.vendors import VENDORS
from prefect_slots.settings.schema import LicenseTable

if TYPE_CHECKING:
    from tests.unit.detect.licenses.conftest import MakeTool

CALLS = {
    "flexnet": (["lmstat", "-c", "4000@lic-a", "-f", "aa"], ""),
    "rlm": (["rlmstat", "-a", "-c", "4000@lic-a"], ""),
    "lmx": (["-licstat", "-host", "lic-a", "-port", "4000"], ""),
    "lsdyna": (["-s", "4000@lic-a", "-R"], ""),
    "dsls": (["-admin"], "connect lic-a 4000\ngetLicenseUsage -csv\nquit\n"),
    "olicense": (["-sv", "lic-a:4000"], ""),
    "sentinel": (["lic-a"], ""),
}


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_a_vendors_program_is_told_the_server_and_what_it_says_is_read(tool: MakeTool, vendor: str):
    fake = tool(text="Zaphod\n")
    asked = Question(vendor=vendor, server="4000@lic-a", command=fake.command, features=("aa",))
    reading = query_server(asked, os.environ)
    (begun,) = fake.noted("begins")
    assert (begun["arguments"], begun["stdin"]) == CALLS[vendor]
    assert begun["port"] == ("4000" if vendor == "sentinel" else None)
    assert (reading.features, reading.failure) == ((), "its output was not understood")


def test_every_type_that_may_be_written_is_a_vendor():
    types = {word for kind in get_args(LicenseTable.__dataclass_fields__["type"].type) for word in get_args(kind)}
    assert types == set(VENDORS)
