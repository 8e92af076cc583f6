"""Any machine that NVML could tell of: both doubles tell the same of it, and what is true of every machine is true."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pynvml
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.nvml_stub.battery import OWN, foreign, judged, laws
from tests.support.nvml_stub.double import NvmlDouble
from tests.support.nvml_stub.library import environment
from tests.support.nvml_stub.machines import GIB, MIB, UNTOLD, FakeDevice, FakeProcess, Machine, Observed

from prefect_slots.detect.gpu.nvidia import query_nvml
from prefect_slots.detect.gpu.usage import query_use

CALLS = ["handle", "uuid", "name", "v1", "v2", "mode", "mig", "slots", "ids", "processes", "graphics", "virtualization"]
CODES = st.just(0) | st.sampled_from([0, 0, 3, 4, 6, 13, 15, 18, 25, 999])
PROCESSES = st.lists(
    st.builds(
        FakeProcess,
        pid=st.sampled_from([OWN, 7, 8]),
        memory=st.integers(0, GIB) | st.just(UNTOLD),
        kind=st.sampled_from(["compute", "graphics", "mps"]),
    ),
    max_size=4,
).map(tuple)

# Reads one machine after the other, each written as its length in one line and its text.
CHILD = """
import os, pickle, sys
from prefect_slots.detect.gpu.nvidia import query_nvml
from prefect_slots.detect.gpu.usage import query_use
while line := sys.stdin.buffer.readline():
    os.environ["NVML_STUB"] = sys.stdin.buffer.read(int(line)).decode()
    answer = pickle.dumps((query_nvml(), query_use()))
    sys.stdout.buffer.write(b"%d\\n" % len(answer) + answer)
    sys.stdout.buffer.flush()
"""


@st.composite
def devices(draw: st.DrawFn, uuid: str, slot: int | None = None) -> FakeDevice:
    total = draw(st.sampled_from([0, MIB, 5 * GIB, 80 * GIB]))
    reserved = draw(st.integers(0, total))
    mig = 0 if slot is not None else draw(st.integers(0, 1))
    inside = draw(st.sets(st.integers(0, 6), max_size=3)) if mig else set[int]()
    device = FakeDevice(
        uuid=uuid,
        slot=slot or 0,
        total=total,
        reserved=reserved,
        used=draw(st.integers(0, total - reserved)),
        mode=draw(st.sampled_from([0, 0, 2, 3])),
        mig=mig,
        pending=draw(st.integers(0, 1)),
        slots=7,
        virtualization=draw(st.integers(0, 4)),
        processes=draw(PROCESSES),
        instances=tuple(draw(devices(f"MIG-{uuid}-{place}", place)) for place in sorted(inside)),
    )
    return replace(device, **{f"{name}_error": code for name in CALLS if (code := draw(CODES))})


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    cards = tuple(draw(devices(f"GPU-{number}")) for number in range(draw(st.integers(0, 3))))
    return Machine(cards=cards, init=draw(CODES), count=draw(CODES), old=draw(st.booleans()))


def over_double(machine: Machine) -> Observed:
    with pytest.MonkeyPatch.context() as patch:
        library = NvmlDouble(machine)
        patch.setattr(pynvml, "nvmlLib", library)
        patch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
        observed = Observed(query_nvml(), query_use())
    assert library.initialized == 0, "the library was left initialised"
    return observed


class Reader:
    """A process over the C library that reads one machine after the other."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def read(self, machine: Machine) -> Observed:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        text = machine.text().encode()
        self._process.stdin.write(b"%d\n" % len(text) + text)
        self._process.stdin.flush()
        return Observed(*pickle.loads(self._process.stdout.read(int(self._process.stdout.readline()))))


@contextmanager
def reading(env: dict[str, str]) -> Generator[Reader]:
    command = [sys.executable, "-c", CHILD]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield Reader(process)
        finally:
            process.kill()


@pytest.fixture(scope="module")
def readers(nvml_library: Path) -> Generator[dict[bool, Reader]]:
    """A process over the library of a present driver, and one over an old one's."""
    ages = [environment(nvml_library, Machine(old=old)) for old in (False, True)]
    with reading(ages[0]) as new, reading(ages[1]) as old:
        yield {False: new, True: old}


@settings(deadline=None)
@given(machine=machines())
def test_of_any_machine_the_laws_are_true_and_nothing_is_raised(machine: Machine):
    observed = over_double(machine)
    laws(observed)
    told = {finding.subject for finding in judged(observed).findings}
    for number, card in enumerate(observed.cards.gpus):
        assert card.failure is None or {card.uuid, f"card {number}"} & told, "a card fails and nobody is told"
    for key, mib in foreign(observed).items():
        assert mib is None or mib >= 0, f"others use {mib} of {key}"


@settings(deadline=None)
@given(machine=machines())
def test_both_doubles_tell_the_same_of_any_machine(readers: dict[bool, Reader], machine: Machine):
    assert readers[machine.old].read(machine) == over_double(machine)
